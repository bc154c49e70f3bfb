"""Who may ask, and whose tasks they see."""

import base64

import pytest

from tesp_api.auth import BasicAuthentication
from tesp_api.domain.task import TaskId
from tesp_api.store.sqlite import SqliteStore
from tests.api.conftest import BASE, Client, MakeClient, create, fetch, minimal_task
from tests.api.memory import Listener


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


IGNORED = (
    {"Authorization": "Basic Tm9uZTpOb25l"},
    {"Authorization": "Basic Og=="},
    {"Authorization": "Bearer x.y.z"},
    {"Authorization": "nonsense"},
    {"Authorization": ""},
)


@pytest.mark.parametrize("headers", IGNORED)
async def test_10_6_an_open_server_ignores_credentials(
    tes: Client, headers: dict[str, str]
) -> None:
    tes.headers.update(headers)
    assert (await fetch(tes, await create(tes)))["state"] == "QUEUED"


@pytest.fixture
def guarded(make_client: MakeClient, prefix: str) -> Client:
    return make_client(BasicAuthentication("us\u00e9r", "pa:ss"), base=BASE + prefix)


OPERATIONS = (
    ("GET", "/tasks"),
    ("POST", "/tasks"),
    ("GET", "/tasks/x"),
    ("POST", "/tasks/x:cancel"),
    ("GET", "/service-info"),
)
WRONG = (
    {},
    basic("us\u00e9r", "pa:s"),
    basic("us\u00e9r", ""),
    basic("", "pa:ss"),
    basic("us\u00e9r:pa", "ss"[:1]),
    basic("None", "None"),
    {"Authorization": "Basic"},
    {"Authorization": "Basic !!!"},
    {"Authorization": "Basic dXM"},
    {"Authorization": "Bearer " + basic("us\u00e9r", "pa:ss")["Authorization"].split()[1]},
)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@pytest.mark.parametrize("headers", WRONG)
async def test_wrong_credentials_are_401_with_a_challenge(
    guarded: Client, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = await guarded.request(method, path, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (401, 401)
    assert answer.headers["www-authenticate"] == 'Basic realm="TES", charset="UTF-8"'


async def test_the_right_credentials_open_every_operation(guarded: Client) -> None:
    guarded.headers.update(basic("us\u00e9r", "pa:ss"))
    task_id = await create(guarded)
    assert (await fetch(guarded, task_id))["id"] == task_id
    assert len((await guarded.get("/tasks")).json()["tasks"]) == 1
    assert (await guarded.post(f"/tasks/{task_id}:cancel")).status_code == 200
    assert (await guarded.get("/service-info")).status_code == 200


async def test_the_scheme_is_read_in_any_case(guarded: Client) -> None:
    headers = {"Authorization": "bAsIc " + basic("us\u00e9r", "pa:ss")["Authorization"].split()[1]}
    assert (await guarded.get("/tasks", headers=headers)).status_code == 200


async def test_the_body_of_a_stranger_is_not_looked_at(guarded: Client) -> None:
    assert (await guarded.post("/tasks", content=b"{")).status_code == 401


async def test_the_user_is_kept_as_owner(guarded: Client, store: SqliteStore) -> None:
    task_id = await create_as(guarded, "us\u00e9r", "pa:ss")
    task = await store.get(TaskId(task_id))
    assert task is not None
    assert task.owner == "basic:us\u00e9r"


async def create_as(client: Client, user: str, password: str) -> str:
    client.headers.update(basic(user, password))
    return await create(client)


async def test_others_tasks_are_404_and_in_no_list(
    make_client: MakeClient, prefix: str, listener: Listener
) -> None:
    ann = make_client(BasicAuthentication("ann", "a"), base=BASE + prefix)
    bob = make_client(BasicAuthentication("bob", "b"), base=BASE + prefix)
    bob.headers.update(basic("bob", "b"))
    of_ann = await create_as(ann, "ann", "a")
    none = await bob.get("/tasks/nothing")
    for answer in (await bob.get(f"/tasks/{of_ann}"), await bob.post(f"/tasks/{of_ann}:cancel")):
        assert answer.status_code == 404
        assert answer.text.replace(of_ann, "nothing") == none.text
    assert (await bob.get("/tasks")).json() == {"tasks": []}
    assert (await fetch(ann, of_ann))["state"] == "QUEUED"
    assert listener.changes == []


async def test_an_open_server_shows_everybodys_tasks(
    make_client: MakeClient, tes: Client, prefix: str
) -> None:
    ann = make_client(BasicAuthentication("ann", "a"), base=BASE + prefix)
    task_id = await create_as(ann, "ann", "a")
    assert (await fetch(tes, task_id))["id"] == task_id


async def test_tokens_do_not_tell_how_many_tasks_others_have(
    make_client: MakeClient, tes: Client, prefix: str
) -> None:
    tokens = []
    ann = make_client(BasicAuthentication("ann", "a"), base=BASE + prefix)
    for _ in range(3):
        await create_as(ann, "ann", "a")
        await tes.post("/tasks", json=minimal_task())
        page = (await ann.get("/tasks", params={"page_size": 1})).json()
        tokens.append(page.get("next_page_token", ""))
    assert len(set(tokens)) == 3
    assert tokens[1][:4] != tokens[2][:4]
