"""The use cases over a store with troubles."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tesp_api.admission import FRESH_S, MOST_OWNERS, Admission
from tesp_api.domain.errors import (
    InvalidRequest,
    KeyTaken,
    NoSuchTask,
    Overloaded,
    StoreUnreachable,
    TooManyTasks,
)
from tesp_api.domain.lifecycle import CancelAsked, Claimed, Lost, Started, Succeeded, advance
from tesp_api.domain.parsing import parse
from tesp_api.domain.rules import Policy
from tesp_api.domain.task import DriverId, JobId, Task, TaskId
from tesp_api.domain.tes import State, View
from tesp_api.ports import Query
from tesp_api.service import CANCEL_TRIES, Principal, Service
from tests.api.memory import BEGINNING, Listener, MemoryStore, StillClock

ANYBODY = Principal(owner=None, sees_all=True)
ANN = Principal(owner="ann")
BOB = Principal(owner="bob")
ID = TaskId("the-task")
BODY = json.dumps({"executors": [{"image": "a", "command": ["b"]}]}).encode()
CLAIM = Claimed(at=BEGINNING, job=JobId("j"), slot=0, driver=DriverId("d"))


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


@pytest.fixture
def service(store: MemoryStore, listener: Listener, clock: StillClock) -> Service:
    return Service(
        store=store, dispatch=listener, clock=clock, policy=Policy(), new_id=lambda: ID, hold_s=7
    )


async def test_create_keeps_a_queued_task_and_tells_the_dispatcher(
    service: Service, store: MemoryStore, listener: Listener
) -> None:
    assert await service.create(ANN, BODY) == ID
    task = store.tasks[ID]
    assert (task.state, task.owner, task.created_at) == (State.QUEUED, "ann", BEGINNING)
    assert (task.revision, task.jobs, task.attempts) == (0, (), ())
    assert listener.news == 1


async def test_an_unsupported_backend_parameter_is_not_kept_but_told_in_each_attempt(
    service: Service, store: MemoryStore
) -> None:
    executors = [{"image": "a", "command": ["b"]}]
    asked = {"resources": {"backend_parameters": {"VmSize": "big"}}, "executors": executors}
    await service.create(ANN, json.dumps(asked).encode())
    task = store.tasks[ID]
    assert task.request.resources is not None
    assert not task.request.resources.backend_parameters
    lines = advance(task, CLAIM).attempts[0].system_logs
    assert lines == ("The backend parameter 'VmSize' is not supported.",)


async def test_the_same_key_and_body_make_one_task(service: Service, store: MemoryStore) -> None:
    first = await service.create(ANN, BODY, "key")
    assert await service.create(ANN, BODY, "key") == first
    assert await service.create(ANN, BODY, "another key") != first
    assert await service.create(BOB, BODY, "key") != first
    assert len(store.tasks) == 3


async def test_a_key_that_comes_with_another_body_is_refused_and_changes_nothing(
    service: Service, store: MemoryStore
) -> None:
    task_id = await service.create(ANN, BODY, "key")
    with pytest.raises(KeyTaken):
        await service.create(ANN, BODY + b" ", "key")
    assert list(store.tasks) == [task_id]


async def test_a_refused_request_reaches_neither_store_nor_dispatcher(
    service: Service, store: MemoryStore, listener: Listener
) -> None:
    with pytest.raises(InvalidRequest):
        await service.create(ANN, b"{}")
    assert (store.calls, listener.news) == ([], 0)


async def test_a_write_of_unknown_outcome_makes_one_task(
    service: Service, store: MemoryStore, listener: Listener
) -> None:
    store.lost_answers = 2
    assert await service.create(ANN, BODY) == ID
    assert list(store.tasks) == [ID]
    assert store.calls == ["add"] * 3
    assert listener.news == 1


async def test_a_create_that_cannot_be_kept_is_told_and_not_announced(
    service: Service, store: MemoryStore, listener: Listener
) -> None:
    store.outages = 10**6
    with pytest.raises(StoreUnreachable):
        await service.create(ANN, BODY)
    assert listener.news == 0


Use = Callable[[Service], Awaitable[Any]]
USES: dict[str, Use] = {
    "create": lambda service: service.create(ANYBODY, BODY),
    "get": lambda service: service.get(ANYBODY, ID, View.FULL),
    "list": lambda service: service.list(ANYBODY, Query(view=View.FULL, limit=1)),
    "cancel": lambda service: service.cancel(ANYBODY, ID),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_10_10_each_use_outlasts_a_short_outage(
    service: Service, store: MemoryStore, clock: StillClock, use: Use
) -> None:
    await service.create(ANYBODY, BODY)
    store.outages = 10
    await use(service)
    assert 0 < clock.passed_s < 7


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_10_10_each_use_gives_up_on_a_long_outage_before_clients_do(
    service: Service, store: MemoryStore, clock: StillClock, use: Use
) -> None:
    await service.create(ANYBODY, BODY)
    store.outages = 10**6
    with pytest.raises(StoreUnreachable):
        await use(service)
    assert 6 < clock.passed_s < 8


class HangingStore(MemoryStore):
    async def document(self, task_id: TaskId, view: View, owner: str | None) -> bytes | None:
        if not self.calls:
            self._call("document")
        await asyncio.Event().wait()
        return None


async def test_a_store_that_hangs_after_an_outage_is_unreachable(
    clock: StillClock, listener: Listener
) -> None:
    store = HangingStore()
    store.outages = 1
    service = Service(
        store=store, dispatch=listener, clock=clock, policy=Policy(),
        new_id=lambda: ID, hold_s=0.01,
    )  # fmt: skip
    with pytest.raises(StoreUnreachable):
        await service.get(ANYBODY, ID, View.FULL)


class StuckStore(MemoryStore):
    """A store whose writes begin and never end."""

    async def add(self, task: Task) -> None:
        await asyncio.Event().wait()


async def test_a_write_that_hangs_is_given_up_when_the_time_is_over(
    clock: StillClock, listener: Listener
) -> None:
    service = Service(
        store=StuckStore(), dispatch=listener, clock=clock, policy=Policy(),
        new_id=lambda: ID, hold_s=0.01,
    )  # fmt: skip
    with pytest.raises(StoreUnreachable):
        await service.create(ANN, BODY)
    assert listener.news == 0


class SlowStore(MemoryStore):
    """A store that takes a few turns of the loop for each call."""

    async def add(self, task: Task) -> None:
        await asyncio.sleep(0)
        await super().add(task)
        await asyncio.sleep(0)

    async def count(self, states: frozenset[State], owner: str | None, most: int) -> int:
        await asyncio.sleep(0)
        number = await super().count(states, owner, most)
        await asyncio.sleep(0)
        return number


class WithLimits(Service):
    """A service with limits, over a store of its own; `clock`, `listener` as elsewhere."""

    def __init__(self, *, queue: int | None = None, per_owner: int | None = None) -> None:
        self.store, self.listener, self.clock = SlowStore(), Listener(), StillClock()
        numbers = itertools.count()
        super().__init__(
            store=self.store,
            dispatch=self.listener,
            clock=self.clock,
            policy=Policy(),
            new_id=lambda: TaskId(f"task-{next(numbers)}"),
            admission=Admission(self.store, self.clock, queue=queue, per_owner=per_owner),
            hold_s=7,
        )


def ended_in(store: MemoryStore, task_id: TaskId) -> None:
    for event in (CLAIM, Succeeded(at=BEGINNING)):
        store.tasks[task_id] = advance(store.tasks[task_id], event)


async def test_a_task_beyond_the_queues_limit_is_refused_and_not_kept() -> None:
    service = WithLimits(queue=2)
    await service.create(ANN, BODY)
    await service.create(BOB, BODY)
    with pytest.raises(Overloaded, match="2 tasks"):
        await service.create(ANYBODY, BODY)
    assert (len(service.store.tasks), service.listener.news) == (2, 2)


@pytest.mark.parametrize("kept", [0, 7, 30])
async def test_of_many_at_once_no_more_are_taken_than_the_limit_allows(kept: int) -> None:
    service = WithLimits(queue=20)
    for number in range(kept):
        service.store.tasks[TaskId(f"old-{number}")] = queued(f"old-{number}")
    results = await asyncio.gather(
        *(service.create(ANN, BODY) for _ in range(100)), return_exceptions=True
    )
    assert sum(isinstance(result, Overloaded) for result in results) == 100 - max(20 - kept, 0)
    assert len(service.store.tasks) == max(20, kept)
    assert service.store.calls.count("count") == 1


async def test_a_place_in_the_queue_is_free_again_a_moment_after_a_task_left_it() -> None:
    service = WithLimits(queue=1)
    first = await service.create(ANN, BODY)
    service.store.tasks[first] = advance(service.store.tasks[first], CLAIM)
    await service.clock.sleep(FRESH_S)
    await service.create(ANN, BODY)
    with pytest.raises(Overloaded):
        await service.create(ANN, BODY)


async def test_what_other_processes_took_counts_a_moment_later() -> None:
    service = WithLimits(queue=2)
    await service.create(ANN, BODY)
    service.store.tasks[TaskId("theirs")] = queued("theirs")
    await service.clock.sleep(FRESH_S)
    with pytest.raises(Overloaded):
        await service.create(ANN, BODY)


async def test_an_owners_unfinished_tasks_are_limited_and_nobody_elses() -> None:
    service = WithLimits(per_owner=2)
    first, second = [await service.create(ANN, BODY) for _ in range(2)]
    service.store.tasks[first] = advance(service.store.tasks[first], CLAIM)
    with pytest.raises(TooManyTasks, match="2 unfinished tasks"):
        await service.create(ANN, BODY)
    for _ in range(5):
        await service.create(BOB if len(service.store.tasks) < 4 else ANYBODY, BODY)
    ended_in(service.store, second)
    await service.clock.sleep(FRESH_S)
    await service.create(ANN, BODY)


async def test_a_full_queue_refuses_also_those_who_have_few_tasks() -> None:
    service = WithLimits(queue=1, per_owner=5)
    await service.create(ANN, BODY)
    with pytest.raises(Overloaded):
        await service.create(BOB, BODY)


async def test_a_request_repeated_with_its_key_is_answered_also_when_all_is_full() -> None:
    service = WithLimits(queue=1, per_owner=1)
    first = await service.create(ANN, BODY, "key")
    assert await service.create(ANN, BODY, "key") == first
    with pytest.raises(KeyTaken):
        await service.create(ANN, BODY + b" ", "key")
    with pytest.raises(Overloaded):
        await service.create(ANN, BODY, "another key")
    assert list(service.store.tasks) == [first]


async def test_a_write_of_unknown_outcome_needs_one_place() -> None:
    service = WithLimits(queue=1)
    service.store.lost_answers = 3
    await service.create(ANN, BODY)
    assert len(service.store.tasks) == 1


async def test_a_refused_or_failed_write_gives_its_place_back_with_the_next_count() -> None:
    service = WithLimits(queue=1)
    await service.create(ANN, BODY, "key")
    ended_in(service.store, next(iter(service.store.tasks)))
    await service.clock.sleep(FRESH_S)
    with pytest.raises(KeyTaken):
        await service.create(ANN, BODY + b" ", "key")
    await service.clock.sleep(FRESH_S)
    await service.create(ANN, BODY)


@pytest.mark.parametrize("outages", [10**6, 20])
async def test_10_10_counting_and_writing_share_one_time_limit(outages: int) -> None:
    service = WithLimits(queue=1)
    service.store.outages = outages
    await asyncio.gather(service.create(ANN, BODY), return_exceptions=True)
    assert service.clock.passed_s <= 7
    assert len(service.store.tasks) == (0 if outages > 20 else 1)


async def test_owners_of_the_past_are_not_remembered_for_ever() -> None:
    admission = Admission(MemoryStore(), StillClock(), queue=None, per_owner=1)
    for number in range(MOST_OWNERS + 10):
        await admission.place(str(number))
    assert len(admission._owners) <= MOST_OWNERS


async def test_a_task_removed_while_its_request_is_repeated_is_made_anew(
    service: Service, store: MemoryStore
) -> None:
    class Forgetful(MemoryStore):
        async def get(self, task_id: TaskId) -> Task | None:
            found = await super().get(task_id)
            if self.calls.count("get") == 1:
                del self.tasks[task_id]
                return None
            return found

    forgetful = Forgetful()
    service._store = forgetful
    task_id = await service.create(ANN, BODY, "key")
    assert list(forgetful.tasks) == [task_id]


def queued(name: str) -> Task:
    return Task(
        id=TaskId(name), request=parse(BODY, Policy(), None), state=State.QUEUED,
        created_at=BEGINNING,
    )  # fmt: skip


async def existing(service: Service, store: MemoryStore, *events: Any) -> Task:
    await service.create(ANN, BODY)
    for event in events:
        store.tasks[ID] = advance(store.tasks[ID], event)
    return store.tasks[ID]


async def test_a_task_that_never_had_a_job_is_canceled(
    service: Service, store: MemoryStore, listener: Listener
) -> None:
    await existing(service, store)
    await service.cancel(ANN, ID)
    assert store.tasks[ID].state is State.CANCELED
    assert listener.changes == [ID]


LOST = Lost(at=BEGINNING, reason="r")
HISTORIES = ((CLAIM,), (CLAIM, Started(at=BEGINNING)), (CLAIM, LOST))


@pytest.mark.parametrize("events", HISTORIES)
async def test_a_task_that_ever_had_a_job_is_canceling(
    service: Service, store: MemoryStore, listener: Listener, events: tuple[Any, ...]
) -> None:
    before = await existing(service, store, *events)
    await service.cancel(ANN, ID)
    assert store.tasks[ID].state is State.CANCELING
    assert store.tasks[ID].jobs == before.jobs
    assert listener.changes == [ID]


ENDS = ((CLAIM, Succeeded(at=BEGINNING)), (CLAIM, CancelAsked(at=BEGINNING)))


@pytest.mark.parametrize("events", ENDS)
async def test_a_task_that_has_ended_or_is_being_ended_stays_as_it_is(
    service: Service, store: MemoryStore, events: tuple[Any, ...]
) -> None:
    before = await existing(service, store, *events)
    await service.cancel(ANN, ID)
    assert store.tasks[ID] is before


async def test_cancel_wins_over_a_step_under_way(service: Service, store: MemoryStore) -> None:
    await existing(service, store, CLAIM)
    store.stale = CANCEL_TRIES - 1
    await service.cancel(ANN, ID)
    assert store.tasks[ID].state is State.CANCELING


async def test_cancel_gives_up_on_a_task_that_never_stands_still(
    service: Service, store: MemoryStore
) -> None:
    await existing(service, store)
    store.stale = 10**6
    with pytest.raises(StoreUnreachable):
        await service.cancel(ANN, ID)


async def test_a_cancel_of_unknown_outcome_is_not_done_twice(
    service: Service, store: MemoryStore, listener: Listener
) -> None:
    await existing(service, store, CLAIM)
    store.lost_answers = 1
    await service.cancel(ANN, ID)
    assert store.tasks[ID].revision == 2
    assert listener.changes == [ID]


async def test_nobody_reaches_anothers_task(
    service: Service, store: MemoryStore, listener: Listener
) -> None:
    before = await existing(service, store)
    with pytest.raises(NoSuchTask):
        await service.get(BOB, ID, View.MINIMAL)
    with pytest.raises(NoSuchTask):
        await service.cancel(BOB, ID)
    page = await service.list(BOB, Query(view=View.MINIMAL, limit=9))
    assert page.documents == []
    assert store.tasks[ID] is before
    assert listener.changes == []


async def test_a_query_cannot_widen_whose_tasks_are_shown(
    service: Service, store: MemoryStore
) -> None:
    await existing(service, store)
    page = await service.list(BOB, Query(view=View.MINIMAL, limit=9, owner="ann"))
    assert page.documents == []


async def test_who_sees_all_reaches_everybodys_task(service: Service, store: MemoryStore) -> None:
    await existing(service, store)
    admin = Principal(owner="root", sees_all=True)
    assert await service.get(admin, ID, View.MINIMAL) == b'{"id":"the-task","state":"QUEUED"}'
    await service.cancel(admin, ID)
    assert store.tasks[ID].state is State.CANCELED


async def test_tasks_without_an_owner_are_shown_to_no_other(
    service: Service, store: MemoryStore
) -> None:
    await service.create(ANYBODY, BODY)
    with pytest.raises(NoSuchTask):
        await service.get(ANN, ID, View.MINIMAL)


async def test_no_state_at_all_is_an_empty_list(service: Service, store: MemoryStore) -> None:
    await service.create(ANYBODY, BODY)
    page = await service.list(ANYBODY, Query(view=View.FULL, limit=9, states=frozenset()))
    assert (page.documents, page.next_before) == ((), None)


async def test_an_unknown_task_is_no_such_task(service: Service) -> None:
    for use in (USES["get"], USES["cancel"]):
        with pytest.raises(NoSuchTask):
            await use(service)
