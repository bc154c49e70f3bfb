"""A TES server as the compliance suite meets one: an address and a prefix."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import httpx
import jsonschema_rs
import pytest
import yaml

from tests.e2e.conftest import Stacks, quick, stacks
from tests.e2e.stack import ENDS, Json, Stack
from tests.pulsars import until

__all__ = ["quick", "stacks"]

PREFIXES: Final = ("/ga4gh/tes/v1", "/v1")
STANDARD: Final = Path(__file__).parents[1] / "api" / "task_execution_service.openapi.yaml"


@cache
def schema(component: str) -> Any:
    """Return what validates a component of the standard's own document."""
    components = yaml.safe_load(STANDARD.read_text())["components"]
    whole = {"$ref": f"#/components/schemas/{component}", "components": components}
    # YAML has dates among its examples, JSON has not.
    return jsonschema_rs.Draft202012Validator(json.loads(json.dumps(whole, default=str)))


class Tes:
    """Asks, wants 200, and holds every answer against the standard."""

    def __init__(self, base: str) -> None:
        self._http = httpx.Client(base_url=base, timeout=30)

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, component: str, **more: Any) -> Json:
        answer = self._http.request(method, path, **more)
        assert answer.status_code == 200, answer.text
        document: Json = answer.json()
        schema(component).validate(document)
        return document

    def refused(self, task: Mapping[str, Any]) -> int:
        return self._http.post("/tasks", json=task).status_code

    def service_info(self) -> Json:
        return self.ask("GET", "/service-info", "tesServiceInfo")

    def create(self, task: Mapping[str, Any]) -> str:
        return str(self.ask("POST", "/tasks", "tesCreateTaskResponse", json=task)["id"])

    def get(self, task_id: str, view: str) -> Json:
        # A minimal task lacks `executors`, which the standard's one schema for all views requires.
        component = "tesCancelTaskResponse" if view == "MINIMAL" else "tesTask"
        return self.ask("GET", f"/tasks/{task_id}", component, params={"view": view})

    def list(self, **query: Any) -> Json:
        listed = self.ask("GET", "/tasks", "tesCancelTaskResponse", params=query)
        if query.get("view", "MINIMAL") != "MINIMAL":
            schema("tesListTasksResponse").validate(listed)
        return listed

    def cancel(self, task_id: str) -> Json:
        return self.ask("POST", f"/tasks/{task_id}:cancel", "tesCancelTaskResponse", json={})

    def wait(self, task_id: str, states: frozenset[str] = ENDS, view: str = "MINIMAL") -> Json:
        """Poll as the suite does, until the task is in one of `states`."""

        def state() -> str:
            return str(self.get(task_id, "MINIMAL")["state"])

        until(lambda: state() in states, 60, lambda: f"{task_id} is {state()}", pause_s=0.1)
        return self.get(task_id, view)


MakeTes = Callable[[Stack, str], Tes]


@pytest.fixture
def make_tes(request: pytest.FixtureRequest) -> MakeTes:
    def make(stack: Stack, prefix: str) -> Tes:
        tes = Tes(stack.api.base + prefix)
        request.addfinalizer(tes.close)
        return tes

    return make


@pytest.fixture(params=PREFIXES)
def tes(request: pytest.FixtureRequest, quick: Stack, make_tes: MakeTes) -> Tes:
    """The server whose engine starts fastest, under both prefixes."""
    return make_tes(quick, request.param)


@pytest.fixture(params=[("quick", PREFIXES[0]), ("quick", PREFIXES[1]), ("docker", PREFIXES[0])])
def running_tes(request: pytest.FixtureRequest, stacks: Stacks, make_tes: MakeTes) -> Tes:
    """For what is about execution: with real containers too."""
    engine, prefix = request.param
    stack = request.getfixturevalue("quick") if engine == "quick" else stacks(engine)
    return make_tes(stack, prefix)
