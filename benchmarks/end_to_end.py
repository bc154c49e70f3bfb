"""What a task costs from POST to COMPLETE, over the same job given to the same Pulsar by hand.

By turns, so that a busy machine slows all alike: N tasks that do nothing through the API, the same
runner and order N times through a bare client (A), and the bare command N times (B: `docker run`,
or `true` through Pulsar for the host engine), each with the same number in flight. Then one at a
time: POST to COMPLETE, against A and against the bare command through Pulsar. Medians of the
rounds. Everything runs on loopback in a directory that is removed at the end.

    python -m benchmarks.end_to_end [--engine docker] [--tasks 60] [--in-flight 64] [--rounds 3]
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from tesp_api.domain.plan import Engine, Site, run_order
from tesp_api.domain.report import Verdict, unframe
from tesp_api.domain.task import JobId, Task, TaskId
from tesp_api.domain.tes import State, TaskRequest
from tesp_api.local.own_pulsar import OwnPulsar, free_port
from tesp_api.pulsar.rest import RestRunner
from tesp_api.pulsar.wire import COMMAND, PARCEL, Parcels, submission

CONNECTIONS: Final = 6
FIRST_LOOK_S: Final = 0.15
"""The bare client asks as our server does: first after this, then after a share of the age."""
SHARE_OF_AGE: Final = 0.12
CLOSE_LOOK_S: Final = 0.01
PATIENCE_S: Final = 600.0
MUST_RATE: Final = 0.85
MUST_LATENCY_S: Final = 0.3


class Bare:
    """A client of Pulsar that does what must be done for a job, and nothing else."""

    def __init__(self, pulsar: OwnPulsar) -> None:
        self._token = {"private_token": pulsar.token}
        self._all = [
            httpx.AsyncClient(
                base_url=pulsar.url,
                timeout=60,
                trust_env=False,
                limits=httpx.Limits(max_connections=1),
            )
            for _ in range(CONNECTIONS)
        ]
        self._idle: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
        for client in self._all:
            self._idle.put_nowait(client)

    async def begin(self, job: JobId, command: str, parcel: bytes | None = None) -> None:
        """Upload what there is and submit."""
        if parcel is not None:
            query = {"name": PARCEL, "type": "input"}
            await self._call("POST", f"/jobs/{job}/files", query, parcel)
        await self._call("POST", f"/jobs/{job}/submit", submission(job, command))

    async def end(self, job: JobId, *, closely: bool = False) -> Mapping[str, Any]:
        """Wait for the end and return what Pulsar says of it."""
        begun = time.monotonic()
        await asyncio.sleep(CLOSE_LOOK_S if closely else FIRST_LOOK_S)
        while True:
            status: dict[str, Any] = json.loads(await self._call("GET", f"/jobs/{job}/status"))
            if status["complete"] == "true":
                return status
            age = time.monotonic() - begun
            await asyncio.sleep(CLOSE_LOOK_S if closely else max(SHARE_OF_AGE * age, 0.05))

    async def delete(self, job: JobId) -> None:
        """Remove the job's directory."""
        await self._call("DELETE", f"/jobs/{job}")

    async def close(self) -> None:
        """Close all connections."""
        for client in self._all:
            await client.aclose()

    async def _call(
        self, method: str, path: str, query: Mapping[str, str] = {}, body: bytes | None = None
    ) -> bytes:
        client = await self._idle.get()
        try:
            answer = await client.request(
                method, path, params={**query, **self._token}, content=body
            )
        finally:
            self._idle.put_nowait(client)
        answer.raise_for_status()
        return answer.content


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The running parts, and what is measured on them."""

    engine: str
    image: str
    in_flight: int
    bare: Bare
    api: httpx.AsyncClient
    staging: Path
    parcels: Parcels = field(default_factory=Parcels)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def body(self) -> dict[str, Any]:
        """The task that does nothing."""
        return {"executors": [{"image": self.image, "command": ["true"]}]}

    async def ours(self, tasks: int) -> float:
        """Return how long so many tasks take through the API."""
        batch = f"batch-{next(self.numbers)}"
        body = {**self.body, "tags": {"batch": batch}}
        begun = time.monotonic()
        await bounded(CONNECTIONS, [lambda: self._post(body)] * tasks)
        async with asyncio.timeout(PATIENCE_S):
            while await self._complete(batch) < tasks:  # noqa: ASYNC110 - as a client of TES must
                await asyncio.sleep(0.05)
        return time.monotonic() - begun

    async def by_hand(self, tasks: int) -> float:
        """Return how long the same jobs take a client that knows nothing of TES."""
        return await self._jobs(tasks, self._runner_job)

    async def command(self, tasks: int) -> float:
        """Return how long the bare command takes so many times."""
        if self.engine == "host":
            return await self._jobs(tasks, self._command_job)
        begun = time.monotonic()
        await bounded(self.in_flight, [self._command_here] * tasks)
        return time.monotonic() - begun

    async def one_of_ours(self) -> float:
        """Return the time from POST to COMPLETE of one task."""
        begun = time.monotonic()
        task_id = await self._post(self.body)
        while (state := (await self._get(f"/tasks/{task_id}", {}))["state"]) != "COMPLETE":
            if state.endswith("ERROR"):
                raise RuntimeError(await self._get(f"/tasks/{task_id}", {"view": "FULL"}))
            await asyncio.sleep(CLOSE_LOOK_S)
        return time.monotonic() - begun

    async def one_by_hand(self) -> float:
        """Return the time of the same job by a bare client that looks closely."""
        return await self._one(self._runner_job)

    async def one_command(self) -> float:
        """Return the time of the bare command as a job of a bare client."""
        return await self._one(self._command_job)

    async def rest(self) -> None:
        """Wait until nothing is left at Pulsar."""
        async with asyncio.timeout(PATIENCE_S):
            while any(self.staging.iterdir()):  # noqa: ASYNC110 - a directory has no event
                await asyncio.sleep(0.05)

    async def _one(self, job: Callable[..., Awaitable[JobId]]) -> float:
        begun = time.monotonic()
        job_id = await job(closely=True)
        took = time.monotonic() - begun
        await self.bare.delete(job_id)
        return took

    async def _jobs(self, tasks: int, job: Callable[[], Awaitable[JobId]]) -> float:
        ended: list[float] = []
        deleting: set[asyncio.Task[None]] = set()

        async def one() -> None:
            job_id = await job()
            ended.append(time.monotonic())
            deleting.add(asyncio.create_task(self.bare.delete(job_id)))

        begun = time.monotonic()
        await bounded(self.in_flight, [one] * tasks)
        await asyncio.gather(*deleting)
        return max(ended) - begun

    async def _runner_job(self, *, closely: bool = False) -> JobId:
        job, task_id = JobId(f"bare-{next(self.numbers)}"), TaskId(f"t{next(self.numbers)}")
        task = Task(
            id=task_id,
            request=TaskRequest.model_validate(self.body),
            state=State.INITIALIZING,
            created_at=datetime.now(UTC),
        )
        order = run_order(task, job, site(self.engine), (), ())
        await self.bare.begin(job, COMMAND, self.parcels.pack(order))
        status = await self.bare.end(job, closely=closely)
        report = unframe(status["job_stdout"], job)
        if report is None or report.outcome is not Verdict.COMPLETE:
            raise RuntimeError(f"the bare job failed: {status}, {report}")
        return job

    async def _command_job(self, *, closely: bool = False) -> JobId:
        job = JobId(f"bare-{next(self.numbers)}")
        command = "true" if self.engine == "host" else f"docker run --rm {self.image} true"
        await self.bare.begin(job, command)
        status = await self.bare.end(job, closely=closely)
        if status["returncode"] != 0:
            raise RuntimeError(f"the bare command failed: {status}")
        return job

    async def _command_here(self) -> None:
        command = ["docker", "run", "--rm", self.image, "true"]
        process = await asyncio.create_subprocess_exec(*command)
        if await process.wait():
            raise RuntimeError(f"{command} failed")

    async def _complete(self, batch: str) -> int:
        filters = {"state": "COMPLETE", "tag_key": "batch", "tag_value": batch}
        return len((await self._get("/tasks", {**filters, "page_size": 2047}))["tasks"])

    async def _post(self, body: Mapping[str, Any]) -> str:
        answer = await self.api.post("/tasks", json=body)
        answer.raise_for_status()
        return str(answer.json()["id"])

    async def _get(self, path: str, query: Mapping[str, str | int]) -> dict[str, Any]:
        answer = await self.api.get(path, params=query)
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
        return document


async def bounded(most: int, calls: Sequence[Callable[[], Awaitable[Any]]]) -> None:
    """Make the calls, so many at once."""
    left = iter(calls)

    async def work() -> None:
        for call in left:
            await call()

    async with asyncio.TaskGroup() as group:
        for _ in range(most):
            group.create_task(work())


def site(engine: str) -> Site:
    """Return what the server's orders say of it, as the settings have it by default."""
    return Site(
        instance="bare",
        engine=Engine(kind=engine, program=engine),
        tail_bytes=65536,
        file_roots=(),
        heartbeat_s=30.0,
    )


@asynccontextmanager
async def server(
    directory: Path, pulsar: OwnPulsar, chosen: argparse.Namespace
) -> AsyncIterator[str]:
    """Run the API in a process of its own and give its address."""
    port = free_port("127.0.0.1")
    settings = {
        "CONTAINER_TYPE": chosen.engine,
        "TESP_DB__SQLITE_PATH": str(directory / "tasks.db"),
        "TESP_PULSAR__URL": pulsar.url,
        "TESP_PULSAR__PRIVATE_TOKEN": pulsar.token,
        "TESP_PULSAR__MAX_JOBS": str(chosen.in_flight),
        "TESP_SERVER__PORT": str(port),
        "TESP_LOGGING__LEVEL": "WARNING",
    }
    command = [sys.executable, *chosen.profiler, "-m", "tesp_api", "serve"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, env={**os.environ, **settings}
    )
    try:
        yield f"http://127.0.0.1:{port}/ga4gh/tes/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@asynccontextmanager
async def bench(chosen: argparse.Namespace) -> AsyncIterator[Bench]:
    """Start everything; end it afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        root = Path(__file__).parents[1]
        os.environ["PYTHONPATH"] = str(root)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tesp-bench-")))
        pulsar = OwnPulsar(directory / "pulsar")
        await pulsar.start()
        stack.push_async_callback(pulsar.stop)
        probe = RestRunner(pulsar.url, token=pulsar.token)
        await pulsar.wait_until_up(probe)
        await probe.close()
        base = await stack.enter_async_context(server(directory, pulsar, chosen))
        bare = Bare(pulsar)
        stack.push_async_callback(bare.close)
        api = await stack.enter_async_context(
            httpx.AsyncClient(base_url=base, timeout=60, trust_env=False)
        )
        await until_up(api)
        yield Bench(
            engine=chosen.engine,
            image=chosen.image,
            in_flight=chosen.in_flight,
            bare=bare,
            api=api,
            staging=directory / "pulsar" / "staging",
        )


async def until_up(api: httpx.AsyncClient) -> None:
    """Wait until the API answers."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(httpx.TransportError):
                (await api.get("/service-info")).raise_for_status()
                return
            await asyncio.sleep(0.1)


async def by_turns(
    running: Bench, rounds: int, ways: Mapping[str, Callable[[], Awaitable[float]]]
) -> dict[str, float]:
    """Return the median time of each way, measured one after another in each round."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(await way())
            await running.rest()
    return {name: statistics.median(each) for name, each in times.items()}


async def measure(chosen: argparse.Namespace) -> None:
    """Measure and print."""
    async with bench(chosen) as running:
        await by_turns(running, 2, {"": running.one_of_ours, "A": running.one_by_hand})
        ones = {
            "ours": running.one_of_ours,
            "A": running.one_by_hand,
            "B": running.one_command,
        }
        show_latency(await by_turns(running, chosen.ones, ones), chosen.engine)
        many = {
            "ours": lambda: running.ours(chosen.tasks),
            "A": lambda: running.by_hand(chosen.tasks),
            "B": lambda: running.command(chosen.tasks),
        }
        took = await by_turns(running, chosen.rounds, many)
        show_rates({name: chosen.tasks / each for name, each in took.items()})


def show_latency(took: Mapping[str, float], engine: str) -> None:
    """Print what one task takes."""
    print("one task at a time, ms")
    for name, words in (
        ("ours", "POST to COMPLETE"),
        ("A", "the same runner and order, by hand"),
        ("B", "the bare command through Pulsar"),
    ):
        extra = f"ours is {(took['ours'] - took[name]) * 1000:+.0f}" if name != "ours" else ""
        print(f"  {words:<36} {took[name] * 1000:7.0f}  {extra}")
    if engine == "host":
        return  # a bare `true` is in no sandbox: there is nothing to hold against it
    over = took["ours"] - took["B"]
    verdict = "kept" if over <= MUST_LATENCY_S else "MISSED"
    print(f"  must: at most {MUST_LATENCY_S * 1000:.0f} over the bare command: {verdict}")


def show_rates(rates: Mapping[str, float]) -> None:
    """Print how many tasks a second."""
    print("many at once, tasks/s")
    for name, words in (
        ("ours", "through the API"),
        ("A", "the same runner and order, by hand"),
        ("B", "the bare command"),
    ):
        share = f"ours is {rates['ours'] / rates[name]:.0%}" if name != "ours" else ""
        print(f"  {words:<36} {rates[name]:7.1f}  {share}")
    verdict = "kept" if rates["ours"] / rates["A"] >= MUST_RATE else "MISSED"
    print(f"  must: at least {MUST_RATE:.0%} of A: {verdict}")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end")
    parser.add_argument("--engine", choices=("docker", "host"), default="docker")
    parser.add_argument("--image", default="ubuntu:20.04")
    parser.add_argument("--tasks", type=int, default=60, help="in each round (60)")
    parser.add_argument("--in-flight", type=int, default=64, help="jobs at once (64)")
    parser.add_argument("--rounds", type=int, default=3, help="of many at once (3)")
    parser.add_argument("--ones", type=int, default=9, help="single tasks of each kind (9)")
    parser.add_argument(
        "--profiler", nargs="*", default=[], help="what to run the server under, after `python`"
    )
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
