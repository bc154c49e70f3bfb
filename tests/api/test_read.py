"""GET /tasks and /tasks/{id}: views, pages, filters."""

import json
from datetime import timedelta
from typing import Any

import pytest

from tesp_api.domain import lifecycle
from tesp_api.domain.lifecycle import CancelAsked, Claimed, ExecutorFailed, Outcome, Started
from tesp_api.domain.task import DriverId, JobId, TaskId
from tesp_api.domain.tes import ExecutorLog, OutputFileLog, State
from tesp_api.store.sqlite import SqliteStore
from tests.api.conftest import Client, MakeClient, create, fetch
from tests.api.memory import BEGINNING

SCRIPT = {"path": "/data/script", "content": "secret text", "type": "FILE"}


async def run_to(store: SqliteStore, task_id: str, *events: lifecycle.Event) -> None:
    task = await store.get(TaskId(task_id))
    assert task is not None
    for event in events:
        task = lifecycle.advance(task, event)
        await store.save(task)


def claimed(slot: int = 0) -> Claimed:
    return Claimed(at=BEGINNING, job=JobId(f"job{slot}"), slot=slot, driver=DriverId("d"))


OUTCOME = Outcome(
    executors=(
        ExecutorLog(
            start_time="2026-11-22T12:00:00Z", end_time="2026-11-22T12:00:01Z", exit_code=3,
            stdout="printed", stderr="complained",
        ),
    ),
    outputs=(OutputFileLog(url="http://example.org/o", path="/o", size_bytes="12"),),
    log=("a line of the system",),
    metadata={"host": "node1"},
)  # fmt: skip


async def failed(store: SqliteStore, tes: Client) -> str:
    """Return a task that has ended, with everything a log can have."""
    executor = {"image": "a", "command": ["b"], "stdout": "/tmp/out", "stderr": "/tmp/err"}
    task_id = await create(tes, name="n", inputs=[SCRIPT], executors=[executor])
    end = ExecutorFailed(at=BEGINNING + timedelta(seconds=2), outcome=OUTCOME)
    await run_to(store, task_id, claimed(), Started(at=BEGINNING), end)
    return task_id


async def test_minimal_is_the_default_and_only_id_and_state(
    tes: Client, store: SqliteStore
) -> None:
    task_id = await failed(store, tes)
    expected = {"id": task_id, "state": "EXECUTOR_ERROR"}
    assert await fetch(tes, task_id, "MINIMAL") == expected
    assert (await tes.get(f"/tasks/{task_id}")).json() == expected
    assert (await tes.get("/tasks")).json() == {"tasks": [expected]}


async def test_full_has_everything(tes: Client, store: SqliteStore) -> None:
    given = await fetch(tes, await failed(store, tes))
    assert given["inputs"] == [SCRIPT]
    (log,) = given["logs"]
    assert log["logs"] == [
        {
            "start_time": "2026-11-22T12:00:00Z", "end_time": "2026-11-22T12:00:01Z",
            "exit_code": 3, "stdout": "printed", "stderr": "complained",
        }
    ]  # fmt: skip
    assert log["outputs"] == [{"url": "http://example.org/o", "path": "/o", "size_bytes": "12"}]
    assert log["system_logs"] == ["a line of the system"]
    assert log["metadata"] == {"host": "node1"}
    assert log["start_time"] == "2026-11-22T12:00:00.000Z"
    assert log["end_time"] == "2026-11-22T12:00:02.000Z"


async def test_10_9_basic_is_full_without_texts_of_logs_and_contents(
    tes: Client, store: SqliteStore
) -> None:
    task_id = await failed(store, tes)
    full, basic = await fetch(tes, task_id), await fetch(tes, task_id, "BASIC")
    for item in full["inputs"]:
        del item["content"]
    for log in full["logs"]:
        del log["system_logs"]
        for executor in log["logs"]:
            del executor["stdout"], executor["stderr"]
    assert basic == full
    assert basic["executors"][0]["stdout"] == "/tmp/out"
    assert "secret text" not in json.dumps(basic)


@pytest.mark.parametrize("view", ["MINIMAL", "BASIC", "FULL"])
async def test_lists_show_what_a_single_get_shows(
    tes: Client, store: SqliteStore, view: str
) -> None:
    ids = [await create(tes), await failed(store, tes), await create(tes, name="x")]
    shown = (await tes.get("/tasks", params={"view": view})).json()["tasks"]
    assert shown == [await fetch(tes, task_id, view) for task_id in reversed(ids)]


def every_value(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return [leaf for value in node.values() for leaf in every_value(value)]
    if isinstance(node, list):
        return [leaf for value in node for leaf in every_value(value)]
    return [node]


async def test_10_4_numbers_and_strings_are_what_clients_parse(
    tes: Client, store: SqliteStore
) -> None:
    await failed(store, tes)
    task_id = await create(tes, resources={"cpu_cores": 4, "ram_gb": 1})
    await run_to(store, task_id, claimed(1))
    resources = (await fetch(tes, task_id))["resources"]
    assert resources == {"cpu_cores": 4, "ram_gb": 1.0}
    assert type(resources["cpu_cores"]) is int
    tasks = (await tes.get("/tasks", params={"view": "FULL"})).json()["tasks"]
    assert None not in every_value(tasks)
    assert tasks[0]["logs"][0]["logs"] == []
    assert type(tasks[1]["logs"][0]["logs"][0]["exit_code"]) is int


@pytest.mark.parametrize("target", ["/tasks", "/tasks/{id}"])
@pytest.mark.parametrize("view", ["", "full", "EVERYTHING"])
async def test_an_unknown_view_is_400(tes: Client, target: str, view: str) -> None:
    path = target.format(id=await create(tes))
    answer = await tes.get(path, params={"view": view})
    assert answer.status_code == 400
    assert answer.json()["details"] == [
        {"path": "view", "message": "must be one of MINIMAL, BASIC, FULL."}
    ]


async def test_10_6_unknown_query_parameters_are_ignored(tes: Client) -> None:
    task_id = await create(tes)
    assert (await tes.get(f"/tasks/{task_id}", params={"api_key": "x"})).status_code == 200
    assert len((await tes.get("/tasks?api_key=x&&=&x")).json()["tasks"]) == 1


async def test_pages_follow_each_other_while_tasks_are_added(tes: Client) -> None:
    ids = [await create(tes) for _ in range(7)]
    seen: list[str] = []
    parameters: dict[str, Any] = {"page_size": 3}
    while True:
        page = (await tes.get("/tasks", params=parameters)).json()
        seen += [task["id"] for task in page["tasks"]]
        await create(tes)
        if "next_page_token" not in page:
            break
        parameters["page_token"] = page["next_page_token"]
    assert seen == ids[::-1]


async def test_a_full_last_page_has_no_token(tes: Client) -> None:
    for _ in range(2):
        await create(tes)
    assert set((await tes.get("/tasks", params={"page_size": 2})).json()) == {"tasks"}


async def test_an_empty_token_is_the_first_page(tes: Client) -> None:
    task_id = await create(tes)
    page = (await tes.get("/tasks", params={"page_token": ""})).json()
    assert [task["id"] for task in page["tasks"]] == [task_id]


@pytest.mark.parametrize("size", [1, 2, 2047])
async def test_page_sizes_within_the_limits_are_kept_to(tes: Client, size: int) -> None:
    for _ in range(3):
        await create(tes)
    page = (await tes.get("/tasks", params={"page_size": size})).json()
    assert len(page["tasks"]) == min(size, 3)


@pytest.mark.parametrize(
    "size", ["0", "-1", "2048", "", "1.0", "ten", "+5", " 5", "9" * 99, "\u0663"]
)
async def test_other_page_sizes_are_400(tes: Client, size: str) -> None:
    answer = await tes.get("/tasks", params={"page_size": size})
    assert answer.status_code == 400
    assert answer.json()["details"][0]["path"] == "page_size"


async def token_of(tes: Client) -> str:
    for _ in range(2):
        await create(tes)
    token: str = (await tes.get("/tasks", params={"page_size": 1})).json()["next_page_token"]
    return token


async def test_tokens_say_nothing_to_clients(tes: Client) -> None:
    token = await token_of(tes)
    assert token.isascii()
    assert not token.isdigit()


async def test_tampered_tokens_are_400(tes: Client) -> None:
    token = await token_of(tes)
    others = [token[:-1], token + "A", token.lower(), "x", "1", "\u00e9", "=", token + "="]
    others += [token[:i] + ("B" if token[i] == "A" else "A") + token[i + 1 :] for i in range(22)]
    for other in others:
        answer = await tes.get("/tasks", params={"page_token": other})
        assert answer.status_code == 400, other


async def test_a_token_of_another_key_is_400(tes: Client, make_client: MakeClient) -> None:
    other = make_client(base=str(tes.base_url), page_key=b"another")
    answer = await other.get("/tasks", params={"page_token": await token_of(tes)})
    assert answer.status_code == 400


async def names(tes: Client, **parameters: Any) -> list[str]:
    parameters["view"] = "BASIC"
    answer = await tes.get("/tasks", params=parameters)
    assert answer.status_code == 200, answer.text
    return [task["name"] for task in answer.json()["tasks"]]


async def test_name_prefix_is_literal_and_case_sensitive(tes: Client) -> None:
    for name in ("abc", "aBc", "a.c", "a%c", "xabc", "ab"):
        await create(tes, name=name)
    await create(tes)
    assert await names(tes, name_prefix="ab") == ["ab", "abc"]
    assert await names(tes, name_prefix="a.") == ["a.c"]
    assert await names(tes, name_prefix="a%") == ["a%c"]
    assert await names(tes, name_prefix="bc") == []


TAGS = {"one": {"foo": "bar", "baz": "bat"}, "two": {"foo": "bar"}, "three": {"foo": ""}}
TAG_CASES = (
    ({"tag_key": ["foo"], "tag_value": ["bar"]}, ["two", "one"]),
    ({"tag_key": ["foo"], "tag_value": ["bat"]}, []),
    ({"tag_key": ["foo"], "tag_value": [""]}, ["three", "two", "one"]),
    ({"tag_key": ["foo"]}, ["three", "two", "one"]),
    ({"tag_key": ["baz", "foo"], "tag_value": ["bat", "bar"]}, ["one"]),
    ({"tag_key": ["baz", "foo"], "tag_value": ["bat"]}, ["one"]),
    ({"tag_key": ["foo", "foo"], "tag_value": ["bar", "bat"]}, []),
    ({"tag_key": ["nope"]}, []),
    ({"tag_key": [""]}, []),
)


@pytest.mark.parametrize(("parameters", "expected"), TAG_CASES)
async def test_tags_are_paired_by_position_and_all_must_match(
    tes: Client, parameters: dict[str, Any], expected: list[str]
) -> None:
    for name, tags in TAGS.items():
        await create(tes, name=name, tags=tags)
    assert await names(tes, **parameters) == expected


async def test_a_tag_value_without_its_key_is_400(tes: Client) -> None:
    answer = await tes.get("/tasks?tag_key=a&tag_value=b&tag_value=c")
    assert answer.status_code == 400


async def test_filters_are_anded(tes: Client, store: SqliteStore) -> None:
    for name in ("a1", "a2", "b1"):
        await create(tes, name=name, tags={"k": name[-1]})
    found = await names(tes, name_prefix="a", tag_key="k", tag_value="1", state="QUEUED")
    assert found == ["a1"]
    assert await names(tes, name_prefix="a", state="RUNNING") == []


@pytest.mark.parametrize("state", list(State))
async def test_any_state_of_the_standard_may_be_asked_for(tes: Client, state: State) -> None:
    await create(tes)
    tasks = (await tes.get("/tasks", params={"state": state})).json()["tasks"]
    assert len(tasks) == (state is State.QUEUED)


@pytest.mark.parametrize("state", ["", "queued", "NONE"])
async def test_another_state_is_400(tes: Client, state: str) -> None:
    assert (await tes.get("/tasks", params={"state": state})).status_code == 400


async def test_all_mistakes_of_a_query_are_told_at_once(tes: Client) -> None:
    answer = await tes.get("/tasks?page_size=0&view=x&state=y&page_token=z&tag_value=q")
    paths = {mistake["path"] for mistake in answer.json()["details"]}
    assert paths == {"page_size", "view", "state", "page_token", "tag_value"}


async def canceling(store: SqliteStore, client: Client) -> str:
    tags = {"state": "CANCELING"}
    task_id = await create(client, name='"state":"CANCELING"', tags=tags)
    await run_to(store, task_id, claimed(), CancelAsked(at=BEGINNING))
    return task_id


async def states(client: Client, path: str) -> list[str]:
    return [task["state"] for task in (await client.get(path)).json()["tasks"]]


async def test_under_v1_canceling_is_shown_and_filtered_as_canceled(
    root: Client, store: SqliteStore, make_client: MakeClient
) -> None:
    task_id = await canceling(store, make_client(base="http://tes.example.org/v1"))
    for view in ("MINIMAL", "BASIC", "FULL"):
        shown = (await root.get(f"/v1/tasks/{task_id}?view={view}")).json()
        assert shown["state"] == "CANCELED"
        assert shown.get("tags", {"state": "CANCELING"}) == {"state": "CANCELING"}
        assert await states(root, f"/v1/tasks?view={view}") == ["CANCELED"]
    assert await states(root, "/v1/tasks?state=CANCELED") == ["CANCELED"]
    assert await states(root, "/v1/tasks?state=CANCELING") == []


async def test_under_1_1_canceling_is_itself(
    root: Client, store: SqliteStore, make_client: MakeClient
) -> None:
    task_id = await canceling(store, make_client(base="http://tes.example.org/v1"))
    shown = (await root.get(f"/ga4gh/tes/v1/tasks/{task_id}")).json()
    assert shown["state"] == "CANCELING"
    assert await states(root, "/ga4gh/tes/v1/tasks?state=CANCELING") == ["CANCELING"]
    assert await states(root, "/ga4gh/tes/v1/tasks?state=CANCELED") == []


async def test_text_in_a_task_cannot_be_taken_for_its_state(
    root: Client, make_client: MakeClient
) -> None:
    tes = make_client(base="http://tes.example.org/v1")
    task_id = await create(tes, name='x","state":"CANCELING"', tags={"state": "CANCELING"})
    shown = await fetch(tes, task_id)
    assert shown["state"] == "QUEUED"
    assert shown["tags"] == {"state": "CANCELING"}


async def test_an_unknown_task_is_404(tes: Client) -> None:
    for task_id in ("nope", "x" * 5000, "%00", "a b", "{}", "..;"):
        answer = await tes.get(f"/tasks/{task_id}")
        assert answer.status_code == 404
        assert answer.json()["error"] == "Not Found"


async def test_head_is_get_without_a_body(tes: Client) -> None:
    task_id = await create(tes)
    full, head = await tes.get(f"/tasks/{task_id}"), await tes.head(f"/tasks/{task_id}")
    assert head.status_code == 200
    assert head.content == b""
    assert head.headers["content-length"] == full.headers["content-length"]


async def test_answers_are_json_by_their_type(tes: Client) -> None:
    task_id = await create(tes)
    for path in ("/tasks", f"/tasks/{task_id}", "/service-info", "/tasks/nope", "/nope"):
        assert (await tes.get(path)).headers["content-type"] == "application/json"
