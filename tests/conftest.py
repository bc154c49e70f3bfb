"""For all tests: the components' addresses, an environment without settings, an honest end."""

import os
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest
from _pytest.terminal import TerminalReporter
from hypothesis import settings

from tests import needs

COMPONENTS: Final = Path("/var/lib/tesp-test/components.env")
"""Where .ci/provision leaves the addresses; TESP_TEST_COMPONENTS names another file."""

STASH: Final = pytest.StashKey[list[str]]()

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)


def pytest_configure(config: pytest.Config) -> None:
    """Before any fixture: those of the session start servers that inherit the environment."""
    config.stash[STASH] = []
    for name in [name for name in os.environ if _is_setting(name)]:
        del os.environ[name]
    for name, value in _components().items():
        os.environ.setdefault(name, value)
    settings.load_profile("ci" if needs.required() or "CI" in os.environ else "here")


def pytest_deselected(items: list[pytest.Item]) -> None:
    if items:
        items[0].config.stash[STASH].extend(item.nodeid for item in items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where all is required, a run that left something out did not succeed."""
    alone = not hasattr(session.config, "workerinput")  # what parts of a run did is added up later
    if alone and needs.required() and session.exitstatus == pytest.ExitCode.OK:
        ran, skipped, deselected = _counts(session.config)
        if skipped or deselected or not ran:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    lacking = Counter(_lacking(terminalreporter))
    if lacking:
        terminalreporter.section("components that are missing here")
    for reason, number in sorted(lacking.items()):
        terminalreporter.line(f"{reason} ({number} test{'s' if number > 1 else ''} skipped)")
    if needs.required():
        ran, skipped, deselected = _counts(terminalreporter.config)
        terminalreporter.line(f"required: {ran} run, {skipped} skipped, {deselected} deselected")


def _is_setting(name: str) -> bool:
    ours = name.startswith("TESP_") and not name.startswith("TESP_TEST_")
    return ours or name in {"FASTAPI_PROFILE", "CONTAINER_TYPE"}


def _components() -> Mapping[str, str]:
    path = Path(os.environ.get("TESP_TEST_COMPONENTS", COMPONENTS))
    if not path.is_file():
        return {}
    pairs = (word.partition("=") for word in shlex.split(path.read_text(), comments=True))
    return {name: value for name, _, value in pairs}


def _counts(config: pytest.Config) -> tuple[int, int, int]:
    """Return how many tests ran, were skipped and were deselected."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    stats = reporter.stats if isinstance(reporter, TerminalReporter) else {}
    ran = sum(len(stats.get(outcome, ())) for outcome in ("passed", "failed", "xfailed", "xpassed"))
    return ran, len(stats.get("skipped", ())), len(config.stash[STASH])


def _lacking(reporter: TerminalReporter) -> Iterator[str]:
    """Yield, for each test skipped for want of a component, what was missing and why."""
    for report in reporter.stats.get("skipped", ()):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _, found, what = reason.partition(needs.PREFIX)
        if found:
            yield what
