"""What the HTTP face costs over bare ASGI that answers the same bytes from the same store.

All run under uvicorn, each in a process of its own, and are asked by turns, in an order that
changes from round to round. Printed is the median over the rounds: of the server's CPU time for a
request, and of its ratio to the floor's in the same round. What others do on the machine changes
what a request costs by half, but alike for those that are asked one after the other. A process is a
twentieth faster or slower than its like for all its life, so there are several sets of them.

    python -m benchmarks.http_face [--requests 640] [--rounds 15] [--sets 3]
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import secrets
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeAlias

import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from tesp_api.api.app import create_app
from tesp_api.api.service_info import ServiceInfo
from tesp_api.auth import BasicAuthentication, NoAuthentication
from tesp_api.domain.rules import Policy
from tesp_api.domain.task import Task, TaskId
from tesp_api.domain.tes import State, TaskRequest, View
from tesp_api.ports import Query, TaskStore
from tesp_api.readiness import Readiness
from tesp_api.service import Service
from tesp_api.store.sqlite import SqliteStore

Cost: TypeAlias = tuple[float, float]
"""CPU and wall microseconds for a request."""
Costs: TypeAlias = Mapping[str, Sequence[Cost]]
"""Round by round, of each kind of server."""
CONNECTIONS: Final = 32
STORED: Final = 2100
SERVERS: Final = ("floor", "open", "basic")
KEEP_ALIVE_S: Final = 120
"""Longer than a server waits for its turn."""
TURNS: Final = ("open", "floor", "basic")
"""The order of a round, and backwards of the next: both are asked next to the floor."""
BODY: Final = json.dumps(
    {
        "name": "a task of a kilobyte and a half",
        "inputs": [
            {"url": "http://data.example.org/reads.fastq.gz", "path": "/data/reads.fastq.gz"},
            {"content": "x" * 800, "path": "/data/script.sh"},
        ],
        "outputs": [{"url": "http://data.example.org/out.bam", "path": "/out/out.bam"}],
        "resources": {"cpu_cores": 2, "ram_gb": 4.5},
        "executors": [
            {
                "image": "ubuntu:20.04",
                "command": ["/bin/bash", "/data/script.sh", "--threads", "2"],
                "workdir": "/data",
                "stdout": "/out/stdout.log",
                "env": {"LANG": "C"},
            }
        ],
        "tags": {"workflow": "benchmark", "project": "tes"},
    }
).encode()


@dataclass(frozen=True, slots=True)
class Case:
    """One request; `weight` is how many of them cost as much as the lightest."""

    name: str
    target: str
    body: bytes = b""
    weight: int = 1


CASES: Final = (
    Case("GET one, FULL", "/tasks/ID?view=FULL"),
    Case("list 2047 MINIMAL", "/tasks?page_size=2047&view=MINIMAL", weight=10),
    Case("list 256 FULL", "/tasks?page_size=256&view=FULL", weight=10),
    Case("POST", "/tasks", BODY, weight=2),
)


class Surroundings:
    """A clock, a dispatcher that leaves tasks alone, and as much of a runner as is asked here."""

    def now(self) -> datetime:
        """Return the moment."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait for the event."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()

    async def ping(self) -> str:
        """Return a version."""
        return ""

    def new_task(self) -> None:
        """Do nothing."""

    def changed(self, task_id: TaskId) -> None:
        """Do nothing."""


def new_id() -> TaskId:
    """Return an id as the server makes them."""
    return TaskId(secrets.token_hex(12))


TASK: Final = Task(
    id=TaskId(""),
    request=TaskRequest.model_validate_json(BODY),
    state=State.QUEUED,
    created_at=datetime.now(UTC),
)


class Floor:
    """Bare ASGI over the store; what is asked for is taken on trust."""

    def __init__(self, store: TaskStore, task_id: TaskId, document: bytes) -> None:
        self._store = store
        self._task_path = f"/v1/tasks/{task_id}"
        self._document = document

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        if scope["type"] != "http":
            return
        answer = await self._answer(scope, receive)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        if scope["path"] == self._task_path:
            return self._document
        if scope["method"] == "POST":
            while (await receive()).get("more_body"):
                pass
            task = replace(TASK, id=new_id())
            await self._store.add(task)
            return b'{"id":"%b"}' % task.id.encode()
        size, view = (pair.split("=")[1] for pair in scope["query_string"].decode().split("&"))
        page = await self._store.page(Query(view=View(view), limit=int(size)))
        return b'{"tasks":[%b]}' % page.joined


def application(kind: str, store: TaskStore, task_id: TaskId, document: bytes) -> ASGIApp:
    """Return the application of that kind."""
    if kind == "floor":
        return Floor(store, task_id, document)
    around = Surroundings()
    service = Service(store=store, dispatch=around, clock=around, policy=Policy(), new_id=new_id)
    guard = BasicAuthentication("user", "pass") if kind == "basic" else NoAuthentication()
    info = ServiceInfo(
        id="x", name="x", version="0", organization_name="x", organization_url="http://x"
    )
    readiness = Readiness({}, around)
    return create_app(service, guard, info, readiness)


async def serve(kind: str, path: str, pipe: Connection) -> None:
    """Serve until told to stop; send port and a task's id first, then CPU seconds when asked."""
    store = SqliteStore(Path(path))
    await store.open()
    tasks = [replace(TASK, id=new_id(), owner="basic:user") for _ in range(STORED)]
    await asyncio.gather(*map(store.add, tasks))
    document = await store.document(tasks[0].id, View.FULL, None) or b""
    app = application(kind, store, tasks[0].id, document)
    config = uvicorn.Config(
        app, log_level="warning", lifespan="off", timeout_keep_alive=KEEP_ALIVE_S
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        pipe.send((listener.getsockname()[1], tasks[0].id))
        while await asyncio.to_thread(pipe.recv):
            pipe.send(time.process_time())
        server.should_exit = True
        await serving
    await store.close()


def run_server(kind: str, path: str, pipe: Connection) -> None:
    """Entry of a server's process."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(kind, path, pipe))


@dataclass(frozen=True, slots=True)
class Server:
    """A server in a process of its own."""

    pipe: Any
    port: int
    task_id: str

    def cpu_s(self) -> float:
        """Return the CPU time that it has taken."""
        self.pipe.send(True)
        return float(self.pipe.recv())


@contextlib.contextmanager
def running(kinds: Sequence[str]) -> Iterator[dict[str, Server]]:
    """Run one server of each kind."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        found = {}
        for kind in kinds:
            near, far = spawn.Pipe()
            process = spawn.Process(target=run_server, args=(kind, f"{directory}/{kind}.db", far))
            process.start()
            far.close()  # so that its death is heard of
            stack.callback(process.join)
            stack.callback(near.send, False)
            found[kind] = Server(near, *near.recv())
        yield found


Line: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
"""A connection, kept for all rounds: what it costs to make one is no part of a request."""


@contextlib.asynccontextmanager
async def lines(port: int) -> AsyncIterator[Sequence[Line]]:
    """Connect `CONNECTIONS` times."""
    made = [
        await asyncio.open_connection("127.0.0.1", port, limit=2**22) for _ in range(CONNECTIONS)
    ]
    try:
        yield made
    finally:
        for _, writer in made:
            writer.close()


async def ask(line: Line, request: bytes, times: int) -> None:
    """Send the request `times` times over one connection, each after an answer."""
    reader, writer = line
    for _ in range(times):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = head.lower().split(b"content-length:")[1].split(b"\r\n")[0]
        await reader.readexactly(int(length))


async def measure(server: Server, lines: Sequence[Line], case: Case, requests: int) -> Cost:
    """Return what a request costs."""
    head = (
        f"{'POST' if case.body else 'GET'} /v1{case.target} HTTP/1.1\r\n"
        "Host: localhost\r\nAuthorization: Basic dXNlcjpwYXNz\r\nAccept: */*\r\nUser-Agent: x\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(case.body)}\r\n\r\n"
    )
    request = head.replace("ID", server.task_id).encode() + case.body
    times = max(1, requests // case.weight // len(lines))
    cpu, wall = server.cpu_s(), time.perf_counter()
    await asyncio.gather(*(ask(line, request, times) for line in lines))
    scale = 1e6 / (times * len(lines))
    return (server.cpu_s() - cpu) * scale, (time.perf_counter() - wall) * scale


async def take_turns(
    servers: Mapping[str, Server], case: Case, requests: int, rounds: int
) -> Costs:
    """Return what a request costs each server in each round."""
    seen: dict[str, list[Cost]] = {kind: [] for kind in servers}
    async with contextlib.AsyncExitStack() as stack:
        made = {
            kind: await stack.enter_async_context(lines(server.port))
            for kind, server in servers.items()
        }
        for turn in range(rounds):
            for kind in TURNS[:: 1 if turn % 2 else -1]:
                seen[kind].append(await measure(servers[kind], made[kind], case, requests))
    return seen


def all_costs(requests: int, rounds: int, sets: int) -> Mapping[Case, Costs]:
    """Return what each case costs each kind of server in all rounds with all sets of servers."""
    found: dict[Case, dict[str, list[Cost]]] = {
        case: {kind: [] for kind in SERVERS} for case in CASES
    }
    for _ in range(sets):
        with running(SERVERS) as servers:
            for case, costs in found.items():
                seen = asyncio.run(take_turns(servers, case, requests, rounds))
                for kind in SERVERS:
                    costs[kind] += seen[kind]
    return found


def report(case: Case, seen: Costs) -> str:
    """Return the line of a case."""
    cpu = {kind: [one for one, _ in costs] for kind, costs in seen.items()}
    wall = {kind: [one for _, one in costs] for kind, costs in seen.items()}
    costs = "".join(f"{median(cpu[kind]):9.0f}" for kind in SERVERS)
    ratios = "".join(f"{ratio(cpu[kind], cpu['floor']):8.2f}" for kind in ("open", "basic"))
    return f"{case.name:20}{costs}{ratios}{100 * ratio(wall['floor'], wall['open']):8.0f}%"


def ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """Return how much the one costs of the other, round by round."""
    return median(one / other for one, other in zip(ones, others, strict=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sets", type=int, default=3)
    options = parser.parse_args()
    print(f"{'':20}{'floor':>9}{'open':>9}{'basic':>9}{'open':>8}{'basic':>8}{'open':>9}")
    print(f"{'':20}{'µs CPU':>9}{'µs CPU':>9}{'µs CPU':>9}{'ratio':>8}{'ratio':>8}{'req/s %':>9}")
    for case, costs in all_costs(options.requests, options.rounds, options.sets).items():
        print(report(case, costs))


if __name__ == "__main__":
    main()
