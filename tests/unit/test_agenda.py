"""Due times: in order, each task once, nobody woken in vain."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesp_api.agenda import Agenda
from tesp_api.domain.task import TaskId
from tests.unit.fakes import StillClock, StillTime

A, B, C = TaskId("a"), TaskId("b"), TaskId("c")


class Desk:
    """An agenda and those who work it off."""

    def __init__(self, workers: int) -> None:
        self.time = StillTime()
        self.agenda = Agenda(StillClock(self.time))
        self.done: list[tuple[float, TaskId]] = []
        self.workers = [asyncio.create_task(self._work()) for _ in range(workers)]

    async def _work(self) -> None:
        while True:
            task_id = await self.agenda.next()
            self.done.append((self.time.elapsed, task_id))

    async def at(self, moment: float) -> list[tuple[float, TaskId]]:
        for _ in range(20):
            await asyncio.sleep(0)
        while (due := self.time.next_due()) is not None and due <= moment:
            self.time.move(due)
            for _ in range(20):
                await asyncio.sleep(0)
        self.time.move(moment)
        return self.done


@pytest.fixture(params=[1, 3])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[Desk]:
    made = Desk(request.param)
    yield made
    for worker in made.workers:
        worker.cancel()


async def test_tasks_come_when_they_are_due(desk: Desk) -> None:
    desk.agenda.put(A, 5.0)
    desk.agenda.put(B, 2.0)
    desk.agenda.put(C, 0.0)
    assert await desk.at(1.0) == [(0.0, C)]
    assert await desk.at(9.0) == [(0.0, C), (2.0, B), (5.0, A)]
    assert len(desk.agenda) == 0


async def test_the_last_word_on_a_task_counts(desk: Desk) -> None:
    desk.agenda.put(A, 1.0)
    desk.agenda.put(A, 7.0)
    assert await desk.at(6.0) == []
    desk.agenda.put(A, 0.5)
    assert await desk.at(20.0) == [(6.5, A)]


async def test_who_waits_for_later_is_woken_for_sooner(desk: Desk) -> None:
    desk.agenda.put(A, 60.0)
    await desk.at(1.0)
    desk.agenda.put(B, 1.0)
    assert await desk.at(3.0) == [(2.0, B)]


async def test_what_was_dropped_never_comes(desk: Desk) -> None:
    desk.agenda.put(A, 1.0)
    desk.agenda.drop(A)
    desk.agenda.drop(B)
    desk.agenda.put(C, 2.0)
    assert await desk.at(10.0) == [(2.0, C)]


async def test_one_watches_the_clock_for_all() -> None:
    desk = Desk(12)
    desk.agenda.put(A, 5.0)
    await desk.at(1.0)
    assert len(desk.time._alarms) == 1
    desk.workers.pop(0).cancel()
    assert await desk.at(6.0) == [(5.0, A)], "another takes the watch"
    for worker in desk.workers:
        worker.cancel()


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(0, 9)), max_size=30),
    st.integers(1, 4),
)
def test_any_puts_and_drops_end_in_the_order_of_their_times(
    steps: list[tuple[str, int | None]], workers: int
) -> None:
    async def play() -> None:
        desk = Desk(workers)
        expected: dict[TaskId, float] = {}
        for name, delay in steps:
            task_id = TaskId(name)
            if delay is None:
                desk.agenda.drop(task_id)
                expected.pop(task_id, None)
            else:
                desk.agenda.put(task_id, float(delay))
                expected[task_id] = float(delay)
        done = await desk.at(100.0)
        assert sorted(done, key=lambda pair: pair[0]) == done
        assert {task_id: at for at, task_id in done} == expected
        assert len(done) == len(expected)
        for worker in desk.workers:
            worker.cancel()

    asyncio.run(play())
