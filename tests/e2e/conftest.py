"""One Pulsar and one server for each engine, started when first wanted, for the whole session."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.stack import COMPONENT, ENGINES, Stack, begin_stack
from tests.e2e.web import Web, serving
from tests.needs import missing, need

Stacks = Callable[[str], Stack]


@pytest.fixture(scope="session")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    """Give the stack of an engine; skips, or fails, where the machine lacks it.

    All are begun together, so that they come up while the first is tested.
    """
    directory: Path = tmp_path_factory.mktemp("stacks")
    begun: dict[str, Stack] = {}

    def stack_of(engine: str) -> Stack:
        need("pulsar")
        need(COMPONENT.get(engine, engine))
        if engine not in begun:
            begun[engine] = begin_stack(directory / engine, engine)
            begun[engine].pulsar.wait_until_up()
            begun[engine].api.wait_until_up()
        return begun[engine]

    yield stack_of
    for stack in begun.values():
        stack.stop()


@pytest.fixture(params=ENGINES)
def stack(request: pytest.FixtureRequest, stacks: Stacks) -> Stack:
    return stacks(request.param)


@pytest.fixture(scope="session")
def quick(stacks: Stacks) -> Stack:
    """The stack whose engine starts fastest here, for what does not depend on the engine."""
    return stacks("host" if missing("userns") is None else "docker")


@pytest.fixture(scope="session")
def web() -> Iterator[Web]:
    with serving() as web:
        yield web
