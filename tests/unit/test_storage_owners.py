"""Whose data: from the settings, over the creation of a task, to the node's order."""

import json
from typing import Any

import pytest

from tesp_api.adapters import make_storage
from tesp_api.clock import SystemClock
from tesp_api.domain.errors import InvalidRequest, OutOfReach
from tesp_api.domain.rules import Policy
from tesp_api.domain.task import TaskId
from tesp_api.domain.tes import Input
from tesp_api.service import Principal, Service
from tesp_api.settings.model import Keys, Settings
from tesp_api.storage import UrlStorage
from tests.api.memory import Listener, MemoryStore, StillClock

PASSWORD = {"basic_auth": {"enable": True, "username": "alice", "password": "secret-word"}}
ALICE, BOB = Principal(owner="basic:alice"), Principal(owner="basic:bob")


def storage_of(*, authentication: bool, **storage: Any) -> UrlStorage:
    given = {"storage": storage, **(PASSWORD if authentication else {})}
    keys = Keys.model_validate_json(json.dumps(given))
    return make_storage(Settings(**dict(keys)), SystemClock())


def body(url: str) -> bytes:
    executors = [{"image": "a", "command": ["b"]}]
    return json.dumps({"executors": executors, "inputs": [{"path": "/in", "url": url}]}).encode()


async def test_a_task_may_name_files_of_its_owner_alone() -> None:
    roots = [{"path": "/data/{owner}", "owners": ["*"]}]
    storage = storage_of(authentication=True, file={"roots": roots})
    service = Service(
        store=MemoryStore(),
        dispatch=Listener(),
        clock=StillClock(),
        policy=Policy(refusal=storage.refusal),
        new_id=lambda: TaskId("t"),
    )
    hers = body("/data/basic%3Aalice/x")
    assert await service.create(ALICE, hers) == "t"
    with pytest.raises(InvalidRequest, match="is not below /data/basic%3Abob"):
        await service.create(BOB, hers)
    with pytest.raises(InvalidRequest, match="this server allows you none"):
        await service.create(Principal(owner=None, sees_all=True), hers)


@pytest.mark.parametrize("authentication", [True, False])
async def test_what_names_no_owners_serves_everybody_only_without_authentication(
    authentication: bool,
) -> None:
    storage = storage_of(
        authentication=authentication,
        file={"roots": ["/data"]},
        http=[{"prefixes": ["https://h/"], "token": "canary-http"}],
        ftp=[{"prefixes": ["ftp://h/"], "username": "u", "password": "canary-ftp"}],
    )
    owner = "basic:alice" if authentication else None
    assert (storage.refusal(Input(path="/in", url="/data/x"), owner) is None) is not authentication
    for url in ("https://h/x", "ftp://h/x"):
        order = await storage.fetch_order(Input(path="/in", url=url), owner)
        assert ("canary" in str(order)) is not authentication
    assert ("file:///data" in storage.served()) is not authentication


async def test_an_s3_entry_serves_its_owners_and_tells_nobody_of_others() -> None:
    entry = {"prefixes": ["s3://alices/"], "access_key": "canary-ak", "secret_key": "canary-sk"}
    storage = storage_of(authentication=True, s3=[{**entry, "owners": ["basic:alice"]}])
    item = Input(path="/in", url="s3://alices/x")
    order = await storage.fetch_order(item, "basic:alice")
    assert order["url"].startswith("https://alices.s3.us-east-1.amazonaws.com/x?X-Amz-")
    assert "canary-sk" not in str(order)
    with pytest.raises(OutOfReach, match=r"^s3://alices/x cannot be reached"):
        await storage.fetch_order(item, "basic:bob")
    with pytest.raises(OutOfReach) as caught:
        await storage.fetch_order(Input(path="/in", url="s3://other/x"), "basic:bob")
    assert "alices" not in str(caught.value)
    assert "alices" not in str(storage.served())
