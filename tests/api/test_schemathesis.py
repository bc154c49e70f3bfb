"""Schemathesis against the document as it is served: every check of it, valid and invalid requests.

In-process, over the embedded store; nothing drives the tasks. TESP_TEST_EXAMPLES says how many
examples an operation gets; the full measure is

    TESP_TEST_EXAMPLES=200 make test PYTEST=tests/api/test_schemathesis.py
"""

import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from fastapi import FastAPI
from schemathesis import Case, HookContext, hook, hooks, openapi
from schemathesis.config import ChecksConfig, SchemathesisConfig
from schemathesis.engine import Status, events, from_schema
from schemathesis.python.asgi import shutdown_lifespans

from tesp_api.api.app import create_app
from tesp_api.api.pages import PageTokens
from tesp_api.auth import Authenticator, BasicAuthentication, NoAuthentication
from tesp_api.clock import SystemClock
from tesp_api.domain.rules import Policy
from tesp_api.readiness import Readiness
from tesp_api.service import Service
from tesp_api.storage import FileScheme, HttpScheme, Root, S3Scheme, UrlStorage
from tesp_api.store.sqlite import SqliteStore
from tesp_api.tesp_api import new_task_id
from tests.api.conftest import INFO, PREFIXES
from tests.api.lawful import lawful_query, lawful_task
from tests.api.memory import Listener

EXAMPLES: Final = int(os.environ.get("TESP_TEST_EXAMPLES", "10"))
PAGE_KEY: Final = b"k"
BASIC: Final = ("fuzz", "machine")
OPERATIONS: Final = frozenset(
    {
        "GET /service-info",
        "GET /tasks",
        "POST /tasks",
        "GET /tasks/{id}",
        "POST /tasks/{id}:cancel",
    }
)

PHASES: Final = frozenset({"examples", "coverage", "fuzzing", "stateful"})
CHECKS: Final = frozenset(
    {
        "allow_header_conformance",
        "content_type_conformance",
        "ensure_resource_availability",
        "ignored_auth",
        "missing_required_header",
        "negative_data_rejection",
        "not_a_server_error",
        "object_level_authorization",
        "positive_data_acceptance",
        "response_headers_conformance",
        "response_schema_conformance",
        "status_code_conformance",
        "unsupported_method",
        "use_after_free",
    }
)
"""All that there are, but the one for a longest time, which wants a number."""


def make_app(directory: Path, authenticator: Authenticator) -> FastAPI:
    store = SqliteStore(directory / "tasks.sqlite", synchronous="NORMAL")
    storage = UrlStorage(HttpScheme(), FileScheme([Root(path="/shared")]), S3Scheme())
    service = Service(
        store=store,
        dispatch=Listener(),
        clock=SystemClock(),
        policy=Policy(refusal=storage.refusal, backend_parameters=frozenset({"vmsize"})),
        new_id=new_task_id,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await store.open()
        yield
        await store.close()

    ready = Readiness({}, SystemClock())
    return create_app(service, authenticator, INFO, ready, lifespan=lifespan, page_key=PAGE_KEY)


@dataclass
class Findings:
    """What the engine told: failed checks, errors of its own, and how much it did."""

    problems: list[str] = field(default_factory=list)
    cases: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    phases: dict[str, Status] = field(default_factory=dict)

    def judge(self) -> None:
        assert not self.problems, "\n\n".join(dict.fromkeys(self.problems))
        assert set(self.checks) == CHECKS
        assert set(self.cases) >= OPERATIONS
        assert self.phases.keys() >= PHASES
        assert set(self.phases.values()) == {Status.SUCCESS}

    def hear(self, event: events.EngineEvent) -> None:
        match event:
            case events.ScenarioFinished():
                self._count(event)
            case events.PhaseFinished():
                self.phases[event.phase.name.value] = event.status
            case events.NonFatalError():
                self.problems.append(f"{event.label}: {event.value!r}")
            case events.FatalError():
                raise event.exception

    def _count(self, event: events.ScenarioFinished) -> None:
        recorder = event.recorder
        self.cases[recorder.label] += len(recorder.cases)
        for case_id, checks in recorder.checks.items():
            for check in checks:
                self.checks[check.name] += 1
                if check.failure_info is not None:
                    failure = check.failure_info
                    request = recorder.cases[case_id].value.as_curl_command()
                    self.problems.append(f"{check.name}: {failure.failure}\n{request}")


def keep_the_rules(_context: HookContext, case: Case, _kwargs: dict[str, Any]) -> None:
    """Make a request lawful that is to be accepted; what is to be refused stays as it is."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return
    if isinstance(case.body, dict):
        case.body = lawful_task(case.body)
    if case.query:
        case.query = lawful_query(case.query, PageTokens(PAGE_KEY))


def configuration(prefix: str) -> SchemathesisConfig:
    config = SchemathesisConfig(seed=1 if "CI" in os.environ else None)
    project = config.projects.default
    project.base_url = f"http://testserver{prefix}"
    project.generation.max_examples = EXAMPLES
    project.generation.deterministic = "CI" in os.environ
    project.continue_on_failure = True
    project.checks = ChecksConfig()
    return config


def hunt(app: FastAPI, config: SchemathesisConfig) -> Findings:
    findings = Findings()
    schema = openapi.from_asgi("/openapi.json", app, config=config)
    for event in from_schema(schema).execute():
        findings.hear(event)
    return findings


@pytest.fixture(autouse=True)
def _global_state() -> Iterator[None]:
    """Take back what is the process's and not the schema's."""
    hook("before_call")(keep_the_rules)
    yield
    hooks.unregister(keep_the_rules)
    shutdown_lifespans()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_schemathesis_finds_nothing(tmp_path: Path, prefix: str) -> None:
    findings = hunt(make_app(tmp_path, NoAuthentication()), configuration(prefix))

    findings.judge()


def test_schemathesis_finds_nothing_where_one_must_log_in(tmp_path: Path) -> None:
    config = configuration(PREFIXES[0])
    config.projects.default.auth.basic = BASIC
    # The session's credentials go into every request but those of the check `ignored_auth`: a
    # generated lack of them would be none.
    config.projects.default.generation.with_security_parameters = False

    findings = hunt(make_app(tmp_path, BasicAuthentication(*BASIC)), config)

    findings.judge()
