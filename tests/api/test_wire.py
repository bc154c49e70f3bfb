"""The application under a real uvicorn on a loopback port, asked by real clients."""

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Self

import pytest
import tes as py_tes
import uvicorn
from fastapi import FastAPI
from pydantictes.api import TesClient
from pydantictes.models import TesExecutor, TesState, TesTask

from tests.api.conftest import MakeApp, logged, minimal_task

LIMIT = 100_000


@pytest.fixture
async def port(make_app: MakeApp) -> AsyncIterator[int]:
    """The port of a server that takes bodies of 100 kB."""
    config = uvicorn.Config(make_app(body_bytes=LIMIT), log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        yield listener.getsockname()[1]
        server.should_exit = True
        await serving


@pytest.mark.parametrize("base", ["", "/", "/ga4gh/tes/v1", "/ga4gh/tes/v1/", "/v1"])
async def test_py_tes_creates_gets_lists_and_cancels(port: int, base: str) -> None:
    def session() -> None:
        client = py_tes.HTTPClient(f"http://127.0.0.1:{port}{base}", timeout=5)
        executor = py_tes.Executor(image="alpine", command=["echo", "hello"])
        inputs = [py_tes.Input(path="/data/in", content="x")]
        ids = [
            client.create_task(py_tes.Task(name=f"n{i}", executors=[executor], inputs=inputs))
            for i in range(3)
        ]
        full = client.get_task(ids[0], "FULL")
        assert (full.id, full.state, full.name) == (ids[0], "QUEUED", "n0")
        assert full.inputs is not None
        assert (full.inputs[0].content, full.inputs[0].type) == ("x", "FILE")
        page = client.list_tasks(view="BASIC", page_size=2)
        assert page.tasks is not None
        assert [task.id for task in page.tasks] == [ids[2], ids[1]]
        rest = client.list_tasks(page_size=2, page_token=page.next_page_token)
        assert rest.tasks is not None
        assert [task.id for task in rest.tasks] == [ids[0]]
        assert not rest.next_page_token
        client.cancel_task(ids[0])
        assert client.get_task(ids[0], "MINIMAL").state == "CANCELED"
        assert client.get_service_info().id == "org.example.tes"

    await asyncio.to_thread(session)


async def test_py_tes_is_told_of_an_unknown_task(port: int) -> None:
    client = py_tes.HTTPClient(f"http://127.0.0.1:{port}", timeout=5)
    with pytest.raises(Exception, match="404"):
        await asyncio.to_thread(client.get_task, "nope", "MINIMAL")


async def test_py_tes_with_credentials_works_on_an_open_server(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    for client in (
        py_tes.HTTPClient(url, timeout=5, user="None", password="None"),
        py_tes.HTTPClient(url, timeout=5, token="x"),
    ):
        assert (await asyncio.to_thread(client.list_tasks)).tasks == []


@pytest.mark.parametrize("base", ["", "/ga4gh/tes/", "/ga4gh/tes/v1"])
async def test_the_client_of_pulsar_creates_gets_and_cancels(port: int, base: str) -> None:
    def session() -> None:
        client = TesClient(f"http://127.0.0.1:{port}{base}")
        task = TesTask(
            executors=[TesExecutor(image="alpine", command=["true"])], volumes=["/pulsar_staging/"]
        )
        created = client.create_task(task)
        for view in ("BASIC", "FULL"):
            assert client.get_task(created, view).volumes == ["/pulsar_staging/"]
        assert [task.id for task in client.list_tasks().tasks] == [created.id]
        client.cancel_task(created)
        assert client.get_task(created, "FULL").state is TesState.CANCELED
        assert client.service_info().id == "org.example.tes"

    await asyncio.to_thread(session)


class Asker:
    """One connection, for requests that no decent client sends."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        self.connection.request(method, path, body, headers or {})  # type: ignore[arg-type]
        response = self.connection.getresponse()
        return response.status, response.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.connection.close()


def ask(port: int, *arguments: Any) -> tuple[int, bytes]:
    with Asker(port) as asker:
        return asker.ask(*arguments)


def pieces(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b" " * 10_000


async def test_a_body_far_over_the_limit_is_413_on_the_wire(port: int) -> None:
    def session() -> None:
        for body in (b" " * 5_000_000, pieces(500)):
            status, text = ask(port, "POST", "/v1/tasks", body)
            assert (status, json.loads(text)["status"]) == (413, 413)

    await asyncio.to_thread(session)


async def test_a_connection_serves_on_after_errors_and_cancels_with_bodies(port: int) -> None:
    def session() -> None:
        with Asker(port) as asker:
            asker.connection.connect()
            first = asker.connection.sock
            task = json.dumps(minimal_task())
            task_id = json.loads(asker.ask("POST", "/v1/tasks", task)[1])["id"]
            assert asker.ask("GET", "/nope")[0] == 404
            assert asker.ask("POST", f"/v1/tasks/{task_id}:cancel", b"x" * 1000)[0] == 200
            assert asker.ask("HEAD", f"/v1/tasks/{task_id}") == (200, b"")
            assert asker.ask("POST", "/v1/tasks", "{")[0] == 400
            assert asker.ask("GET", f"/v1/tasks/{task_id}")[0] == 200
            assert asker.connection.sock is first

    await asyncio.to_thread(session)


async def test_a_web_page_cannot_reach_the_server_under_a_name_of_its_own(port: int) -> None:
    def session() -> None:
        rebound = {"Host": f"rebound.example:{port}"}
        assert ask(port, "GET", "/v1/tasks", None, rebound)[0] == 421
        foreign = {"Origin": "http://evil.example", "Content-Type": "text/plain"}
        assert ask(port, "POST", "/v1/tasks", json.dumps(minimal_task()), foreign)[0] == 403
        assert ask(port, "GET", "/v1/tasks")[1] == b'{"tasks":[]}'

    await asyncio.to_thread(session)


async def test_a_client_that_leaves_within_its_body_makes_neither_task_nor_error(
    port: int,
) -> None:
    told = asyncio.Event()
    with logged(told.set) as records:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        await told.wait()
    assert [record["message"] for record in records] == ["client left"]
    assert await asyncio.to_thread(ask, port, "GET", "/v1/tasks") == (200, b'{"tasks":[]}')


async def test_the_lifespan_that_is_given_surrounds_the_serving(make_app: MakeApp) -> None:
    happened = []

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        happened.append("begun")
        yield
        happened.append("ended")

    app = make_app(lifespan=lifespan)
    async with app.router.lifespan_context(app):
        assert happened == ["begun"]
    assert happened == ["begun", "ended"]
