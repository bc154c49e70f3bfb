"""Drives tasks to their end: takes what is queued, looks after it, saves what comes of it.

Nothing here is needed to go on after a crash. Whoever finds a task in the store begins with an
empty `Drive`: a restart, a crash and the death of another process are the same case.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from loguru import logger

from tesp_api.agenda import Agenda
from tesp_api.domain import lifecycle
from tesp_api.domain.errors import SlotTaken, Stale, Unreachable
from tesp_api.domain.lifecycle import ACTIVE, TERMINAL, Broke, Claimed
from tesp_api.domain.task import Task, TaskId
from tesp_api.domain.tes import State
from tesp_api.drive import Drive
from tesp_api.duties import Duties
from tesp_api.lease import Lease
from tesp_api.ports import Clock, Glance, TaskStore
from tesp_api.retention import Retention

WORKERS: Final = 12
"""Steps under way at once; Pulsar's web server works on four requests at a time."""
BATCH: Final = 64
CLAIMED: Final = ACTIVE - {State.QUEUED}
UNDER_WAY: Final = frozenset({State.INITIALIZING, State.RUNNING})
FIRST_LOOK_S: Final = 0.15
"""Pulsar and Python take a quarter of a second for a job that does nothing."""
SHARE_OF_AGE: Final = 0.1
"""A job is looked at again after this share of the time it has been in its state."""
TELL_AFTER_S: Final = 10.0
"""Trouble shorter than this is not worth a line in the task's log."""
SHORTEST_S: Final = 0.025
BUG_S: Final = 60.0
TICK_S: Final = 1.0
LAST_STEPS_S: Final = 3.0
"""How long steps under way may take at the end; a step that is broken off is one that crashed."""
GIVE_BACK_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much at once, and how patiently. Seconds."""

    max_jobs: int
    patience_s: float
    poll_interval_s: float
    sweep_s: float = 60.0
    """How often ended tasks are searched for what is left of them, and for those to remove."""


class Dispatcher:
    """One driver. `run` works until it is cancelled; `new_task` and `changed` only wake it."""

    def __init__(
        self,
        store: TaskStore,
        duties: Duties,
        lease: Lease,
        clock: Clock,
        limits: Limits,
        *,
        retention: Retention | None = None,
    ) -> None:
        self._store = store
        self._duties = duties
        self._lease = lease
        self._clock = clock
        self._limits = limits
        self._retention = retention
        self._agenda = Agenda(clock)
        self._drives: dict[TaskId, Drive] = {}
        self._slots: dict[TaskId, int] = {}
        self._others_slots: frozenset[int] = frozenset()
        self._work = asyncio.Event()
        self._leased = asyncio.Event()
        self._stopping = False

    def new_task(self) -> None:
        """Say that there is something in the queue."""
        self._work.set()

    def changed(self, task_id: TaskId) -> None:
        """Say that a client has changed this task."""
        self._at_once(self._drives.setdefault(task_id, Drive(task_id=task_id)))

    async def run(self) -> None:
        """Work until `stop`; raises nothing but what cancels it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self._keep_lease, self._lease.renewal_s), name="lease")
            await self._leased.wait()
            group.create_task(self._repeat(self._claim, TICK_S, self._work), name="claim")
            group.create_task(self._repeat(self._hear_cancels, TICK_S), name="cancels")
            group.create_task(self._repeat(self._sweep, self._limits.sweep_s), name="sweep")
            if self._retention is not None:
                old = self._repeat(self._retention.remove_old, self._limits.sweep_s)
                group.create_task(old, name="retention")
            for number in range(WORKERS):
                group.create_task(self._work_on(), name=f"worker {number}")

    async def stop(self, running: asyncio.Task[None]) -> None:
        """Let the steps under way end, if that is soon, then hand everything over."""
        self._stopping = True
        for _ in range(int(LAST_STEPS_S / 0.1)):
            if not any(drive.busy for drive in self._drives.values()):
                break
            await self._clock.sleep(0.1)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        try:
            async with asyncio.timeout(GIVE_BACK_S):
                await self._lease.give_back()
        except (Unreachable, TimeoutError) as error:
            logger.warning("the lease could not be given back: {}", error)

    async def _repeat(
        self, step: Callable[[], Awaitable[None]], pause_s: float, wake: asyncio.Event | None = None
    ) -> None:
        """Do `step` for ever, with a pause or until woken; a failure is told and survived."""
        wake = wake or asyncio.Event()
        while True:
            wake.clear()
            try:
                if not self._stopping:
                    await step()
            except Unreachable as error:
                logger.warning("{}: {}", step.__name__.strip("_"), error)
            except Exception:  # noqa: BLE001 - the edge of a loop that must not end
                logger.exception("bug in {}", step.__name__)
            await self._clock.wait(wake, pause_s)

    # --- whose work it is ---

    async def _keep_lease(self) -> None:
        """Renew the lease, and take up what nobody drives: the dead's, and one's own strays.

        A claim whose save had an unknown outcome is one's own and in no drive: it is found here.
        """
        claimed = await self._store.driven(None, CLAIMED)
        await self._lease.renew()
        await self._take_up(claimed)
        await self._lease.bury()
        await self._learn_slots()
        self._leased.set()
        self._work.set()

    async def _take_up(self, seen: Iterable[Glance]) -> None:
        """Drive what nobody drives; `seen` is older than the last renewal of the lease."""
        orphans = []
        for glance in seen:
            if self._lease.dead(glance.driver):
                orphans.append(glance)
            elif glance.driver == self._lease.driver and not self._knows(glance.id):
                self.changed(glance.id)
        await asyncio.gather(*map(self._adopt, orphans))

    def _knows(self, task_id: TaskId) -> bool:
        return task_id in self._drives or task_id in self._slots

    async def _adopt(self, glance: Glance) -> None:
        task = await self._store.get(glance.id)
        if task is None or task.driver != glance.driver:
            return
        mine = lifecycle.adopt(task, self._lease.driver)
        with contextlib.suppress(Stale):
            await self._store.save(mine)
            logger.info("task adopted", task=task.id, state=task.state)
            self._take(mine)

    async def _learn_slots(self) -> None:
        before = frozenset(self._slots.values())
        held = await self._store.slots()
        self._others_slots = held - before - frozenset(self._slots.values())

    async def _claim(self) -> None:
        """Take queued tasks, oldest first, as long as Pulsar has places for them."""
        while self._lease.held and (free := self._free_slots()):
            queued = await self._store.queued(min(len(free), BATCH))
            if not queued:
                return
            pairs = zip(queued, free, strict=False)
            await asyncio.gather(*(self._claim_one(task, slot) for task, slot in pairs))

    def _free_slots(self) -> list[int]:
        held = self._others_slots | frozenset(self._slots.values())
        return [slot for slot in range(self._limits.max_jobs) if slot not in held]

    async def _claim_one(self, task: Task, slot: int) -> None:
        job = task.next_job
        claimed = Claimed(
            at=self._clock.now(),
            job=job,
            slot=slot,
            driver=self._lease.driver,
            metadata={"pulsar": self._duties.place, "job": job},
        )
        mine = lifecycle.advance(task, claimed)
        self._slots[task.id] = slot  # known as ours before it can be seen in the store
        try:
            await self._save(task, mine)
            self._take(mine, doubt=False)
        except Stale:
            logger.debug("claim came too late", task=task.id)
        except SlotTaken:
            self._others_slots |= {slot}
        finally:
            if task.id not in self._drives:
                self._slots.pop(task.id, None)

    async def _hear_cancels(self) -> None:
        """Notice cancels that another process has written."""
        if self._store.sole:
            return
        for glance in await self._store.driven(self._lease.driver, frozenset({State.CANCELING})):
            drive = self._drives.get(glance.id)
            if drive is None or drive.state is not State.CANCELING:
                self.changed(glance.id)

    async def _sweep(self) -> None:
        """Take up ended tasks whose clean-up nobody drives."""
        after = 0
        while page := await self._store.untidy(BATCH, after):
            after = page[-1][0]
            alone = [task_id for _, task_id in page if task_id not in self._drives]
            tasks = [task for task_id in alone if (task := await self._store.get(task_id))]
            await self._lease.renew()
            await self._take_up(
                Glance(id=task.id, state=task.state, driver=task.driver) for task in tasks
            )

    def _take(self, task: Task, *, doubt: bool = True) -> None:
        self._drives[task.id] = Drive(task_id=task.id, doubt=doubt)
        if task.slot is not None:
            self._slots[task.id] = task.slot
        self._agenda.put(task.id, 0.0)

    def _drop(self, task_id: TaskId) -> None:
        self._drives.pop(task_id, None)
        self._agenda.drop(task_id)
        if self._slots.pop(task_id, None) is not None:
            self._work.set()

    # --- the steps ---

    def _at_once(self, drive: Drive) -> None:
        if drive.busy:
            drive.again = True
        else:
            drive.job = None  # the store has news, so Pulsar is not asked first
            self._agenda.put(drive.task_id, 0.0)

    async def _work_on(self) -> None:
        while True:
            drive = self._drives.get(await self._agenda.next())
            if drive is None or self._stopping:
                continue
            drive.busy, drive.again = True, False
            delay = await self._attend(drive)
            drive.busy = False
            self._go_on(drive, delay)

    def _go_on(self, drive: Drive, delay: float | None) -> None:
        if self._drives.get(drive.task_id) is not drive:
            return  # claimed anew meanwhile: another drive has it
        if drive.again:
            self._at_once(drive)
        elif delay is None:
            self._drop(drive.task_id)
        else:
            self._agenda.put(drive.task_id, delay)

    async def _attend(self, drive: Drive) -> float | None:
        """Do one step, whatever happens; return when to do the next, None if there is none."""
        self._lease.begin_step()
        try:
            return await self._try(drive) if self._lease.held else TICK_S
        except Exception:  # noqa: BLE001 - the edge of the loop: one task's bug is not its neighbours'
            logger.exception("bug in a step", task=drive.task_id)
            return BUG_S

    async def _try(self, drive: Drive) -> float | None:
        try:
            delay = await self._step(drive)
        except Stale:
            drive.job = None
            return 0.0
        except Unreachable as error:
            return await self._weather(drive, error)
        drive.failures, drive.troubled_since, drive.noted = 0, None, False
        return delay

    async def _step(self, drive: Drive) -> float | None:
        if await self._duties.nothing_new(drive):
            return self._pace(drive)
        task = await self._store.get(drive.task_id)
        while task is not None and task.driver == self._lease.driver:
            drive.entered(task, self._clock.monotonic())
            if task.state is State.QUEUED or (task.state in TERMINAL and not task.untidy):
                return None
            after = await self._duties.step(task, drive)
            if after is None:
                return self._pace(drive)
            try:
                await self._save(task, lifecycle.doubt(after) if drive.doubt else after)
            except Stale:
                await self._duties.undo(await self._store.get(task.id), after)
                raise
            drive.entered(after, self._clock.monotonic())
            if after.state in UNDER_WAY and after.job and after.job.submitted:
                submitted = task.job and not task.job.submitted
                return FIRST_LOOK_S if submitted else self._pace(drive)
            task = after
        return None

    def _pace(self, drive: Drive) -> float:
        age = self._clock.monotonic() - drive.since
        delay = min(max(SHARE_OF_AGE * age, SHORTEST_S), self._limits.poll_interval_s)
        return delay * random.uniform(0.9, 1.1)  # noqa: S311 - spreads polls, guards nothing

    async def _save(self, before: Task, after: Task) -> None:
        """Save, and say so: one line for each change of state, written where it is kept."""
        await self._store.save(after)
        if after.slot is None and self._slots.pop(after.id, None) is not None:
            self._work.set()
        if after.state is not before.state:
            job = after.job.id if after.job else None
            logger.info("task is {state}", task=after.id, state=after.state, job=job)

    async def _weather(self, drive: Drive, error: Unreachable) -> float:
        """Note that the other side does not answer; the same step again, later and later."""
        now = self._clock.monotonic()
        drive.failures += 1
        drive.doubt = True
        if drive.troubled_since is None:
            drive.troubled_since = now
        lasted = now - drive.troubled_since
        if lasted > TELL_AFTER_S and not drive.noted:
            logger.warning("task waits: {}", error, task=drive.task_id)
        # Where the store is away as well, or a cancel came, the next step sees it.
        with contextlib.suppress(Stale, Unreachable):
            await self._tell(drive, error, lasted)
        delay = min(0.25 * 2.0 ** min(drive.failures, 7), 30.0)
        return delay * random.uniform(0.8, 1.2)  # noqa: S311 - spreads calls, guards nothing

    async def _tell(self, drive: Drive, error: Unreachable, lasted: float) -> None:
        """Write into the task what it waits for, once; end it when patience ends."""
        ended = lasted > self._limits.patience_s
        if not ended and (drive.noted or lasted <= TELL_AFTER_S):
            return
        task = await self._store.get(drive.task_id)
        if task is None or task.driver != self._lease.driver or task.state in TERMINAL:
            drive.noted = True
        elif ended and task.state is not State.CANCELING:
            tried = f"Given up after {lasted:.0f} s of trying (dispatch.patience_s)"
            broke = Broke(at=self._clock.now(), reason=f"{tried}: {error} {error.turn}")
            await self._save(task, lifecycle.advance(task, broke))
        elif not drive.noted:
            since = (self._clock.now() - timedelta(seconds=lasted)).isoformat(timespec="seconds")
            await self._save(task, lifecycle.note(task, f"Since {since}. Waiting: {error}"))
            drive.noted = True
