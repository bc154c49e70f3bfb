"""One Pulsar and one server for each engine and way, begun when first wanted, for the session."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.e2e.data_sides import Site, data_stack, sites
from tests.e2e.stack import COMPONENT, TRANSPORT, WAYS, Stack, begin_stack, fastest
from tests.e2e.web import Web, serving
from tests.needs import need


class Stacks(Protocol):
    """Gives the stack of an engine; skips, or fails, where the machine lacks it."""

    def __call__(self, engine: str, transport: str = TRANSPORT) -> Stack: ...


@pytest.fixture(scope="session")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    directory: Path = tmp_path_factory.mktemp("stacks")
    begun: dict[tuple[str, str], Stack] = {}

    def stack_of(engine: str, transport: str = TRANSPORT) -> Stack:
        need("pulsar")
        need(COMPONENT.get(engine, engine))
        way = engine, transport
        if way not in begun:
            begun[way] = begin_stack(directory / "-".join(way), engine, transport)
            begun[way].pulsar.wait_until_up()
            begun[way].api.wait_until_up()
        return begun[way]

    yield stack_of
    for stack in begun.values():
        stack.stop()


@pytest.fixture(params=WAYS, ids="-".join)
def stack(request: pytest.FixtureRequest, stacks: Stacks) -> Stack:
    return stacks(*request.param)


@pytest.fixture(scope="session")
def quick(stacks: Stacks) -> Stack:
    """The stack whose engine starts fastest here, for what does not depend on the engine."""
    return stacks(fastest())


@pytest.fixture(scope="session")
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Servers of every kind that files come from and go to."""
    with sites(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="session")
def data(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server that has credentials for all of `site`, and the fastest engine."""
    need("pulsar")
    directory = tmp_path_factory.mktemp("data")
    with data_stack(directory / "run", fastest(), site.entries, **site.environment) as stack:
        yield stack


@pytest.fixture(scope="session")
def data_docker(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The same with Docker."""
    need("pulsar")
    need("docker")
    directory = tmp_path_factory.mktemp("data-docker")
    with data_stack(directory / "run", "docker", site.entries, **site.environment) as stack:
        yield stack


@pytest.fixture(scope="session")
def data_amqp(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The same with a Pulsar behind a broker."""
    need("pulsar")
    directory = tmp_path_factory.mktemp("data-amqp") / "run"
    more = {"transport": "amqp", **site.environment}
    with data_stack(directory, fastest(), site.entries, **more) as stack:
        yield stack
