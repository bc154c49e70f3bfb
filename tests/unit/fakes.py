"""Fakes with the shape of the ports: still time, a scripted Pulsar, a store with weather.

Nothing waits for real: `World.pass_` lets everything that can happen now happen, then moves the
time to the next moment somebody waits for.
"""

import asyncio
import base64
import heapq
import itertools
import json
import os
import tempfile
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from loguru import logger

from tesp_api.dispatcher import Dispatcher, Limits
from tesp_api.domain.errors import (
    OutOfReach,
    RunnerUnreachable,
    Stale,
    StorageUnreachable,
    StoreUnreachable,
)
from tesp_api.domain.lifecycle import CancelAsked, Withdrawn, advance
from tesp_api.domain.plan import Engine, Site
from tesp_api.domain.report import MARK
from tesp_api.domain.task import DriverId, JobId, Left, Task, TaskId
from tesp_api.domain.tes import Input, Output, State, TaskRequest
from tesp_api.duties import Duties
from tesp_api.lease import Lease
from tesp_api.orders import Orders
from tesp_api.ports import OVER, Phase, Sighting, Storage, TaskStore, Traces
from tesp_api.retention import Retention
from tesp_api.store.sqlite import SqliteStore
from tesp_api.verdict import Policy

MEMORY: Final = Path("/dev/shm")
CANCELABLE: Final = (State.QUEUED, State.INITIALIZING, State.RUNNING)
BEGINNING: Final = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
QUIET_TURNS: Final = 12
"""More turns of the event loop than lie between two calls of whatever is under way."""
LEASE_S: Final = 30.0
QUARANTINE_S: Final = 60.0
SITE: Final = Site(
    instance="test",
    engine=Engine(kind="docker", program="docker"),
    tail_bytes=100,
    heartbeat_s=30.0,
)
POLICY: Final = Policy(
    max_attempts=2, rerun_started=False, silence_s=120.0, quarantine_s=QUARANTINE_S
)
LIMITS: Final = Limits(max_jobs=4, patience_s=3600.0, poll_interval_s=4.0)


def new_task(task_id: str = "a", /, **request: Any) -> Task:
    """Return a task as it is when it was just posted."""
    document = {"executors": [{"image": "ubuntu", "command": ["true"]}], **request}
    return Task(
        id=TaskId(task_id),
        request=TaskRequest.model_validate(document),
        state=State.QUEUED,
        created_at=BEGINNING,
    )


def frame(job: str, outcome: str = "complete", **more: Any) -> str:
    """Return the line that the runner prints at its end."""
    plain = json.dumps({"version": 1, "job": job, "outcome": outcome, **more}).encode()
    return MARK + base64.b64encode(zlib.compress(plain)).decode() + "\n"


class StillTime:
    """Time that moves only when it is told to. Clocks on it may show what they like."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self._alarms: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    def alarm(self, due: float) -> asyncio.Future[None]:
        """Return what is done when that moment has come."""
        alarm = asyncio.get_running_loop().create_future()
        heapq.heappush(self._alarms, (due, next(self._numbers), alarm))
        return alarm

    def next_due(self) -> float | None:
        """Return when the next one who waits will be woken."""
        while self._alarms and self._alarms[0][2].done():
            heapq.heappop(self._alarms)
        return self._alarms[0][0] if self._alarms else None

    def move(self, moment: float) -> None:
        """Let it be that moment, and wake whoever waited for it."""
        self.elapsed = max(self.elapsed, moment)
        while self._alarms and self._alarms[0][0] <= self.elapsed:
            alarm = heapq.heappop(self._alarms)[2]
            if not alarm.done():
                alarm.set_result(None)


class StillClock:
    """Clock of one machine: its wall may be wrong, its monotonic seconds begin anywhere."""

    def __init__(
        self, time: StillTime, *, wrong_s: float = 0.0, since_boot_s: float = 1000.0
    ) -> None:
        self._time = time
        self._wrong_s = wrong_s
        self._since_boot_s = since_boot_s

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=self._time.elapsed + self._wrong_s)

    def monotonic(self) -> float:
        return self._time.elapsed + self._since_boot_s

    async def sleep(self, seconds: float) -> None:
        await self._time.alarm(self._time.elapsed + seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        if event.is_set() or (seconds is not None and seconds <= 0):
            return
        waiting = asyncio.ensure_future(event.wait())
        alarms = () if seconds is None else (self._time.alarm(self._time.elapsed + seconds),)
        try:
            await asyncio.wait({waiting, *alarms}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            for alarm in alarms:
                alarm.cancel()


@dataclass
class Gate:
    """What stands before (or behind) each call of a neighbour: weather, a hook, a counter.

    `down` names calls that fail without effect, `deaf` calls whose effect takes place unheard.
    """

    trouble: Callable[[str], Exception]
    down: set[str] = field(default_factory=set)
    deaf: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    hook: Callable[[str, bool], Awaitable[None]] | None = None
    """Awaited before (False) and after (True) each call."""

    async def through(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        self.calls.append(name)
        if self.hook:
            await self.hook(name, False)
        if name in self.down:
            raise self.trouble(name)
        answer = await call()
        if self.hook:
            await self.hook(name, True)
        if name in self.deaf:
            raise self.trouble(name)
        return answer


class WeatherStore:
    """A TaskStore before a real one; `sole` as one likes it, and it knows when it is at rest."""

    def __init__(self, real: TaskStore) -> None:
        self.sole = True
        self.gate = Gate(lambda name: StoreUnreachable(f"no store for {name}"))
        self.at_rest = asyncio.Event()
        self.at_rest.set()
        self._real = real
        self._under_way = 0

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any) -> Any:
            return await self.gate.through(name, lambda: self._do(name, args))

        return call

    async def _do(self, name: str, args: tuple[Any, ...]) -> Any:
        self._under_way += 1
        self.at_rest.clear()
        try:
            return await getattr(self._real, name)(*args)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self.at_rest.set()


@dataclass(frozen=True, kw_only=True)
class Script:
    """How a run job goes. Moments are seconds after its start."""

    queue_s: float = 0.05
    run_s: float = 0.3
    outcome: str | None = "complete"
    """What the runner reports; None: it dies without a word."""
    begins: bool = True
    """Whether an executor is started when the job runs."""
    vanishes_s: float | None = None
    """When Pulsar loses all memory of it; its containers live on."""
    freezes_s: float | None = None
    """When runner and heart stop, while Pulsar goes on saying `running`."""
    says_running: bool = False
    """Whether Pulsar says `running` for ever, as it does after its own restart."""
    watchdog: bool = True
    forgotten: bool = False
    """Pulsar takes it, and is killed before it starts it: it waits for its submit again."""
    fails: bool = False
    """Pulsar cannot run it."""
    left: tuple[Left, ...] = ()
    """What the run job leaves on the node."""


@dataclass
class FakeJob:
    """A directory at Pulsar and what ran in it."""

    id: JobId
    order: Mapping[str, Any] | None
    script: Script
    started: float
    killed: float | None = None
    gutted: bool = False
    """Whether its directory was removed under it."""

    @property
    def mode(self) -> str:
        return str((self.order or {}).get("mode", "run"))

    @property
    def is_reaper(self) -> bool:
        return self.mode == "reap"

    def end(self) -> float:
        """Return when its runner's work ends by itself."""
        return self.started + self.script.queue_s + self.script.run_s

    def stopped(self) -> float:
        """Return when nothing of the runner is left, whatever Pulsar thinks."""
        ends = [self.end(), self.killed if self.killed is not None else self.end()]
        if self.script.freezes_s is not None:
            ends.append(self.started + self.script.freezes_s)
        return min(ends)

    def phase(self, now: float) -> Phase:
        if self.gutted and (now >= self.stopped() or self.killed is not None):
            return Phase.SET_UP  # Pulsar makes a new directory to write the end into
        if self.script.forgotten and self.killed is None:
            return Phase.SET_UP
        if self.script.fails:
            return Phase.FAILED
        frozen = self.script.freezes_s is not None or self.script.says_running
        if self.killed is not None and (frozen or self.killed < self.end()):
            return Phase.KILLED
        if now < self.started + self.script.queue_s:
            return Phase.WAITING
        return Phase.RUNNING if frozen or now < self.end() else Phase.ENDED

    def ran(self, now: float) -> bool:
        """Whether the runner was ever up."""
        up = self.started + self.script.queue_s
        if self.script.forgotten or self.script.fails:
            return False
        return self.order is not None and self.stopped() >= up <= now

    def reported(self, now: float) -> bool:
        return (
            not self.gutted
            and self.ran(now)
            and self.stopped() == self.end() <= now
            and bool(self.script.outcome)
        )


class ScriptedPulsar:
    """JobRunner: a Pulsar with the manners of the real one, and a list of sins against it."""

    name = "http://pulsar.test"

    def __init__(self, time: StillTime) -> None:
        self.gate = Gate(lambda name: RunnerUnreachable(f"no Pulsar for {name}"))
        self.jobs: dict[JobId, FakeJob] = {}
        self.scripts: list[Script] = []
        """For the next run jobs, in their order; then the default."""
        self.runs: list[JobId] = []
        self.sends: dict[JobId, Mapping[str, Any]] = {}
        """The orders of jobs that were to send what others had left."""
        self.reaped: list[JobId] = []
        self.sins: list[str] = []
        self.broken_reapers = 0
        self.sticky_deletes = 0
        self._time = time
        self._ghosts: dict[JobId, FakeJob] = {}
        self._deleted: set[JobId] = set()

    async def start(self, job: JobId, order: Mapping[str, Any], *, again: bool = True) -> None:
        assert again or job not in self.jobs, f"{job} was sent before, unheard"
        await self.gate.through("start", lambda: self._start(job, order))

    async def has_unbegun(self, job: JobId) -> bool:
        return bool(await self.gate.through("has_unbegun", lambda: self._has_unbegun(job)))

    async def look(self, job: JobId) -> Sighting:
        return await self.gate.through("look", lambda: self._look(job))

    async def kill(self, job: JobId) -> None:
        await self.gate.through("kill", lambda: self._kill(job))

    async def settle(self, job: JobId) -> Traces:
        return await self.gate.through("settle", lambda: self._settle(job))

    async def forget(self, job: JobId) -> None:
        await self.gate.through("forget", lambda: self._forget(job))

    async def ping(self) -> str:
        return "fake"

    async def close(self) -> None: ...

    def living(self, task: TaskId) -> list[JobId]:
        """Return the run jobs of the task of which a runner or container may still be up."""
        jobs = [*self.jobs.values(), *self._ghosts.values()]
        return [job.id for job in jobs if self._lives(job) and (job.order or {})["task"] == task]

    def gut(self, job: JobId) -> None:
        """Remove its directory under it; what runs, runs on."""
        self.jobs[job].gutted = True

    def lose(self, job: JobId) -> None:
        """Have Pulsar forget the job, directory and all; what runs, runs on."""
        self._ghosts[job] = self.jobs.pop(job)

    def _lives(self, job: FakeJob) -> bool:
        now = self._time.elapsed
        if job.order is None or job.is_reaper or not job.ran(now) or job.id in self.reaped:
            return False
        if now < job.stopped():
            return True
        clean = job.reported(now) or (job.script.watchdog and job.id not in self._ghosts)
        return not clean or now < job.stopped() + (0 if job.reported(now) else 8)

    async def _start(self, job: JobId, order: Mapping[str, Any]) -> None:
        if job in self._deleted:
            self.sins.append(f"{job} was used again after its deletion")
        if job in self.jobs and not self.jobs[job].script.forgotten:
            return
        script = Script()
        if order.get("mode") != "reap":
            if living := self.living(order["task"]):
                self.sins.append(f"{job} began while {living} lived")
            if order.get("mode") == "send":
                self.sends[job] = order
            else:
                self.runs.append(job)
            script = self.scripts.pop(0) if self.scripts else script
        elif self.broken_reapers:
            self.broken_reapers -= 1
            script = Script(outcome=None)
        self.jobs[job] = FakeJob(job, order, script, self._time.elapsed)

    async def _has_unbegun(self, job: JobId) -> bool:
        found = self.jobs.get(job)
        return found is not None and not found.gutted and not found.ran(self._time.elapsed)

    async def _look(self, job: JobId) -> Sighting:
        self._settle_fates()
        found = self.jobs.get(job)
        if found is None:
            return Sighting(phase=Phase.UNKNOWN)
        phase = found.phase(self._time.elapsed)
        output = self._report(found) if phase in OVER else None
        return Sighting(phase=phase, output=output or "", exit_code=None if output else 1)

    async def _kill(self, job: JobId) -> None:
        now = self._time.elapsed
        self._settle_fates()
        found = self.jobs.setdefault(job, FakeJob(job, None, Script(), now))
        if found.killed is None and found.phase(now) not in OVER:
            found.killed = now

    async def _settle(self, job: JobId) -> Traces:
        self._settle_fates()
        now, found = self._time.elapsed, self.jobs.get(job)
        if found is None or found.gutted or not found.ran(now):
            return Traces()
        begun = [json.dumps({"event": "executor_start", "index": 0})] if found.script.begins else []
        return Traces(
            report=self._report(found),
            heartbeat=str(int(min(now, found.stopped()) - found.started) // 30),
            journal="\n".join(begun) or None,
            watch="watching\n" if self._lives(found) else "reaped\n",
        )

    async def _forget(self, job: JobId) -> None:
        self._settle_fates()
        found = self.jobs.get(job)
        if found is None:
            return
        if found.phase(self._time.elapsed) not in OVER and not found.gutted:
            self.sins.append(f"{job} was deleted while it ran")
        if self.sticky_deletes:
            self.sticky_deletes -= 1
            return
        del self.jobs[job]
        self._deleted.add(job)

    def _report(self, job: FakeJob) -> str | None:
        if not job.reported(self._time.elapsed):
            return None
        if job.is_reaper:
            return frame(job.id)
        outcome = job.script.outcome or ""
        reason = None if outcome == "complete" else "it failed"
        if job.mode == "send":
            files = enumerate((job.order or {})["files"])
            etags = [
                (number, ["e"] * len(file["parts"])) for number, file in files if "parts" in file
            ]
            return frame(job.id, outcome, reason=reason, etags=etags)
        code = 0 if outcome == "complete" else 3
        left = [(one.output, one.path, one.below, one.size_bytes) for one in job.script.left]
        return frame(job.id, outcome, executors=[{"exit_code": code}], reason=reason, left=left)

    def _settle_fates(self) -> None:
        """Do what time has done: jobs vanish, reapers reap."""
        for job in list(self.jobs.values()):
            vanishes = job.script.vanishes_s
            if vanishes is not None and self._time.elapsed >= job.started + vanishes:
                self.lose(job.id)
            if job.is_reaper and job.reported(self._time.elapsed):
                self.reaped.append((job.order or {})["of"])


class FakeStorage:
    """Storage that serves everything, and large files in parts; it knows what became of those."""

    LARGE = 1000

    def __init__(self) -> None:
        self.gate = Gate(lambda name: StorageUnreachable(f"no storage for {name}"))
        self.cursed = False
        """Whether it has no way to anything."""
        self.closed_mouth = False
        """Whether it tells nobody which uploads are under way."""
        self.signed = 0
        self.of_others = ["somebody's"]
        self.begun: list[str] = []
        self.completed: list[str] = []
        self.aborted: list[str] = []

    def refusal(self, _item: Input | Output, _owner: str | None) -> str | None:
        return None

    async def fetch_order(self, item: Input, _owner: str | None) -> Mapping[str, Any]:
        return {"path": item.path, "type": item.type.value, "url": self._sign(item.url)}

    async def send_order(self, item: Output, _owner: str | None) -> Mapping[str, Any]:
        return {"path": item.path, "type": item.type.value, "url": self._sign(item.url)}

    async def stage_order(
        self, item: Output, left: Left, _owner: str | None, upload: str | None
    ) -> Mapping[str, Any]:
        url = self._sign(f"{item.url}/{left.below}")
        return {"url": url} if upload is None else {"parts": [f"{url}/{upload}"] * 3}

    async def open_uploads(
        self, _item: Output, left: Left, _owner: str | None
    ) -> Sequence[str] | None:
        if left.size_bytes < self.LARGE:
            return None
        return list(await self.gate.through("list", self._open))

    async def begin_upload(self, _item: Output, _left: Left, _owner: str | None) -> str:
        return str(await self.gate.through("begin", self._begin))

    async def complete_upload(
        self, _item: Output, _left: Left, _owner: str | None, upload: str, etags: Sequence[str]
    ) -> None:
        assert len(etags) == 3
        await self.gate.through("complete", lambda: self._write(self.completed, upload))

    async def abort_upload(
        self, _item: Output, _left: Left, _owner: str | None, upload: str
    ) -> None:
        await self.gate.through("abort", lambda: self._write(self.aborted, upload))

    def served(self) -> Sequence[str]:
        return ()

    def _sign(self, url: str | None) -> str:
        if self.cursed:
            raise OutOfReach(f"{url} is out of reach.")
        self.signed += 1
        return f"{url}?signature={self.signed}"

    async def _open(self) -> Sequence[str]:
        if self.closed_mouth:
            raise OutOfReach("list: access denied.")
        return self.open

    @property
    def open(self) -> Sequence[str]:
        """Return what is under way; all files are as one here."""
        ended = {*self.completed, *self.aborted}
        return [one for one in (*self.of_others, *self.begun) if one not in ended]

    async def _begin(self) -> str:
        self.begun.append(f"upload-{len(self.begun)}")
        return self.begun[-1]

    async def _write(self, written: list[str], upload: str) -> None:
        written.append(upload)


class World:
    """Everything around one or more dispatchers over one store and one Pulsar."""

    def __init__(self, real: TaskStore) -> None:
        self.time = StillTime()
        self.store = WeatherStore(real)
        self.pulsar = ScriptedPulsar(self.time)
        self.storage = FakeStorage()
        self.clock = StillClock(self.time)
        self.bugs: list[str] = []
        """What was logged as one; a test that wants some empties it."""
        self.running: dict[Dispatcher, asyncio.Task[None]] = {}
        self._names = itertools.count()

    def begin(
        self,
        *,
        clock: StillClock | None = None,
        policy: Policy = POLICY,
        limits: Limits = LIMITS,
        storage: Storage | None = None,
        store: Any = None,
        retention_days: float | None = None,
    ) -> Dispatcher:
        """Start a driver of its own."""
        clock, store = clock or self.clock, store or self.store
        orders = Orders(storage or self.storage, SITE)
        dispatcher = Dispatcher(
            store,
            Duties(self.pulsar, orders, policy, clock),
            Lease(store, clock, DriverId(f"driver-{next(self._names)}"), LEASE_S),
            clock,
            limits,
            retention=Retention(store, clock, retention_days) if retention_days else None,
        )
        self.running[dispatcher] = asyncio.create_task(dispatcher.run())
        return dispatcher

    async def crash(self, dispatcher: Dispatcher | None = None) -> None:
        """End a driver (or all) as kill -9 would: it says good-bye to nobody."""
        for one in [dispatcher] if dispatcher else list(self.running):
            running = self.running.pop(one)
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        await self.settle()

    async def post(self, task_id: str = "a", /, **request: Any) -> TaskId:
        task = new_task(task_id, **request)
        await self.store.add(task)
        for dispatcher in self.running:
            dispatcher.new_task()
        return task.id

    async def cancel(self, task_id: TaskId, by: Dispatcher | None = None) -> None:
        """Cancel as the service does; only `by`, or nobody, is told."""
        while (task := await self.task(task_id)).state in CANCELABLE:
            never = task.state is State.QUEUED and not task.jobs
            event = Withdrawn if never else CancelAsked
            with suppress(Stale):
                await self.store._real.save(advance(task, event(at=self.clock.now())))
        if by is not None:
            by.changed(task_id)

    async def task(self, task_id: TaskId) -> Task:
        task = await self.store._real.get(task_id)
        assert task is not None
        return task

    async def settle(self) -> None:
        """Let everything happen that can happen at this moment."""
        quiet, seen = 0, -1
        while quiet < QUIET_TURNS:
            await self.store.at_rest.wait()
            await asyncio.sleep(0)
            calls = len(self.store.gate.calls) + len(self.pulsar.gate.calls)
            moved = calls != seen or not self.store.at_rest.is_set()
            quiet, seen = (0 if moved else quiet + 1), calls

    async def pass_(self, seconds: float) -> None:
        """Let so much time pass."""
        await self.until(lambda: False, seconds, must=False)

    async def until(
        self, happened: Callable[[], bool], within_s: float = 3600.0, *, must: bool = True
    ) -> None:
        """Let time pass until it has happened."""
        end = self.time.elapsed + within_s
        await self.settle()
        while not happened():
            due = self.time.next_due()
            if due is None or due > end:
                self.time.move(end)
                await self.settle()
                assert happened() or not must, f"not within {within_s} s"
                return
            self.time.move(due)
            await self.settle()

    async def until_state(self, task_id: TaskId, *states: State, within_s: float = 3600.0) -> Task:
        """Let time pass until the task is in one of these states."""
        end = self.time.elapsed + within_s
        while (task := await self.task(task_id)).state not in states:
            assert self.time.elapsed < end, f"{task_id} is {task.state} after {within_s} s"
            calls = len(self.store.gate.calls)
            await self.until(lambda calls=calls: len(self.store.gate.calls) > calls, within_s)
        return task

    async def until_tidy(self, task_id: TaskId, within_s: float = 600.0) -> Task:
        """Let time pass until nothing of the task is left at Pulsar."""
        end = self.time.elapsed + within_s
        while (task := await self.task(task_id)).untidy:
            assert self.time.elapsed < end, f"{task.leftovers} after {within_s} s"
            await self.pass_(1.0)
        return task


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """Give a world over a real store; whatever drives in it has ended afterwards."""
    place = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as directory:
        store = SqliteStore(Path(directory) / "tasks.db", synchronous="NORMAL")
        await store.open()
        made = World(store)
        sink = logger.add(lambda line: made.bugs.append(str(line)), level="ERROR")
        try:
            yield made
        finally:
            await made.crash()
            await store.close()
            logger.remove(sink)
    assert not made.bugs, made.bugs[0]
    assert not made.pulsar.sins, made.pulsar.sins


def patient(**changes: Any) -> Policy:
    """Return the policy of these tests with something else in it."""
    return replace(POLICY, **changes)
