"""Tasks that the reference implementation has kept in MongoDB, as it writes them, in our stores."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pymongo
import pytest
from bson import ObjectId

from tesp_api.domain.errors import Misconfigured
from tesp_api.domain.task import TaskId
from tesp_api.domain.tes import State, View
from tesp_api.migrate import migrate
from tesp_api.ports import Query, TaskStore
from tesp_api.store import reference
from tests.needs import need

OLD = ObjectId("64b000000000000000000001")
ISSUER = "https://login.example.org/"


def task(**more: Any) -> dict[str, Any]:
    """Return a document with all the nulls that the reference writes."""
    nothing = dict.fromkeys(("name", "description", "inputs", "outputs", "resources", "volumes"))
    executor = {"image": "alpine", "command": ["md5sum"], "stdin": "/data/file1", "workdir": None}
    base = {**nothing, "executors": [executor], "tags": None, "logs": None, "author": None}
    return {"_id": OLD, **base, "state": "COMPLETE", "creation_time": None, **more}


COMPLETE = task(
    name="md5",
    inputs=[{"url": "ftp://h:2121/f", "path": "/data/file1", "type": "FILE", "content": None}],
    logs=[
        {
            "logs": [
                {
                    "start_time": "2023-07-13T13:45:00+00:00",
                    "end_time": "2023-07-13T13:45:01+00:00",
                    "stdout": "d41d8",
                    "stderr": "",
                    "exit_code": 0,
                },
                {"start_time": None, "end_time": None, "stdout": None, "exit_code": None},
            ],
            "metadata": {"host": "n1", "slurm_id": 7},
            "start_time": "2023-07-13T13:44:59",
            "end_time": datetime(2023, 7, 13, 13, 46),
            "outputs": [{"url": "ftp://h/o", "path": "/o", "size_bytes": "5"}],
            "system_logs": ["kept"],
        }
    ],
    author="alice",
)


def test_everything_of_an_ended_task_is_kept_and_nulls_are_absent() -> None:
    made = reference.task_of(COMPLETE, ISSUER)
    assert (made.id, made.state, made.owner) == (str(OLD), State.COMPLETE, f"{ISSUER}|alice")
    assert made.created_at == OLD.generation_time
    (attempt,) = made.attempts
    assert attempt.started_at == datetime(2023, 7, 13, 13, 44, 59, tzinfo=UTC)
    assert [log.exit_code for log in attempt.executors] == [0]
    assert attempt.metadata == {"host": "n1", "slurm_id": "7"}
    assert attempt.outputs[0].size_bytes == "5"
    assert made.request.inputs is not None
    assert made.request.inputs[0].content is None
    assert not made.untidy


@pytest.mark.parametrize("state", ["QUEUED", "INITIALIZING", "RUNNING", "UNKNOWN"])
def test_what_was_under_way_has_ended_and_says_why(state: str) -> None:
    made = reference.task_of(task(state=state), None)
    assert made.state is State.SYSTEM_ERROR
    assert state in made.attempts[-1].system_logs[-1]


def test_without_an_issuer_nobody_but_an_admin_is_the_owner() -> None:
    assert reference.task_of(COMPLETE, None).owner is None


@pytest.mark.parametrize(
    "broken", [{"executors": None}, {"state": "LOST"}, {"logs": [{"logs": 1}]}]
)
def test_what_is_no_task_is_told_by_its_id(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(OLD)):
        reference.task_of({**COMPLETE, **broken}, None)


@pytest.fixture
def tasks(mongodb: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    """A collection like the reference's, in a database of the test's own."""
    need("mongodb")
    name = urlsplit(mongodb).path.lstrip("/") + "_ref"
    monkeypatch.setattr(reference, "DATABASE", name)
    with pymongo.MongoClient[dict[str, Any]](mongodb) as client:
        yield mongodb, client[name][reference.COLLECTION]
        client.drop_database(name)


async def test_all_are_copied_once_in_their_order(
    tasks: tuple[str, Any], store: TaskStore, capsys: pytest.CaptureFixture[str]
) -> None:
    uri, old = tasks
    ids = [ObjectId(f"64b0000{n}0000000000000000") for n in range(3)]
    old.insert_many([{**COMPLETE, "_id": name} for name in reversed(ids)])
    old.insert_one(task(_id=ObjectId(), executors="none"))
    for _ in range(2):
        assert await migrate(uri, store, ISSUER) == 1
    assert "3 tasks copied, 1 could not be read." in capsys.readouterr().out
    page = await store.page(Query(view=View.MINIMAL, limit=10, owner=f"{ISSUER}|alice"))
    assert [json.loads(one)["id"] for one in page.each] == [str(name) for name in ids[::-1]]
    assert await store.get(TaskId(str(ids[0]))) is not None


async def test_a_mongodb_that_is_away_is_told(store: TaskStore) -> None:
    with pytest.raises(Misconfigured, match="0 tasks are copied"):
        await migrate("mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=100", store, None)
