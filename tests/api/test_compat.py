"""Settings for clients that do not know all states: what is shown, what a filter means."""

from datetime import timedelta

import pytest

from tesp_api.domain.lifecycle import CancelAsked, Claimed, advance
from tesp_api.domain.task import DriverId, JobId, TaskId
from tesp_api.domain.tes import State
from tesp_api.store.sqlite import SqliteStore
from tests.api.conftest import BASE, Client, MakeClient, create, fetch
from tests.api.memory import BEGINNING


@pytest.fixture
def early(make_client: MakeClient, prefix: str) -> Client:
    return make_client(base=BASE + prefix, queued_as_initializing=True)


async def claim(store: SqliteStore, task_id: str) -> None:
    task = await store.get(TaskId(task_id))
    assert task is not None
    at = BEGINNING + timedelta(seconds=1)
    event = Claimed(at=at, job=JobId(f"tes-{task_id}-0"), slot=0, driver=DriverId("x"))
    await store.save(advance(task, event))


async def ids(client: Client, state: State) -> list[str]:
    listed = (await client.get("/tasks", params={"state": state})).json()["tasks"]
    assert {task["state"] for task in listed} <= {state}
    return [task["id"] for task in listed]


async def test_queued_is_shown_as_initializing_in_every_view_and_list(early: Client) -> None:
    text = '"state":"QUEUED"'
    task_id = await create(early, name=text, tags={"state": "QUEUED"})

    for view in ("MINIMAL", "BASIC", "FULL"):
        assert (await fetch(early, task_id, view))["state"] == "INITIALIZING"
        listed = (await early.get("/tasks", params={"view": view})).json()["tasks"]
        assert [task["state"] for task in listed] == ["INITIALIZING"]
    full = await fetch(early, task_id)
    assert (full["name"], full["tags"]) == (text, {"state": "QUEUED"})


async def test_a_filter_for_initializing_finds_both_and_one_for_queued_none(
    early: Client, store: SqliteStore
) -> None:
    queued, claimed = [await create(early), await create(early)]
    await claim(store, claimed)

    assert await ids(early, State.INITIALIZING) == [claimed, queued]
    assert await ids(early, State.QUEUED) == []


async def test_without_the_setting_queued_is_queued(tes: Client) -> None:
    task_id = await create(tes)

    assert (await fetch(tes, task_id))["state"] == "QUEUED"
    assert await ids(tes, State.QUEUED) == [task_id]


async def test_it_goes_together_with_what_tes_1_0_does_not_have(
    make_client: MakeClient, store: SqliteStore
) -> None:
    old = make_client(base=f"{BASE}/v1", queued_as_initializing=True)
    queued, canceling = [await create(old), await create(old)]
    await claim(store, canceling)
    task = await store.get(TaskId(canceling))
    assert task is not None
    await store.save(advance(task, CancelAsked(at=BEGINNING + timedelta(seconds=2))))

    assert await ids(old, State.CANCELED) == [canceling]
    assert await ids(old, State.INITIALIZING) == [queued]
    assert await ids(old, State.CANCELING) == []
