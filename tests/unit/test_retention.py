"""Ended tasks are removed when their time is over: by a dispatcher's sweep, and with patience."""

from dataclasses import replace

from tesp_api.domain.errors import StoreUnreachable
from tesp_api.domain.task import TaskId
from tesp_api.domain.tes import State
from tesp_api.retention import BATCH, PAUSE_S, Retention
from tests.unit.fakes import LIMITS, Script, StillClock, StillTime, World, patient, world

DAY_S = 86_400.0
DAYS = 0.002
KEPT_S = DAYS * DAY_S
SWEEP_S = 60.0
SWEEPING = replace(LIMITS, sweep_s=SWEEP_S)


class OldTasks:
    """A store with so many tasks to remove, a few of which fail at first."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.outage = False
        self.batches: list[int] = []
        self.before: set[object] = set()

    async def remove_ended(self, before: object, limit: int) -> int:
        if self.outage:
            raise StoreUnreachable("gone")
        removed = min(self.number, limit)
        self.number -= removed
        self.batches.append(removed)
        self.before.add(before)
        return removed


class Paces(StillClock):
    """A clock whose sleepers wake at once, and that knows how long they wanted to sleep."""

    def __init__(self) -> None:
        super().__init__(StillTime())
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


async def gone(w: World, task_id: TaskId) -> bool:
    return await w.store._real.get(task_id) is None


async def test_many_tasks_go_in_small_batches_with_pauses_and_one_moment_for_all() -> None:
    store, clock = OldTasks(2 * BATCH + 3), Paces()
    await Retention(store, clock, 1.5).remove_old()  # type: ignore[arg-type]
    assert store.batches == [BATCH, BATCH, 3, 0]
    assert clock.slept == [PAUSE_S] * 3
    (before,) = store.before
    assert (clock.now() - before).total_seconds() == 1.5 * DAY_S  # type: ignore[operator]


async def test_a_task_is_kept_for_its_days_and_then_removed() -> None:
    async with world() as w:
        w.begin(limits=SWEEPING, retention_days=DAYS)
        task_id = await w.post()
        await w.until_state(task_id, State.COMPLETE)
        await w.until_tidy(task_id)
        await w.pass_(KEPT_S - 10)
        assert not await gone(w, task_id)
        await w.pass_(2 * SWEEP_S)
        assert await gone(w, task_id)


async def test_without_days_everything_is_kept() -> None:
    async with world() as w:
        w.begin(limits=SWEEPING)
        task_id = await w.post()
        await w.until_state(task_id, State.COMPLETE)
        await w.pass_(3 * KEPT_S)
        assert not await gone(w, task_id)


async def test_a_task_with_leftovers_is_kept_until_they_are_removed() -> None:
    async with world() as w:
        w.begin(limits=SWEEPING, retention_days=DAYS)
        w.pulsar.gate.down = {"forget"}
        task_id = await w.post()
        await w.until_state(task_id, State.COMPLETE)
        await w.pass_(2 * KEPT_S)
        assert (await w.task(task_id)).untidy
        w.pulsar.gate.down = set()
        await w.pass_(2 * SWEEP_S)
        assert await gone(w, task_id)


async def test_an_unfinished_task_is_kept_however_old_it_is() -> None:
    async with world() as w:
        w.pulsar.scripts.append(Script(run_s=5 * KEPT_S))
        w.begin(limits=SWEEPING, retention_days=DAYS, policy=patient(silence_s=10 * KEPT_S))
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        await w.pass_(3 * KEPT_S)
        assert (await w.task(task_id)).state is State.RUNNING


async def test_removing_waits_for_the_store_and_goes_on() -> None:
    async with world() as w:
        w.begin(limits=SWEEPING, retention_days=DAYS)
        task_id = await w.post()
        await w.until_state(task_id, State.COMPLETE)
        w.store.gate.down = {"remove_ended"}
        await w.pass_(2 * KEPT_S)
        assert not await gone(w, task_id)
        w.store.gate.down = set()
        await w.pass_(SWEEP_S + 2)
        assert await gone(w, task_id)


async def test_there_is_a_sweep_at_the_start_and_then_as_often_as_is_set() -> None:
    async with world() as w:
        w.begin(limits=SWEEPING, retention_days=DAYS)
        await w.pass_(2.5 * SWEEP_S)
        assert w.store.gate.calls.count("untidy") == 3
        assert w.store.gate.calls.count("remove_ended") == 3
