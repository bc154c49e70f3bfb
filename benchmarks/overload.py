"""Ten thousand tasks posted at once: how fast they are taken in, and how it answers meanwhile.

A server with the embedded store is begun without a Pulsar that answers, so that the queue only
grows; `--pulsar URL` names one that does. Meanwhile single tasks are asked for, one after another.

    python -m benchmarks.overload [--tasks 10000] [--clients 64] [--pulsar URL]
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tesp_api.local.own_pulsar import free_port

HOST: Final = "127.0.0.1"
BODY: Final = json.dumps(
    {
        "name": "overload",
        "executors": [{"image": "ubuntu:20.04", "command": ["sha1sum", "/in/0"]}],
        "inputs": [{"path": "/in/0", "url": "https://example.org/0"}],
        "tags": {"workflow": "overload"},
    }
).encode()
PAUSE_S: Final = 0.01
"""Between two GETs: a person's click, not a load of its own."""
SETTLE_S: Final = 3.0


@dataclass
class Seen:
    """What came of the requests. Seconds."""

    ids: list[str] = field(default_factory=list)
    posts: list[float] = field(default_factory=list)
    gets: list[float] = field(default_factory=list)
    refused: int = 0


class Connection:
    """One connection that is kept; small, so that the client is not what is measured."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes, float]:
        """Return status, body, and how long it took."""
        reader, writer = self._streams or await asyncio.open_connection(HOST, self._port)
        self._streams = reader, writer
        head = f"{method} /ga4gh/tes/v1{path} HTTP/1.1\r\nHost: {HOST}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        begun = time.perf_counter()
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        status = int(answer.split(b" ", 2)[1])
        length = next(
            int(line.split(b":")[1])
            for line in answer.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        )
        return status, await reader.readexactly(length), time.perf_counter() - begun

    def close(self) -> None:
        """Let go."""
        if self._streams:
            self._streams[1].close()


async def post(port: int, todo: Iterator[int], seen: Seen) -> None:
    """Post until there is nothing left to post."""
    connection = Connection(port)
    for _ in todo:
        status, body, took = await connection.ask("POST", "/tasks", BODY)
        seen.posts.append(took)
        if status == 200:
            seen.ids.append(json.loads(body)["id"])
        else:
            seen.refused += 1
    connection.close()


async def look(port: int, seen: Seen) -> None:
    """Ask for a task of those that are there, one after another, until cancelled."""
    connection = Connection(port)
    try:
        while True:
            if seen.ids:
                path = f"/tasks/{random.choice(seen.ids)}?view=MINIMAL"
                status, _, took = await connection.ask("GET", path)
                assert status == 200, status
                seen.gets.append(took)
            await asyncio.sleep(PAUSE_S)
    finally:
        connection.close()


async def flood(port: int, tasks: int, clients: int) -> tuple[Seen, float]:
    """Post everything; return what was seen, and in how many seconds it was posted."""
    seen, todo = Seen(), iter(range(tasks))
    looking = asyncio.create_task(look(port, seen))
    begun = time.perf_counter()
    await asyncio.gather(*(post(port, todo, seen) for _ in range(clients)))
    took = time.perf_counter() - begun
    await asyncio.sleep(SETTLE_S)
    looking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await looking
    return seen, took


@contextmanager
def server(pulsar: str, directory: Path) -> Iterator[tuple[int, int]]:
    """Run the server; give its port and pid."""
    port = free_port(HOST)
    environ = {
        **os.environ,
        "TESP_DB__SQLITE_PATH": str(directory / "tasks.sqlite"),
        "TESP_SERVER__PORT": str(port),
        "TESP_PULSAR__URL": pulsar,
        "TESP_LOGGING__LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "tesp_api", "serve"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, cwd=directory, stdout=log, stderr=log)
    try:
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


async def until_up(port: int) -> None:
    """Wait until it answers."""
    for _ in range(300):
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.close()
            return
        await asyncio.sleep(0.1)
    raise SystemExit("the server does not come up")


def memory_mib(pid: int, what: str) -> float:
    """Return VmRSS (now) or VmHWM (the most there ever was)."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def share(times: list[float], percent: float) -> str:
    """Return below what so many of the times are."""
    ordered = sorted(times)
    return f"{1000 * ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]:.1f} ms"


async def measure(chosen: argparse.Namespace) -> None:
    """Run it and print what was seen."""
    with (
        tempfile.TemporaryDirectory() as place,
        server(chosen.pulsar, Path(place)) as (port, pid),
    ):
        await until_up(port)
        before = memory_mib(pid, "VmRSS")
        seen, took = await flood(port, chosen.tasks, chosen.clients)
        after, most = memory_mib(pid, "VmRSS"), memory_mib(pid, "VmHWM")
    print(f"accepted      {len(seen.ids)} of {chosen.tasks}, refused {seen.refused}")
    print(f"rate          {len(seen.posts) / took:.0f} a second over {took:.1f} s")
    print(f"POST          p50 {share(seen.posts, 50)}, p99 {share(seen.posts, 99)}")
    print(f"GET meanwhile p50 {share(seen.gets, 50)}, p99 {share(seen.gets, 99)}")
    print(f"memory        {before:.0f} MiB before, {after:.0f} after, {most:.0f} at most")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--pulsar", default="http://127.0.0.1:9")
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
