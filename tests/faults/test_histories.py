"""Random histories over both stores: whatever happens, in whatever order, each task has one end.

Several drivers begin, die, and stand still for longer than their lease while the others go on;
Pulsar, store and storage are away, or do what they were asked and do not say so; jobs die, vanish
and are cancelled. Afterwards the weather clears, and the books must balance.
"""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

import pymongo
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from loguru import logger

from tesp_api.dispatcher import Dispatcher
from tesp_api.domain.lifecycle import TERMINAL
from tesp_api.domain.task import DriverId, JobId, Left, Purpose, Task, TaskId
from tesp_api.domain.tes import State
from tesp_api.duties import Duties
from tesp_api.lease import Lease
from tesp_api.orders import Orders
from tesp_api.ports import TaskStore
from tesp_api.store.mongo import MongoStore
from tesp_api.store.sqlite import SqliteStore
from tests.faults.table import whole
from tests.needs import need
from tests.unit.fakes import (
    LEASE_S,
    LIMITS,
    MEMORY,
    POLICY,
    QUARANTINE_S,
    SITE,
    FakeJob,
    Script,
    ScriptedPulsar,
    StillClock,
    StillTime,
    World,
)

T = TypeVar("T")
MOST_DRIVERS: Final = 3
MOST_TASKS: Final = 6
HOUR: Final = 3600.0
NUMBERS: Final = st.integers(min_value=0, max_value=11)
PULSAR_CALLS: Final = ("start", "look", "kill", "settle", "forget")
STORE_CALLS: Final = ("get", "save", "queued", "driven", "slots", "beat", "untidy", "retire")
STORAGE_CALLS: Final = ("begin", "complete", "abort")
LEFT: Final = (Left(output=0, path="/out/a", below="a", size_bytes=2000),)
OUTPUT: Final = [{"path": "/out", "url": "s3://bucket/out", "type": "DIRECTORY"}]
FATES: Final = (
    Script(),
    Script(run_s=60.0),
    Script(run_s=900.0),
    Script(outcome="executor_error"),
    Script(outcome="system_error"),
    Script(left=LEFT),
    Script(outcome=None, begins=False),
    Script(outcome=None),
    Script(outcome=None, watchdog=False),
    Script(run_s=200.0, freezes_s=30.0),
    Script(run_s=30.0, says_running=True),
    Script(fails=True),
    Script(queue_s=100.0),
)
FAIR: Final = frozenset({Script(), Script(run_s=60.0), Script(run_s=900.0), Script(queue_s=100.0)})
"""Fates that end well when nobody interferes."""


class Book(ScriptedPulsar):
    """A Pulsar that keeps a book of every job there ever was."""

    def __init__(self, time: StillTime) -> None:
        super().__init__(time)
        self.book: list[FakeJob] = []

    async def _start(self, job: JobId, order: Mapping[str, Any]) -> None:
        before = self.jobs.get(job)
        await super()._start(job, order)
        if self.jobs[job] is not before:
            self.book.append(self.jobs[job])

    def of(self, task: TaskId, mode: str = "run") -> list[FakeJob]:
        """Return the task's jobs of that kind."""
        return [one for one in self.book if (one.order or {})["task"] == task and one.mode == mode]

    def begun(self, job: FakeJob) -> bool:
        """Whether the job started an executor."""
        return job.script.begins and job.ran(self._time.elapsed)


@dataclass(eq=False)
class Process:
    """All that one driver does passes here; while it stands still, nothing does."""

    runs: asyncio.Event = field(default_factory=asyncio.Event)
    dispatcher: Dispatcher | None = None
    permit: Callable[[], None] = lambda: None

    def before(self, real: Any, *, permitted: bool) -> Any:
        """Return `real` as this process sees it."""
        return _Between(self, real, permitted)


class _Between:
    def __init__(self, process: Process, real: Any, permitted: bool) -> None:
        self._process, self._real, self._permitted = process, real, permitted

    def __getattr__(self, name: str) -> Any:
        there = getattr(self._real, name)
        if not callable(there):
            return there

        async def call(*args: Any, **more: Any) -> Any:
            await self._process.runs.wait()
            if self._permitted:
                self._process.permit()
            return await there(*args, **more)

        return call


class Replicas(World):
    """A world whose drivers can be stopped, each with a clock of its own."""

    def __init__(self, real: TaskStore) -> None:
        super().__init__(real)
        self.store.sole = False
        self.pulsar = self.book = Book(self.time)
        self.processes: list[Process] = []

    async def start(self, wrong_s: float) -> None:
        """Start a driver whose wall clock is that wrong."""
        process = Process()
        process.runs.set()
        clock = StillClock(self.time, wrong_s=wrong_s, since_boot_s=abs(wrong_s))
        store = process.before(self.store, permitted=False)
        lease = Lease(store, clock, DriverId(f"driver-{next(self._names)}"), LEASE_S)
        process.permit = lease.permit
        pulsar = process.before(self.pulsar, permitted=True)
        duties = Duties(pulsar, Orders(self.storage, SITE), POLICY, clock)
        process.dispatcher = Dispatcher(store, duties, lease, clock, LIMITS)
        self.running[process.dispatcher] = asyncio.create_task(process.dispatcher.run())
        self.processes.append(process)

    async def end(self, process: Process) -> None:
        """kill -9."""
        self.processes.remove(process)
        await self.crash(process.dispatcher)

    async def clear(self) -> None:
        """End all bad weather, and have somebody there to work."""
        for gate in (self.store.gate, self.pulsar.gate, self.storage.gate):
            gate.down.clear()
            gate.deaf.clear()
        for process in self.processes:
            process.runs.set()
        if not self.processes:
            await self.start(0.0)


class Histories(RuleBasedStateMachine):
    """Does whatever Hypothesis thinks of; `store` is given by the classes below."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.exits = AsyncExitStack()
        self.tasks: dict[TaskId, Task] = {}
        self.canceled: set[TaskId] = set()
        self.harmed: set[JobId] = set()
        self.world = self.do(self._open())

    def store(self) -> TaskStore:
        raise NotImplementedError

    def do(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)

    async def _open(self) -> Replicas:
        store = self.store()
        await store.open()
        self.exits.push_async_callback(store.close)
        world = Replicas(store)
        self.exits.push_async_callback(world.crash)
        sink = logger.add(lambda line: world.bugs.append(str(line)), level="ERROR")
        self.exits.callback(logger.remove, sink)
        await world.start(0.0)
        await world.settle()
        return world

    # --- what happens: drawn without a look at the world, so that a history can be told again ---

    @rule(fate=st.sampled_from(FATES), twice=st.booleans())
    def post(self, fate: Script, twice: bool) -> None:
        for _ in range(1 + twice):
            if len(self.tasks) < MOST_TASKS:
                self.world.pulsar.scripts.append(fate)
                self.do(self._post(TaskId(f"t{len(self.tasks)}")))

    async def _post(self, task_id: TaskId) -> None:
        down, self.world.store.gate.down = self.world.store.gate.down, set()
        await self.world.post(task_id, outputs=OUTPUT)
        self.world.store.gate.down = down
        self.tasks[task_id] = await self.world.task(task_id)
        await self.world.settle()

    @rule(seconds=st.sampled_from([0.0, 0.06, 0.3, 1.0, 3.0, 12.0, 35.0, 150.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.world.pass_(seconds))

    @rule(number=NUMBERS, teller=st.none() | NUMBERS)
    def cancel(self, number: int, teller: int | None) -> None:
        task_id = _chosen(number, sorted(self.tasks))
        if task_id is None:
            return
        self.canceled.add(task_id)
        told = None if teller is None else _chosen(teller, self.world.processes)
        self.do(self.world.cancel(task_id, told and told.dispatcher))
        self.do(self.world.settle())

    @rule(wrong_s=st.sampled_from([0.0, HOUR, -HOUR]))
    def a_process_begins(self, wrong_s: float) -> None:
        if len(self.world.processes) < MOST_DRIVERS:
            self.do(self.world.start(wrong_s))
            self.do(self.world.settle())

    @rule(number=NUMBERS)
    def a_process_dies(self, number: int) -> None:
        if process := _chosen(number, self.world.processes):
            self.do(self.world.end(process))

    @rule(number=NUMBERS)
    def a_process_is_stopped_or_goes_on(self, number: int) -> None:
        if process := _chosen(number, self.world.processes):
            (process.runs.clear if process.runs.is_set() else process.runs.set)()
            self.do(self.world.settle())

    @rule(calls=st.sets(st.sampled_from(PULSAR_CALLS)), deaf=st.booleans())
    def pulsar_s_weather(self, calls: set[str], deaf: bool) -> None:
        self._weather(self.world.pulsar.gate, calls, deaf=deaf)

    @rule(calls=st.sets(st.sampled_from(STORE_CALLS)), deaf=st.booleans())
    def the_store_s_weather(self, calls: set[str], deaf: bool) -> None:
        self._weather(self.world.store.gate, calls, deaf=deaf)

    @rule(calls=st.sets(st.sampled_from(STORAGE_CALLS)), deaf=st.booleans())
    def the_storage_s_weather(self, calls: set[str], deaf: bool) -> None:
        self._weather(self.world.storage.gate, calls, deaf=deaf)

    def _weather(self, gate: Any, calls: set[str], *, deaf: bool) -> None:
        gate.down, gate.deaf = (set(), calls) if deaf else (calls, set())

    @rule(number=NUMBERS)
    def pulsar_loses_a_job(self, number: int) -> None:
        job = _chosen(number, sorted(self.world.pulsar.jobs))
        if job is None or not self._known_there(job):
            return  # who crashed in a submit cannot tell a job that was lost from one never sent
        self.harmed.add(job)
        found = self.world.pulsar.jobs[job]
        if not found.ran(self.world.time.elapsed):
            self._stop(found)  # what was to be run has gone with the directory
        self.world.pulsar.lose(job)

    def _known_there(self, job: JobId) -> bool:
        tasks = (self.do(self.world.task(task_id)) for task_id in self.tasks)
        known = (one for task in tasks for one in task.jobs if one.id == job)
        return any(one.submitted or one.purpose is Purpose.REAP for one in known)

    @rule(number=NUMBERS)
    def a_runner_is_killed_unseen(self, number: int) -> None:
        job = _chosen(number, sorted(self.world.pulsar.jobs))
        found = self.world.pulsar.jobs[job] if job else None
        if found and found.script.freezes_s is None and self.world.time.elapsed < found.stopped():
            self.harmed.add(found.id)
            self._stop(found)

    def _stop(self, job: FakeJob) -> None:
        since = self.world.time.elapsed - job.started
        job.script = replace(job.script, freezes_s=since)

    # --- what always holds ---

    @invariant()
    def nobody_sins(self) -> None:
        assert not self.world.bugs, self.world.bugs[0]
        assert not self.world.pulsar.sins, self.world.pulsar.sins

    @invariant()
    def an_end_stays_the_end(self) -> None:
        for task_id, before in self.tasks.items():
            now = self.tasks[task_id] = self.do(self.world.task(task_id))
            assert before.state not in TERMINAL or now.state is before.state
            assert now.jobs[: len(before.jobs)] == before.jobs or _only_marked(before, now)
            assert task_id not in self.canceled or before.state in TERMINAL or _wanted(now)

    @invariant()
    def no_executor_runs_twice(self) -> None:
        for task_id in self.tasks:
            begun = [job.id for job in self.world.book.of(task_id) if self.world.book.begun(job)]
            assert len(begun) <= 1, begun

    # --- the end ---

    def teardown(self) -> None:
        try:
            self.do(self._balance())
        finally:
            self.do(self.exits.aclose())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()

    async def _balance(self) -> None:
        await self.world.clear()
        for task_id in self.tasks:
            try:
                await self.world.until_state(task_id, *TERMINAL, within_s=3 * HOUR)
                task = await self.world.until_tidy(task_id, within_s=HOUR + QUARANTINE_S)
            except AssertionError as error:
                raise AssertionError(self._told(await self.world.task(task_id))) from error
            self._check(task)
        self.nobody_sins()
        assert not self.world.pulsar.jobs
        storage = self.world.storage
        # One whose id never came to us cannot be told from one that others began.
        begun = {upload.id for task in self.tasks.values() for upload in task.uploads}
        assert begun <= {*storage.completed, *storage.aborted}

    def _told(self, task: Task) -> str:
        """Tell all that is known of a task that did not go as it should."""
        lines = [f"it is {self.world.time.elapsed}", str(task.state), *map(str, task.jobs)]
        lines += [str(attempt) for attempt in task.attempts]
        for job in self.world.book.book:
            if (job.order or {})["task"] == task.id:
                lines.append(f"{job.id} {job.mode} {job.started} {job.killed} {job.script}")
        for process in self.world.processes:
            dispatcher: Any = process.dispatcher
            drive = dispatcher._drives.get(task.id)
            lines.append(f"{dispatcher._lease.driver} {dispatcher._lease.held} {drive}")
        return "\n".join([*lines, *self.world.pulsar.gate.calls[-12:]])

    def _check(self, task: Task) -> None:
        book = self.world.book
        jobs = book.of(task.id)
        begun = [job for job in jobs if book.begun(job)]
        assert not book.living(task.id), f"{book.living(task.id)} live\n{self._told(task)}"
        assert (task.state is State.CANCELED) <= (task.id in self.canceled)
        if task.state in {State.COMPLETE, State.EXECUTOR_ERROR}:
            assert len(begun) == 1, self._told(task)
        if task.state is State.EXECUTOR_ERROR:
            assert begun[0].script.outcome == "executor_error"
        if len(task.attempts) > 1 and task.id not in self.canceled:
            assert [job for job in jobs if not book.begun(job)], "only a job that had not begun"
        fair = all(job.script in FAIR and job.id not in self.harmed for job in book.of(task.id))
        if task.id not in self.canceled and fair and jobs:
            assert task.state is State.COMPLETE, task


def _chosen(number: int, things: Sequence[T]) -> T | None:
    return things[number % len(things)] if things else None


def _only_marked(before: Task, now: Task) -> bool:
    """Whether the jobs are the same, but for what was learnt of them."""
    return [job.id for job in now.jobs[: len(before.jobs)]] == [job.id for job in before.jobs]


def _wanted(task: Task) -> bool:
    return task.state in TERMINAL or task.state is State.CANCELING


class OverSqlite(Histories):
    def store(self) -> TaskStore:
        place = MEMORY if os.access(MEMORY, os.W_OK) else None
        directory = self.exits.enter_context(tempfile.TemporaryDirectory(dir=place))
        return SqliteStore(Path(directory) / "tasks.db", synchronous="NORMAL")


class OverMongo(Histories):
    def store(self) -> TaskStore:
        server = os.environ["TESP_TEST_MONGODB_URI"]
        name = f"tesp_test_{uuid4().hex[:16]}"
        self.exits.callback(_drop, server, name)
        return MongoStore(f"{server.rstrip('/')}/{name}")


def _drop(server: str, name: str) -> None:
    with pymongo.MongoClient(server) as client:
        client.drop_database(name)


def _settings(few: int, many: int) -> settings:
    return settings(
        max_examples=many if whole() else few,
        stateful_step_count=25,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a smaller example takes minutes
        suppress_health_check=list(HealthCheck),
    )


def test_random_histories_over_sqlite_end_well() -> None:
    run_state_machine_as_test(OverSqlite, settings=_settings(20, 400))


def test_random_histories_over_mongodb_end_well() -> None:
    need("mongodb")
    run_state_machine_as_test(OverMongo, settings=_settings(5, 60))
