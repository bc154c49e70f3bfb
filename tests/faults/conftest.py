"""The table of faults, printed at the end of the run."""

import os
from collections.abc import Iterator
from typing import Any, Final

import pytest
from _pytest.terminal import TerminalReporter

from tests.faults.ground import Ground, ground
from tests.faults.table import Table, whole

TABLE: Final = pytest.StashKey[Table]()
SEED: Final = int(os.environ.get("TESP_TEST_SEED", "20261123"))


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = Table()


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Table:
    return request.config.stash[TABLE]


@pytest.fixture(scope="session")
def seed() -> int:
    return SEED


@pytest.fixture(scope="module")
def place() -> Iterator[Ground]:
    with ground() as made:
        yield made


@pytest.fixture(scope="module")
def place_by_messages() -> Iterator[Ground]:
    with ground(transport="AMQP") as made:
        yield made


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Give what one of several processes has found to the one that prints the table."""
    given = getattr(session.config, "workeroutput", None)
    if given is not None:
        given["faults"] = session.config.stash[TABLE].given()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take what such a process has found."""
    table: Table = node.config.stash[TABLE]
    table.take(getattr(node, "workeroutput", {}).get("faults", {"rows": [], "notes": [error]}))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    table = terminalreporter.config.stash[TABLE]
    if table.rows:
        how = "whole" if whole() else "short"
        terminalreporter.section(f"faults ({how} run, TESP_TEST_SEED={SEED})")
        for line in table.lines():
            terminalreporter.line(line)
