"""The use cases over a store with troubles."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tesp_api.domain.errors import InvalidRequest, KeyTaken, NoSuchTask, StoreUnreachable
from tesp_api.domain.lifecycle import CancelAsked, Claimed, Lost, Started, Succeeded, advance
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


async def test_readiness_does_not_wait(
    service: Service, store: MemoryStore, clock: StillClock
) -> None:
    await service.ready()
    store.outages = 1
    with pytest.raises(StoreUnreachable):
        await service.ready()
    assert clock.passed_s == 0


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
