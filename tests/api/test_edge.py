"""What every request passes: ids, the log, and rules against other people's web pages."""

import re

import pytest
from starlette.exceptions import HTTPException

from tesp_api.admission import Admission
from tesp_api.auth import BasicAuthentication
from tesp_api.domain.errors import Overloaded, StoreUnreachable
from tesp_api.domain.task import TaskId
from tesp_api.domain.tes import View
from tesp_api.store.sqlite import SqliteStore
from tests.api.conftest import BASE, Client, MakeClient, logged, minimal_task
from tests.api.memory import MemoryStore, StillClock


class BrokenStore(MemoryStore):
    """A store with a bug."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def document(self, task_id: TaskId, view: View, owner: str | None) -> bytes | None:
        raise self._error


async def test_every_answer_has_a_request_id_of_its_own(root: Client) -> None:
    ids = set()
    for path in ("/v1/tasks", "/nope", "/", "/healthz", "/v1/tasks/nope"):
        ids.add((await root.get(path)).headers["x-request-id"])
    assert len(ids) == 5


async def test_a_sane_request_id_of_the_client_is_kept(root: Client) -> None:
    answer = await root.get("/healthz", headers={"X-Request-ID": "abc-1.2_3"})
    assert answer.headers["x-request-id"] == "abc-1.2_3"


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", "<x>"])
async def test_another_request_id_is_replaced(root: Client, given: str) -> None:
    answer = await root.get("/healthz", headers={"X-Request-ID": given})
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9]+", answer.headers["x-request-id"])


async def test_a_bug_is_500_without_details_and_logged_with_them(
    make_client: MakeClient,
) -> None:
    client = make_client(on=BrokenStore(ZeroDivisionError("secret detail")))
    with logged() as records:
        answer = await client.get("/v1/tasks/x")
    assert answer.status_code == 500
    assert set(answer.json()) == {"status", "error", "message"}
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    (record,) = (record for record in records if record["level"].name == "ERROR")
    assert isinstance(record["exception"].value, ZeroDivisionError)
    assert record["extra"]["request"] == answer.headers["x-request-id"]


async def test_a_bug_of_one_request_does_not_harm_the_next(make_client: MakeClient) -> None:
    client = make_client(on=BrokenStore(ZeroDivisionError()))
    await client.get("/v1/tasks/x")
    assert (await client.get("/v1/tasks")).status_code == 200


async def test_everything_logged_in_a_request_has_its_id(root: Client) -> None:
    task_id = (await root.post("/v1/tasks", json=minimal_task())).json()["id"]
    with logged() as records:
        answer = await root.post(f"/v1/tasks/{task_id}:cancel")
    assert {record["extra"]["request"] for record in records} == {answer.headers["x-request-id"]}
    assert [record["message"] for record in records] == ["task canceled"]


async def test_overload_is_503_with_retry_after(make_client: MakeClient) -> None:
    answer = await make_client(on=BrokenStore(Overloaded("Full."))).get("/v1/tasks/x")
    assert (answer.status_code, answer.json()["message"]) == (503, "Full.")
    assert answer.headers["retry-after"] == "5"


async def test_10_10_a_hiccup_of_the_store_is_no_503(
    make_client: MakeClient, clock: StillClock
) -> None:
    store = MemoryStore()
    client = make_client(on=store)
    for method, path in (("POST", "/v1/tasks"), ("GET", "/v1/tasks"), ("GET", "/v1/tasks/task0")):
        store.outages = 3
        body = minimal_task() if method == "POST" else None
        answer = await client.request(method, path, json=body)
        assert answer.status_code in (200, 404)
    assert 0 < clock.passed_s < 7


async def test_10_10_an_outage_is_503_with_retry_after_before_clients_give_up(
    make_client: MakeClient, clock: StillClock
) -> None:
    store = MemoryStore()
    store.outages = 10**6
    with logged() as records:
        answer = await make_client(on=store).get("/v1/tasks/x")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "7 s" not in answer.text
    assert [record["level"].name for record in records] == ["WARNING"]
    assert 6 < clock.passed_s < 8


async def test_a_server_that_is_not_ready_says_why_in_the_shape_of_an_error(
    make_client: MakeClient, clock: StillClock
) -> None:
    async def down() -> None:
        raise StoreUnreachable("mongodb://user:hunter2@db")

    async def up() -> None: ...

    client = make_client(BasicAuthentication("u", "p"), neighbours={"The store": down, "P": up})
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.json() == {
        "status": 503,
        "error": "Service Unavailable",
        "message": "This server is not ready.",
        "reasons": ["The store does not answer."],
    }
    assert (await client.get("/healthz")).status_code == 200
    assert clock.passed_s == 0


async def test_a_full_queue_is_503_and_too_many_tasks_of_one_are_429(
    make_client: MakeClient, store: SqliteStore, clock: StillClock
) -> None:
    full = Admission(store, clock, queue=1, per_owner=None)
    mine = Admission(store, clock, queue=None, per_owner=1)
    for admission, status, word in ((full, 503, "queue"), (mine, 429, "unfinished")):
        client = make_client(BasicAuthentication("u", "p"), admission=admission)
        headers = {"Authorization": "Basic dTpw"}
        await client.post("/v1/tasks", json=minimal_task(), headers=headers)
        answer = await client.post("/v1/tasks", json=minimal_task(), headers=headers)
        assert (answer.status_code, answer.json()["status"]) == (status, status)
        assert set(answer.json()) == {"status", "error", "message"}
        assert word in answer.json()["message"]
        assert answer.headers["retry-after"] == "5"
        assert (await client.get("/v1/tasks", headers=headers)).status_code == 200


async def test_http_errors_of_the_framework_have_the_one_shape(make_client: MakeClient) -> None:
    client = make_client(on=BrokenStore(HTTPException(418, headers={"X-Tea": "1"})))
    answer = await client.get("/v1/tasks/x")
    assert answer.json() == {"status": 418, "error": "I'm a Teapot", "message": "I'm a Teapot"}
    assert answer.headers["x-tea"] == "1"


FOREIGN = (
    "http://evil.example",
    "https://evil.example",
    "http://tes.example.org:81",
    "http://tes.example.org.evil.example",
    "null",
    "",
    "file://",
    "tes.example.org",
)


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_a_foreign_origin_is_403(root: Client, origin: str, method: str) -> None:
    headers = {"Origin": origin}
    answer = await root.request(method, "/v1/tasks", headers=headers, json=minimal_task())
    assert (answer.status_code, answer.json()["status"]) == (403, 403)
    assert "access-control-allow-origin" not in answer.headers
    assert (await root.get("/v1/tasks")).json() == {"tasks": []}


OWN = ("http://tes.example.org", "https://tes.example.org", "HTTPS://TES.example.org:443")


@pytest.mark.parametrize("origin", OWN)
async def test_the_servers_own_pages_may_use_it(root: Client, origin: str) -> None:
    answer = await root.post("/v1/tasks", json=minimal_task(), headers={"Origin": origin})
    assert answer.status_code == 200


async def test_the_origin_of_a_server_on_a_port_has_that_port(make_client: MakeClient) -> None:
    client = make_client(base="http://localhost:8080")
    for origin, status in (("http://localhost:8080", 200), ("http://localhost", 403)):
        assert (await client.get("/v1/tasks", headers={"Origin": origin})).status_code == status


async def test_pages_of_an_allowed_origin_may_read_the_answers(make_client: MakeClient) -> None:
    client = make_client(origins=["https://portal.example"])
    headers = {"Origin": "https://portal.example"}
    answer = await client.post("/v1/tasks", json=minimal_task(), headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://portal.example"
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-y"}
    preflight = await client.options("/v1/tasks", headers=headers | asked)
    assert preflight.status_code == 200
    assert (await client.get("/", headers={"Origin": "https://other.example"})).status_code == 403


async def test_only_allowed_hosts_are_answered(make_client: MakeClient) -> None:
    client = make_client(hosts=["TES.example.org", "10.0.0.1", "[::1]"])
    for host in (
        "tes.example.org",
        "tes.example.org:8080",
        "TES.EXAMPLE.ORG",
        "10.0.0.1",
        "[::1]:1",
    ):
        assert (await client.get("/healthz", headers={"Host": host})).status_code == 200
    for host in ("evil.example", "", "tes.example.org.evil.example", "localhost", "[::1"):
        answer = await client.get("/healthz", headers={"Host": host})
        assert (answer.status_code, answer.json()["status"]) == (421, 421)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "[::1]"])
async def test_a_server_on_loopback_answers_only_to_names_of_loopback(
    make_client: MakeClient, address: str
) -> None:
    client = make_client(base=f"http://{address}:8080")
    for host in ("localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST", "x.localhost"):
        assert (await client.get("/healthz", headers={"Host": host})).status_code == 200
    for host in ("evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "127.1"):
        assert (await client.get("/healthz", headers={"Host": host})).status_code == 421


async def test_elsewhere_any_host_is_answered_unless_some_are_named(root: Client) -> None:
    assert (await root.get("/healthz", headers={"Host": "any.example"})).status_code == 200
    assert str(root.base_url).startswith(BASE)
