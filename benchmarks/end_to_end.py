"""What a task costs from POST to COMPLETE, over the same job given to the same Pulsar by hand.

By turns, so that a busy machine slows all alike: N tasks that do nothing through the API, the same
runner and order N times through a bare client (A), and the bare command N times (B: `docker run`,
or `true` through Pulsar for the host engine), each with the same number in flight. Then one at a
time: POST to COMPLETE, against A and against the bare command through Pulsar. Medians of the
rounds; and what the server itself took. Everything runs on loopback in a directory that is removed
at the end. With `--transport amqp` both go by the messages of the broker TESP_TEST_AMQP_URL.

    python -m benchmarks.end_to_end [--engine docker] [--tasks 60] [--in-flight 64] [--rounds 3]
    python -m benchmarks.end_to_end --transport amqp --tasks 2000 --rounds 1 --only-ours
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
from typing import Any, Final, Protocol

import httpx

from benchmarks.by_messages import Messages, broker
from tesp_api.domain.plan import Engine, Site, run_order
from tesp_api.domain.report import Verdict, unframe
from tesp_api.domain.task import JobId, Task, TaskId
from tesp_api.domain.tes import State, TaskRequest
from tesp_api.local.own_pulsar import OwnPulsar, free_port
from tesp_api.pulsar.rest import RestRunner
from tesp_api.pulsar.wire import PARCEL, Parcels, command, submission
from tests.amqp_pulsars import AmqpPulsar

CONNECTIONS: Final = 6
FIRST_LOOK_S: Final = 0.15
"""The bare client asks as our server does: first after this, then after a share of the age."""
SHARE_OF_AGE: Final = 0.12
CLOSE_LOOK_S: Final = 0.01
PATIENCE_S: Final = 3600.0
MUST_RATE: Final = 0.85
MUST_LATENCY_S: Final = 0.3


class Bare(Protocol):
    """A client of Pulsar that does what must be done for a job, and nothing else."""

    async def run(self, job: JobId, order: Mapping[str, Any]) -> None:
        """Have the runner carry out an order."""

    async def begin(self, job: JobId, command: str) -> None:
        """Have a bare command run."""

    async def end(self, job: JobId, *, closely: bool = False) -> Mapping[str, Any]:
        """Wait for the end and return what Pulsar says of it."""

    async def delete(self, job: JobId) -> None:
        """Remove the job's directory."""


class Requests:
    """Such a client over REST."""

    def __init__(self, pulsar: OwnPulsar) -> None:
        self._token = {"private_token": pulsar.token}
        self._parcels = Parcels()
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

    async def run(self, job: JobId, order: Mapping[str, Any]) -> None:
        """Upload the runner with an order, and submit."""
        query = {"name": PARCEL, "type": "input"}
        await self._call("POST", f"/jobs/{job}/files", query, self._parcels.pack(order))
        await self.begin(job, command(PARCEL))

    async def begin(self, job: JobId, command: str) -> None:
        """Submit."""
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


BUSY = "Text file busy"
"""Pulsar forks while another thread still writes its script: now and then a job cannot start. The
server tries such a job again, and so does the bare client."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The running parts, and what is measured on them."""

    engine: str
    image: str
    in_flight: int
    bare: Bare
    api: httpx.AsyncClient
    staging: Path
    server: int
    """The number of the API's process."""
    used_s: list[float] = field(default_factory=list)
    """Its CPU seconds for each batch."""
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def body(self) -> dict[str, Any]:
        """The task that does nothing."""
        return {"executors": [{"image": self.image, "command": ["true"]}]}

    async def ours(self, tasks: int) -> float:
        """Return how long so many tasks take through the API."""
        batch = f"batch-{next(self.numbers)}"
        body = {**self.body, "tags": {"batch": batch}}
        begun, used_s = time.monotonic(), cpu_s(self.server)
        await bounded(CONNECTIONS, [lambda: self._post(body)] * tasks)
        async with asyncio.timeout(PATIENCE_S):
            while await self._complete(batch) < tasks:  # noqa: ASYNC110 - as a client of TES must
                await asyncio.sleep(max(0.05, tasks / 2000))
        self.used_s.append(cpu_s(self.server) - used_s)
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
        await self.bare.run(job, order)
        status = await self.bare.end(job, closely=closely)
        if BUSY in status["job_stderr"]:
            return await self._runner_job(closely=closely)
        report = unframe(status["job_stdout"], job)
        if report is None or report.outcome is not Verdict.COMPLETE:
            raise RuntimeError(f"the bare job failed: {status}, {report}")
        return job

    async def _command_job(self, *, closely: bool = False) -> JobId:
        job = JobId(f"bare-{next(self.numbers)}")
        command = "true" if self.engine == "host" else f"docker run --rm {self.image} true"
        await self.bare.begin(job, command)
        status = await self.bare.end(job, closely=closely)
        if BUSY in status["job_stderr"]:
            return await self._command_job(closely=closely)
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
        heartbeat_s=30.0,
    )


@asynccontextmanager
async def server(
    directory: Path, reached: Mapping[str, str], chosen: argparse.Namespace
) -> AsyncIterator[tuple[str, int]]:
    """Run the API in a process of its own; give its address and number."""
    port = free_port("127.0.0.1")
    settings = {
        "CONTAINER_TYPE": chosen.engine,
        "TESP_DB__SQLITE_PATH": str(directory / "tasks.db"),
        **reached,
        "TESP_PULSAR__MAX_JOBS": str(chosen.in_flight),
        "TESP_SERVER__PORT": str(port),
        "TESP_LOGGING__LEVEL": "WARNING",
    }
    command = [sys.executable, *chosen.profiler, "-m", "tesp_api", "serve"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, env={**os.environ, **settings}
    )
    try:
        yield f"http://127.0.0.1:{port}/ga4gh/tes/v1", process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@asynccontextmanager
async def by_rest(directory: Path) -> AsyncIterator[tuple[Bare, Mapping[str, str]]]:
    """Run a Pulsar; give a client, and the settings by which a server reaches it too."""
    pulsar = OwnPulsar(directory)
    await pulsar.start()
    bare = Requests(pulsar)
    try:
        probe = RestRunner(pulsar.url, token=pulsar.token)
        await pulsar.wait_until_up(probe)
        await probe.close()
        settings = {"TESP_PULSAR__URL": pulsar.url, "TESP_PULSAR__PRIVATE_TOKEN": pulsar.token}
        yield bare, settings
    finally:
        await bare.close()
        await pulsar.stop()


@asynccontextmanager
async def by_amqp(directory: Path) -> AsyncIterator[tuple[Bare, Mapping[str, str]]]:
    """Do the same behind a broker."""
    pulsar = AmqpPulsar(directory, broker())
    pulsar.begin()
    try:
        await asyncio.to_thread(pulsar.wait_until_up)
        bare = Messages(pulsar)
        await bare.open()
        yield (
            bare,
            {
                "TESP_PULSAR__AMQP_URL": pulsar.amqp_url,
                "TESP_PULSAR__MANAGER": pulsar.managers[0],
            },
        )
        await bare.close()
    finally:
        await asyncio.to_thread(pulsar.stop)


@asynccontextmanager
async def bench(chosen: argparse.Namespace) -> AsyncIterator[Bench]:
    """Start everything; end it afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        root = Path(__file__).parents[1]
        os.environ["PYTHONPATH"] = str(root)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tesp-bench-")))
        start = {"rest": by_rest, "amqp": by_amqp}[chosen.transport]
        bare, reached = await stack.enter_async_context(start(directory / "pulsar"))
        base, pid = await stack.enter_async_context(server(directory, reached, chosen))
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
            server=pid,
        )


def cpu_s(pid: int) -> float:
    """Return what a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    user, system = fields[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """Return the most memory that a process had."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


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
        wanted = {"ours": many["ours"]} if chosen.only_ours else many
        took = await by_turns(running, chosen.rounds, wanted)
        show_rates({name: chosen.tasks / each for name, each in took.items()})
        show_cost(statistics.median(running.used_s) / chosen.tasks, peak_mib(running.server))


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
        if name not in rates:
            continue
        share = f"ours is {rates['ours'] / rates[name]:.0%}" if name != "ours" else ""
        print(f"  {words:<36} {rates[name]:7.1f}  {share}")
    if "A" in rates:
        verdict = "kept" if rates["ours"] / rates["A"] >= MUST_RATE else "MISSED"
        print(f"  must: at least {MUST_RATE:.0%} of A: {verdict}")


def show_cost(task_s: float, peak: float) -> None:
    """Print what the server itself takes."""
    print(f"the server: {task_s * 1000:.1f} ms of CPU a task, at most {peak:.0f} MiB of memory")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end")
    parser.add_argument("--engine", choices=("docker", "host"), default="docker")
    parser.add_argument("--transport", choices=("rest", "amqp"), default="rest")
    parser.add_argument("--only-ours", action="store_true", help="many at once: the server alone")
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
