"""The whole server, as the settings build it: one sees, lists and cancels only what is one's own.

Two users and an administrator of a real issuer's shape, the Basic user, and a task from the time
before there was any authentication.
"""

import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tesp_api.domain.task import Task, TaskId
from tesp_api.domain.tes import State
from tesp_api.ports import TaskStore
from tesp_api.settings.model import BasicAuth, Db, OAuth, Settings
from tesp_api.tesp_api import build
from tests.auth.keys import Signer, rsa_key
from tests.auth.web import DESCRIPTION, Web, serving

PREFIXES = ("/ga4gh/tes/v1", "/v1")
SIGNER = Signer(rsa_key(0))
STOLEN = Signer(rsa_key(1))
TASK = {
    "name": "shared name",
    "tags": {"project": "shared"},
    "inputs": [{"path": "/in", "content": "a secret of its owner"}],
    "executors": [{"image": "alpine", "command": ["true"], "env": {"KEY": "a secret too"}}],
}
UNKNOWN = "a" * 24


@dataclass
class Site:
    """The server, a client of it, its issuer."""

    client: httpx.AsyncClient
    store: TaskStore
    issuer: Web
    document: dict[str, Any]

    def headers(self, subject: str, signer: Signer = SIGNER, **more: object) -> dict[str, str]:
        now = int(time.time())
        body = {"iss": self.issuer.url, "sub": subject, "aud": "tes", "iat": now, "exp": now + 600}
        return {"Authorization": f"Bearer {signer.token(body | more)}"}

    async def create(self, headers: Mapping[str, str], **changes: object) -> str:
        body = json.dumps(TASK | changes)
        answer = await self.client.post(f"{PREFIXES[0]}/tasks", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    async def ids(self, headers: Mapping[str, str], **query: object) -> list[str]:
        answer = await self.client.get(f"{PREFIXES[0]}/tasks", params=query, headers=headers)
        assert answer.status_code == 200, answer.text
        return [task["id"] for task in answer.json()["tasks"]]

    async def state(self, task_id: str) -> State:
        task = await self.store.get(TaskId(task_id))
        assert task is not None
        return task.state


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving() as issuer:
        issuer.publish(SIGNER)
        server = build(
            Settings(
                db=Db(mongodb_uri=None, sqlite_path=tmp_path / "tasks.sqlite"),
                basic_auth=BasicAuth(enable=True, username="user", password="password"),
                oauth=OAuth(
                    enable=True,
                    issuers=(issuer.url,),
                    required_audience="tes",
                    admins=(f"{issuer.url}|root",),
                    admin_claim="groups",
                    admin_value="operators",
                ),
            )
        )
        await server.store.open()
        transport = httpx.ASGITransport(server.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield Site(client, server.store, issuer, server.app.openapi())
        await server.store.close()
        await server.runner.close()


@pytest.fixture
def alice(site: Site) -> dict[str, str]:
    return site.headers("alice")


@pytest.fixture
def bob(site: Site) -> dict[str, str]:
    return site.headers("bob")


def basic(text: str = "user:password") -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(text.encode()).decode()}"}


@pytest.fixture
def admins(site: Site) -> list[dict[str, str]]:
    return [site.headers("root"), site.headers("carol", groups=["users", "operators"])]


# Nobody gets in unseen


async def test_every_operation_wants_to_know_who_asks(site: Site) -> None:
    task_id = await site.create(basic())
    asked = 0
    for prefix in PREFIXES:
        for path, operations in site.document["paths"].items():
            for method in operations:
                url = prefix + path.replace("{id}", task_id)
                for headers in ({}, basic("user:wrong"), site.headers("alice", STOLEN)):
                    answer = await site.client.request(method, url, headers=headers)
                    assert answer.status_code == 401, (method, url, answer.text)
                    assert task_id not in answer.text
                    challenges = answer.headers["www-authenticate"]
                    assert "Basic realm" in challenges
                    assert "Bearer realm" in challenges
                    asked += 1
    assert asked >= 30
    assert await site.state(task_id) is State.QUEUED


async def test_a_refusal_shows_nothing_of_the_token(site: Site) -> None:
    for headers in (site.headers("alice", STOLEN), site.headers("alice", exp=1, iat=1)):
        answer = await site.client.get(f"{PREFIXES[0]}/tasks", headers=headers)
        assert answer.status_code == 401
        for piece in headers["Authorization"].removeprefix("Bearer ").split("."):
            assert piece not in answer.text
        assert "alice" not in answer.text
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_the_documents_of_the_server_need_nobody_and_name_both_ways(site: Site) -> None:
    for path in ("/", "/openapi.json", "/healthz"):
        assert (await site.client.get(path)).status_code == 200
    assert set(site.document["components"]["securitySchemes"]) == {"BasicAuth", "BearerAuth"}
    assert site.document["security"] == [{"BasicAuth": []}, {"BearerAuth": []}]


async def test_an_unlisted_issuer_is_never_asked(site: Site) -> None:
    async with serving() as evil:
        evil.publish(STOLEN)
        headers = site.headers("alice", STOLEN, iss=evil.url)
        answer = await site.client.get(f"{PREFIXES[0]}/tasks", headers=headers)
        assert answer.status_code == 401
        assert evil.requests == []


async def test_while_the_issuer_is_silent_one_is_asked_to_come_again(site: Site) -> None:
    del site.issuer.answers[DESCRIPTION]
    answer = await site.client.get(f"{PREFIXES[0]}/tasks", headers=site.headers("alice"))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert site.issuer.url not in answer.text
    assert (await site.client.get(f"{PREFIXES[0]}/tasks", headers=basic())).status_code == 200


# What is another's is not there


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("view", ["MINIMAL", "BASIC", "FULL"])
async def test_anothers_task_is_answered_like_one_that_is_not_there(
    site: Site, alice: dict[str, str], bob: dict[str, str], prefix: str, view: str
) -> None:
    task_id = await site.create(alice)
    for headers in (bob, basic()):
        url = f"{prefix}/tasks/{{}}?view={view}"
        theirs = await site.client.get(url.format(task_id), headers=headers)
        nobodys = await site.client.get(url.format(UNKNOWN), headers=headers)
        assert theirs.status_code == nobodys.status_code == 404
        assert theirs.text.replace(task_id, UNKNOWN) == nobodys.text
    own = await site.client.get(f"{prefix}/tasks/{task_id}?view={view}", headers=alice)
    assert own.json()["id"] == task_id


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_anothers_task_cannot_be_canceled(
    site: Site, alice: dict[str, str], bob: dict[str, str], prefix: str
) -> None:
    task_id = await site.create(alice)
    for headers in (bob, basic()):
        theirs = await site.client.post(f"{prefix}/tasks/{task_id}:cancel", headers=headers)
        nobodys = await site.client.post(f"{prefix}/tasks/{UNKNOWN}:cancel", headers=headers)
        assert theirs.status_code == nobodys.status_code == 404
        assert theirs.text.replace(task_id, UNKNOWN) == nobodys.text
    assert await site.state(task_id) is State.QUEUED
    own = await site.client.post(f"{prefix}/tasks/{task_id}:cancel", headers=alice)
    assert own.status_code == 200
    assert await site.state(task_id) is State.CANCELED


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"view": "FULL"},
        {"name_prefix": "shared"},
        {"state": "QUEUED"},
        {"tag_key": "project", "tag_value": "shared"},
        {"tag_key": "project"},
        {"name_prefix": "s", "state": "QUEUED", "tag_key": "project", "page_size": 1},
    ],
)
async def test_no_filter_finds_what_is_anothers(
    site: Site, alice: dict[str, str], bob: dict[str, str], query: dict[str, Any]
) -> None:
    await site.create(alice)
    for prefix in PREFIXES:
        for headers in (bob, basic()):
            answer = await site.client.get(f"{prefix}/tasks", params=query, headers=headers)
            assert answer.json() == {"tasks": []}
    assert len(await site.ids(alice, **query)) == 1


async def test_pages_hold_only_ones_own_tasks_also_with_anothers_token(
    site: Site, alice: dict[str, str], bob: dict[str, str]
) -> None:
    mine, theirs = [], []
    for _ in range(6):
        mine.append(await site.create(alice))
        theirs.append(await site.create(bob))
    url, seen, token = f"{PREFIXES[0]}/tasks", [], ""
    for _ in range(3):
        page = await site.client.get(
            url, params={"page_size": 2, "page_token": token}, headers=alice
        )
        seen += [task["id"] for task in page.json()["tasks"]]
        token = page.json().get("next_page_token", "")
        strangers = await site.ids(bob, page_token=token or None)
        assert set(strangers) <= set(theirs)
    assert seen == mine[::-1]
    assert token == ""


async def test_another_subject_another_issuer_and_the_basic_user_are_other_owners(
    site: Site, alice: dict[str, str], bob: dict[str, str]
) -> None:
    own = {await site.create(headers): headers for headers in (alice, bob, basic())}
    for task_id, headers in own.items():
        assert await site.ids(headers) == [task_id]
    kept = [await site.store.get(TaskId(task_id)) for task_id in own]
    owners = {task.owner for task in kept if task is not None}
    assert owners == {f"{site.issuer.url}|alice", f"{site.issuer.url}|bob", "basic:user"}


async def test_a_subject_that_looks_like_somebody_elses_name_is_nobody_else(
    site: Site, alice: dict[str, str]
) -> None:
    await site.create(alice)
    await site.create(basic())
    for subject in (
        f"{site.issuer.url}|alice",
        "basic:user",
        "alice ",
        "ALICE",
        "%",
        "*",
        "' OR 1",
    ):
        assert await site.ids(site.headers(subject)) == []


async def test_the_owner_is_not_what_a_request_says(site: Site, bob: dict[str, str]) -> None:
    task_id = await site.create(bob, owner=f"{site.issuer.url}|alice", id=UNKNOWN)
    assert await site.ids(site.headers("alice")) == []
    assert await site.ids(bob) == [task_id]


# Administrators


async def old_task(site: Site) -> str:
    """Keep a task as it was before there was authentication."""
    task_id = await site.create(basic())
    kept = await site.store.get(TaskId(task_id))
    assert kept is not None
    old = Task(
        id=TaskId("old" + UNKNOWN),
        request=kept.request,
        state=State.QUEUED,
        created_at=datetime.now(UTC),
        owner=None,
    )
    await site.store.add(old)
    return old.id


async def test_administrators_see_and_cancel_everything_also_what_nobody_owns(
    site: Site, alice: dict[str, str], admins: list[dict[str, str]]
) -> None:
    mine, old = await site.create(alice), await old_task(site)
    for headers in admins:
        assert {mine, old} <= set(await site.ids(headers))
        for task_id in (mine, old):
            url = f"{PREFIXES[0]}/tasks/{task_id}"
            answer = await site.client.get(url, params={"view": "FULL"}, headers=headers)
            assert answer.json()["inputs"][0]["content"] == "a secret of its owner"
    for task_id in (mine, old):
        url = f"{PREFIXES[0]}/tasks/{task_id}:cancel"
        assert (await site.client.post(url, headers=admins[0])).status_code == 200
        assert await site.state(task_id) is State.CANCELED


async def test_what_nobody_owns_is_shown_to_administrators_only(
    site: Site, alice: dict[str, str]
) -> None:
    old = await old_task(site)
    for headers in (alice, site.headers("None"), site.headers("null")):
        assert await site.ids(headers) == []
        answer = await site.client.get(f"{PREFIXES[0]}/tasks/{old}", headers=headers)
        assert answer.status_code == 404
    assert old not in await site.ids(basic())


async def test_an_administrators_own_tasks_are_their_own(
    site: Site, alice: dict[str, str], admins: list[dict[str, str]]
) -> None:
    task_id = await site.create(admins[0])
    assert await site.ids(alice) == []
    assert task_id in await site.ids(admins[1])
