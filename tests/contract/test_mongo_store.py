"""What only the shared store promises: of its server, its indexes, and of several processes."""

import asyncio
import base64
import json
import random
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

import bson
import pymongo
import pytest
from pymongo.collection import Collection

from tesp_api.domain.errors import InvalidRequest, Misconfigured, Stale, StoreUnreachable
from tesp_api.domain.lifecycle import ACTIVE
from tesp_api.domain.task import JobId
from tesp_api.domain.tes import State, TaskRequest, View
from tesp_api.ports import Query
from tesp_api.store.mongo import MongoStore
from tesp_api.store.mongo_documents import choice, projection
from tests.contract.test_task_store import (
    ME,
    YOU,
    claimed,
    ended,
    everything,
    ids_of,
    minimal,
    moment,
    new_task,
    withdrawn,
)

Documents = Collection[dict[str, Any]]
MESSAGE = 2013
"""OP_MSG of MongoDB's wire protocol."""


class Wire:
    """A connection to the server that can be cut, and listens to what the client says."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = host, port
        self._server: asyncio.Server | None = None
        self._links = set[asyncio.Task[None]]()
        self.silent = False
        """Swallow what comes, and answer nothing."""
        self.commands: list[Mapping[str, Any]] = []

    async def listen(self, port: int = 0) -> int:
        self._server = await asyncio.start_server(self._link, "127.0.0.1", port)
        return int(self._server.sockets[0].getsockname()[1])

    async def cut(self) -> None:
        """Refuse new connections, and end those there are."""
        assert self._server is not None
        self._server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        upstream: asyncio.StreamWriter | None = None
        try:
            answers, upstream = await asyncio.open_connection(*self._upstream)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._requests(reader, upstream))
                both.create_task(self._pass(answers, writer))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass
        finally:
            for one in (writer, upstream):
                if one is not None:
                    one.close()
            self._links.discard(task)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(16)
                body = await reader.readexactly(int.from_bytes(head[:4], "little") - 16)
                if int.from_bytes(head[12:16], "little") == MESSAGE:
                    size = int.from_bytes(body[5:9], "little")
                    self.commands.append(bson.decode(body[5 : 5 + size]))
                if not self.silent:
                    writer.write(head + body)
                    await writer.drain()
        writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()


@asynccontextmanager
async def wired(uri: str) -> AsyncIterator[tuple[Wire, MongoStore, int]]:
    """An open store whose calls go through a `Wire`."""
    parts = urlsplit(uri)
    wire = Wire(parts.hostname or "127.0.0.1", parts.port or 27017)
    port = await wire.listen()
    through = parts._replace(netloc=f"127.0.0.1:{port}", query="directConnection=true").geturl()
    store = MongoStore(through, timeout_s=1.5)
    await store.open()
    try:
        yield wire, store, port
    finally:
        await store.close()
        await wire.cut()


@pytest.fixture
def uri(mongodb: str) -> str:
    return mongodb


@contextmanager
def collection(uri: str, name: str) -> Iterator[Documents]:
    """A look behind the store."""
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        yield client.get_default_database()[name]


@pytest.fixture
async def store(uri: str) -> AsyncIterator[MongoStore]:
    store = MongoStore(uri)
    await store.open()
    yield store
    await store.close()


# The server


@pytest.mark.parametrize(
    "bad",
    ["", "nonsense", "http://x", "mongodb://", "mongodb://h:port", "mongodb://h/?w=-1"],
)
async def test_a_uri_that_cannot_be_read_is_misconfigured(bad: str) -> None:
    with pytest.raises(Misconfigured, match=r"db\.mongodb_uri"):
        await MongoStore(bad).open()


async def test_a_password_in_a_uri_is_not_repeated() -> None:
    with pytest.raises(Misconfigured) as refused:
        await MongoStore("mongodb://user:hunter2@h:port/x").open()
    assert "hunter2" not in str(refused.value)


async def test_a_server_that_is_not_there_is_weather(unused_tcp_port: int) -> None:
    store = MongoStore(f"mongodb://127.0.0.1:{unused_tcp_port}/x", timeout_s=0.2)
    with pytest.raises(StoreUnreachable):
        await store.open()
    await store.close()


async def test_a_server_that_goes_away_is_weather_until_it_is_back(uri: str) -> None:
    async with wired(uri) as (wire, store, port):
        task = new_task()
        await store.add(task)
        await wire.cut()
        calls = (
            lambda: store.add(new_task()),
            lambda: store.save(claimed(task, slot=0)),
            lambda: store.get(task.id),
            lambda: store.document(task.id, View.FULL, None),
            lambda: store.page(everything()),
            lambda: store.queued(1),
            lambda: store.driven(None, frozenset(State)),
            lambda: store.untidy(1),
            store.slots,
            lambda: store.beat(ME),
            lambda: store.retire(ME),
        )
        results = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
        assert {type(result) for result in results} == {StoreUnreachable}
        await wire.listen(port)
        assert await store.get(task.id) == task
        await store.add(task)
        await store.save(claimed(task, slot=0))


async def test_a_server_that_falls_silent_is_weather(uri: str) -> None:
    async with wired(uri) as (wire, store, _):
        task = new_task()
        wire.silent = True
        results = await asyncio.gather(
            store.add(task), store.page(everything()), return_exceptions=True
        )
        assert {type(result) for result in results} == {StoreUnreachable}


async def test_every_write_asks_for_a_journaled_majority(uri: str) -> None:
    async with wired(uri) as (wire, store, _):
        task = new_task()
        await store.add(task)
        await store.save(claimed(task, slot=0))
        await store.beat(ME)
        await store.retire(ME)
        await store.keep_news(JobId("j"), b"{}", 1)
        await store.keep_news(JobId("j"), b"{}", 2)
        await store.drop_news([JobId("j")])
        await ended(store, 1)
        assert await store.remove_ended(moment(2), 1) == 1
        assert len([one for one in wire.commands if "delete" in one]) == 3
        writes = ("insert", "update", "delete", "findAndModify")
        asked = [
            (name, command.get("writeConcern"))
            for command in wire.commands
            for name in writes
            if name in command
        ]
    assert {name for name, _ in asked} == set(writes)
    assert all(concern == {"w": "majority", "j": True} for _, concern in asked)


async def test_a_uri_cannot_lead_reads_to_secondaries_or_weaken_writes(uri: str) -> None:
    loose = f"{uri}?w=0&readPreference=secondary"
    store = MongoStore(loose)
    await store.open()
    task = new_task()
    await store.add(task)
    with pytest.raises(Stale):
        await store.save(task)
    assert await store.get(task.id) == task
    await store.close()


async def test_a_database_of_a_later_version_is_refused(uri: str) -> None:
    with collection(uri, "meta") as meta:
        meta.insert_one({"_id": "schema", "version": 99})
    with pytest.raises(Misconfigured, match=r"later version.*99.*upgrade"):
        await MongoStore(uri).open()


async def test_a_database_of_version_1_is_opened_and_goes_on(store: MongoStore, uri: str) -> None:
    untidy = await ended(store, 1, tidy=False)
    tidy, gone, waits = await ended(store, 2), await withdrawn(store, 3), new_task()
    await store.add(waits)
    with collection(uri, "task") as tasks, collection(uri, "meta") as meta:
        tasks.update_many({}, {"$unset": {"done_at": ""}})
        tasks.drop_index("done")
        meta.update_one({"_id": "schema"}, {"$set": {"version": 1}})
    later = MongoStore(uri)
    await later.open()
    assert await later.remove_ended(moment(1), 9) == 0
    assert await later.remove_ended(moment(9), 9) == 2
    assert [await later.get(task.id) for task in (tidy, gone)] == [None, None]
    assert [await later.get(task.id) for task in (untidy, waits)] == [untidy, waits]
    with collection(uri, "meta") as meta:
        assert meta.find_one({"_id": "schema"}) == {"_id": "schema", "version": 2}
    await later.close()


async def test_an_index_of_another_kind_in_its_place_is_misconfigured(uri: str) -> None:
    with collection(uri, "task") as tasks:
        tasks.create_index([("something", 1)], name="by_seq")
    with pytest.raises(Misconfigured, match=r"db\.mongodb_uri"):
        await MongoStore(uri).open()


async def test_a_task_larger_than_a_document_is_refused(store: MongoStore) -> None:
    content = base64.b64encode(random.Random(1).randbytes(12_000_000)).decode()
    request = TaskRequest.model_validate(
        {
            "inputs": [{"path": "/in", "content": content}],
            "executors": [{"image": "u", "command": ["x"]}],
        }
    )
    task = new_task()
    with pytest.raises(InvalidRequest, match="larger"):
        await store.add(replace(task, request=request))
    await store.add(task)


# Several processes


async def test_several_stores_share_one_order_and_its_slots(uri: str) -> None:
    stores = [MongoStore(uri) for _ in range(3)]
    await asyncio.gather(*(store.open() for store in stores))
    tasks = [new_task() for _ in range(30)]
    for number, task in enumerate(tasks):
        await stores[number % 3].add(task)
    crowd = [new_task() for _ in range(300)]
    await asyncio.gather(*(stores[n % 3].add(task) for n, task in enumerate(crowd)))
    found = await ids_of(stores[0], everything(limit=50))
    assert found[300:] == minimal(tasks[::-1])
    assert sorted(found[:300]) == sorted(minimal(crowd))
    rivals = [claimed(tasks[0], slot=slot) for slot in range(3)]
    results = await asyncio.gather(
        *(store.save(rival) for store, rival in zip(stores, rivals, strict=True)),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "Stale", "Stale"]
    assert await stores[1].beat(ME) == {ME: 1}
    assert await stores[2].beat(YOU) == {ME: 1, YOU: 1}
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_counter_that_fell_behind_is_mended_at_the_start(uri: str) -> None:
    store, tasks = MongoStore(uri), [new_task() for _ in range(3)]
    await store.open()
    for task in tasks[:2]:
        await store.add(task)
    await store.close()
    with collection(uri, "meta") as meta:
        meta.delete_one({"_id": "order"})
    await store.open()
    await store.add(tasks[2])
    assert await ids_of(store, everything()) == minimal(tasks[::-1])
    await store.close()


async def test_a_crowd_of_adds_costs_few_round_trips(uri: str) -> None:
    async with wired(uri) as (wire, store, _):
        before = len(wire.commands)
        await asyncio.gather(*(store.add(new_task()) for _ in range(300)))
        assert len(wire.commands) - before <= 6


# Indexes


FILTERS: Mapping[str, Any] = {
    "owner": "anna",
    "name_prefix": "na",
    "states": frozenset({State.QUEUED, State.RUNNING}),
    "tags": (("k", "v"), ("any", "")),
}
OURS = {"by_seq", "by_state", "by_owner", "by_owner_and_state", "by_tag", "by_name"}


@pytest.mark.parametrize(
    "names", [names for size in range(5) for names in combinations(FILTERS, size)], ids=str
)
async def test_every_combination_of_filters_is_answered_by_an_index(
    store: MongoStore, uri: str, names: tuple[str, ...]
) -> None:
    chosen = {name: FILTERS[name] for name in names}
    tasks = [new_task("nb", owner="bert", tags={"k": "w"}) for _ in range(200)]
    await asyncio.gather(*(store.add(task) for task in tasks))
    query = Query(view=View.FULL, limit=10, **chosen)
    with collection(uri, "task") as documents:
        cursor = documents.find(choice(query), projection(View.FULL)).sort("seq", -1).limit(11)
        used = indexes_in(cursor.explain())
    wanted = {
        "owner": {"by_owner", "by_owner_and_state"},
        "name_prefix": {"by_name"},
        "states": {"by_state", "by_owner_and_state"},
        "tags": {"by_tag"},
    }
    assert used & (set().union(*(wanted[name] for name in names)) if names else OURS)


@pytest.mark.parametrize(
    ("question", "index"),
    [
        ({"slot": {"$gte": 0}}, "by_slot"),
        ({"claimed": True}, "claimed"),
        ({"untidy": True, "seq": {"$gt": 0}}, "untidy"),
        ({"state": "QUEUED"}, "by_state"),
    ],
)
async def test_what_the_dispatcher_asks_is_answered_by_an_index(
    store: MongoStore, uri: str, question: Mapping[str, Any], index: str
) -> None:
    await asyncio.gather(*(store.add(new_task()) for _ in range(50)))
    with collection(uri, "task") as documents:
        assert index in indexes_in(documents.find(question).sort("seq", 1).explain())


async def test_what_is_to_be_removed_is_found_by_an_index(store: MongoStore, uri: str) -> None:
    await asyncio.gather(*(store.add(new_task()) for _ in range(50)))
    with collection(uri, "task") as documents:
        old = documents.find({"done_at": {"$lt": moment(1)}}, {"_id": 1}).sort("done_at", 1)
        assert "done" in indexes_in(old.limit(256).explain())


@pytest.mark.parametrize(
    ("of", "index"), [({}, "by_state"), ({"owner": "anna"}, "by_owner_and_state")]
)
async def test_counting_is_answered_by_an_index(
    store: MongoStore, uri: str, of: Mapping[str, Any], index: str
) -> None:
    await asyncio.gather(*(store.add(new_task(owner="bert")) for _ in range(50)))
    wanted = {"state": {"$in": sorted(ACTIVE)}, **of}
    with collection(uri, "task") as documents:
        assert index in indexes_in(documents.find(wanted, {"_id": 1}).limit(5).explain())


def indexes_in(plan: Mapping[str, Any]) -> set[str]:
    """The indexes that a plan walks, in MongoDB's words or in DocumentDB's."""
    text = json.dumps({key: plan.get(key) for key in ("queryPlanner", "stages")}, default=str)
    text = re.sub(r'"(rejectedPlans|IndexCosts)": \[.*?\](?=, "|\})', "", text)
    assert "COLLSCAN" not in text
    return set(re.findall(r'"(?:indexName|Index Name)": "(\w+)"', text))
