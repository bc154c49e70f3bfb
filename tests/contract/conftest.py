"""Both stores, opened on a place of their own; each test of the suite runs on either."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import pymongo
import pytest

from tesp_api.ports import TaskStore
from tesp_api.store.mongo import MongoStore
from tesp_api.store.sqlite import SqliteStore
from tests.needs import missing, need

NewStore = Callable[[], TaskStore]
"""Makes a store that is not open yet; each call, one on the same tasks."""


def pytest_report_collectionfinish() -> str:
    """Say it where a header would, which pytest takes from the top directory alone."""
    return f"MongoDB of the contract suite: {_server()}"


@pytest.fixture
def mongodb() -> Iterator[str]:
    """The URI of a MongoDB database of the test's own, dropped afterwards."""
    need("mongodb")
    name = f"tesp_test_{uuid4().hex[:16]}"
    yield urlsplit(os.environ["TESP_TEST_MONGODB_URI"])._replace(path=f"/{name}").geturl()
    with pymongo.MongoClient(os.environ["TESP_TEST_MONGODB_URI"]) as client:
        client.drop_database(name)


@pytest.fixture(params=["sqlite", "mongodb"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> NewStore:
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "tasks.db")
    uri = request.getfixturevalue("mongodb")
    return lambda: MongoStore(uri)


@pytest.fixture
async def store(new_store: NewStore) -> AsyncIterator[TaskStore]:
    store = new_store()
    await store.open()
    yield store
    await store.close()


def _server() -> str:
    lacking = missing("mongodb")
    if lacking is not None:
        return f"none ({lacking})"
    if named := os.environ.get("TESP_TEST_MONGODB_SERVER"):
        return named
    with pymongo.MongoClient(os.environ["TESP_TEST_MONGODB_URI"]) as client:
        hello = client.admin.command("hello")
        return f"{hello.get('msg', 'a server')} of wire version {hello['maxWireVersion']}"
