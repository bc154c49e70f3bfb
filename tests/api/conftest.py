"""The application over the real embedded store, asked through ASGI, under both prefixes."""

import string
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from loguru import logger

from tesp_api.admission import Admission
from tesp_api.api.app import create_app
from tesp_api.api.service_info import ServiceInfo
from tesp_api.auth import Authenticator, NoAuthentication
from tesp_api.domain.rules import Policy
from tesp_api.domain.task import TaskId
from tesp_api.ports import TaskStore
from tesp_api.readiness import Ask, Readiness
from tesp_api.service import Service
from tesp_api.storage import FileScheme, FtpScheme, HttpScheme, Root, UrlStorage
from tesp_api.store.sqlite import SqliteStore
from tests.api.memory import Listener, StillClock

BASE = "http://tes.example.org"
PREFIXES = ("/ga4gh/tes/v1", "/v1")
INFO = ServiceInfo(
    id="org.example.tes",
    name="Example <TES>",
    version="1.2.3",
    organization_name="Example",
    organization_url="https://example.org",
    storage=("http://", "https://"),
)

Client = httpx.AsyncClient
MakeApp = Callable[..., FastAPI]
MakeService = Callable[..., Service]
MakeClient = Callable[..., Client]


def minimal_task(**fields: Any) -> dict[str, Any]:
    return {"executors": [{"image": "ubuntu:20.04", "command": ["true"]}]} | fields


@pytest.fixture(params=PREFIXES)
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "tasks.db", synchronous="NORMAL")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


def numbered_ids() -> Callable[[], TaskId]:
    numbers = count()
    return lambda: TaskId(f"task{next(numbers):020}")


@pytest.fixture
def make_service(listener: Listener, clock: StillClock) -> MakeService:
    storage = UrlStorage(HttpScheme(), FtpScheme(), FileScheme([Root(path="/shared")]))
    policy = Policy(refusal=storage.refusal, backend_parameters=frozenset({"vmsize"}))

    def make(store: TaskStore, admission: Admission | None = None) -> Service:
        return Service(
            store=store,
            dispatch=listener,
            clock=clock,
            policy=policy,
            new_id=numbered_ids(),
            admission=admission,
        )

    return make


@pytest.fixture
def make_app(store: SqliteStore, make_service: MakeService, clock: StillClock) -> MakeApp:
    def make(
        authenticator: Authenticator | None = None,
        info: ServiceInfo = INFO,
        on: TaskStore | None = None,
        neighbours: Mapping[str, Ask] = {},
        admission: Admission | None = None,
        **more: Any,
    ) -> FastAPI:
        guard, ready = authenticator or NoAuthentication(), Readiness(neighbours, clock)
        service = make_service(on or store, admission)
        return create_app(service, guard, info, ready, **({"page_key": b"k"} | more))

    return make


@pytest.fixture
async def make_client(make_app: MakeApp) -> AsyncIterator[MakeClient]:
    async with AsyncExitStack() as stack:

        def make(*arguments: Any, base: str = BASE, **more: Any) -> Client:
            transport = httpx.ASGITransport(make_app(*arguments, **more))
            client = httpx.AsyncClient(transport=transport, base_url=base)
            stack.push_async_callback(client.aclose)
            return client

        yield make


@pytest.fixture
def root(make_client: MakeClient) -> Client:
    """A client of the open server, from `/`."""
    return make_client()


@pytest.fixture
def tes(make_client: MakeClient, prefix: str) -> Client:
    """A client of the open server, below each prefix in turn."""
    return make_client(base=BASE + prefix)


@contextmanager
def logged(then: Callable[[], None] = lambda: None) -> Iterator[list[dict[str, Any]]]:
    """Gather the records that are logged meanwhile, doing something after each."""
    records: list[dict[str, Any]] = []

    def gather(message: Any) -> None:
        records.append(message.record)
        then()

    sink = logger.add(gather, format="{message}", level=0)
    try:
        yield records
    finally:
        logger.remove(sink)


async def create(client: Client, **fields: Any) -> str:
    answer = await client.post("/tasks", json=minimal_task(**fields))
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"id"}
    task_id: str = answer.json()["id"]
    assert set(task_id) <= set(string.ascii_lowercase + string.digits)
    return task_id


async def fetch(client: Client, task_id: str, view: str = "FULL") -> dict[str, Any]:
    answer = await client.get(f"/tasks/{task_id}", params={"view": view})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document
