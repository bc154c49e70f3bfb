"""POST /tasks/{id}:cancel."""

import pytest

from tesp_api.domain.lifecycle import Started, Succeeded
from tesp_api.domain.task import TaskId
from tesp_api.store.sqlite import SqliteStore
from tests.api.conftest import Client, create, fetch
from tests.api.memory import BEGINNING, Listener
from tests.api.test_read import claimed, run_to

BODIES = (
    {"json": {}},
    {},
    {"headers": {"Content-Type": "application/json"}},
    {"content": b"not json", "headers": {"Content-Type": "text/plain"}},
    {"json": {"reason": "x"}},
)


@pytest.mark.parametrize("body", BODIES)
async def test_10_6_cancel_takes_any_body_or_none(
    tes: Client, body: dict[str, object], listener: Listener
) -> None:
    task_id = await create(tes)
    answer = await tes.post(f"/tasks/{task_id}:cancel", **body)  # type: ignore[arg-type]
    assert (answer.status_code, answer.json()) == (200, {})
    assert listener.changes == [task_id]


async def test_a_task_that_had_no_job_is_canceled_at_once(tes: Client) -> None:
    task_id = await create(tes)
    await tes.post(f"/tasks/{task_id}:cancel")
    given = await fetch(tes, task_id)
    assert given["state"] == "CANCELED"
    assert len(given["logs"]) == 1


async def test_a_task_that_has_a_job_is_canceling(
    tes: Client, store: SqliteStore, listener: Listener
) -> None:
    task_id = await create(tes)
    await run_to(store, task_id, claimed(), Started(at=BEGINNING))
    await tes.post(f"/tasks/{task_id}:cancel")
    expected = "CANCELED" if str(tes.base_url).endswith("g/v1/") else "CANCELING"
    assert (await fetch(tes, task_id, "MINIMAL"))["state"] == expected
    assert listener.changes == [task_id]


async def test_10_6_cancel_of_a_finished_task_is_200_and_changes_nothing(
    tes: Client, store: SqliteStore
) -> None:
    task_id = await create(tes)
    await run_to(store, task_id, claimed(), Succeeded(at=BEGINNING))
    before = await fetch(tes, task_id)
    answer = await tes.post(f"/tasks/{task_id}:cancel", json={})
    assert (answer.status_code, answer.json()) == (200, {})
    assert await fetch(tes, task_id) == before


async def test_cancel_of_a_task_in_canceling_changes_nothing(
    tes: Client, store: SqliteStore
) -> None:
    task_id = await create(tes)
    await run_to(store, task_id, claimed())
    for _ in range(2):
        assert (await tes.post(f"/tasks/{task_id}:cancel")).status_code == 200
    task = await store.get(TaskId(task_id))
    assert task is not None
    assert task.revision == 2


async def test_cancel_of_an_unknown_task_is_404(tes: Client) -> None:
    assert (await tes.post("/tasks/nope:cancel")).status_code == 404
