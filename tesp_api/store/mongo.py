"""MongoDB: the store that several processes share. The only file that knows motor.

One document a task, with the bytes in it that are given out as they are. A save is an update of
the one revision before it. Places in the order of lists are counted at the server, since
no two machines' clocks agree; a process takes as many places at a time as it has adds waiting, so
that a crowd pays two round trips together. A place taken earlier may so be filled later than its
successors: a reader already beyond it does not meet that task on this walk, and no other twice.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from collections.abc import Collection as Several
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

from loguru import logger
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import ASCENDING, DESCENDING, IndexModel, ReadPreference, ReturnDocument, WriteConcern
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
)
from pymongo.uri_parser import parse_uri

from tesp_api.domain.errors import (
    InvalidRequest,
    Misconfigured,
    Mistake,
    SlotTaken,
    Stale,
    StoreUnreachable,
)
from tesp_api.domain.lifecycle import TERMINAL
from tesp_api.domain.task import DriverId, JobId, Task, TaskId
from tesp_api.domain.tes import State, View
from tesp_api.ports import Glance, News, Page, Query
from tesp_api.store import mongo_news
from tesp_api.store.mongo_documents import change, choice, new, projection, shown, size_of
from tesp_api.store.rows import Row, decode, done_at, row_of
from tesp_api.store.together import Together

Client: TypeAlias = "AsyncIOMotorClient[dict[str, Any]]"
Collection: TypeAlias = "AsyncIOMotorCollection[dict[str, Any]]"
Database: TypeAlias = "AsyncIOMotorDatabase[dict[str, Any]]"

_DATABASE: Final = "tesp"
"""Where the URI names none. The reference implementation's tasks are there too, in `tasks`."""
_SCHEMES: Final = ("mongodb://", "mongodb+srv://")
_VERSION: Final = 2
_MOST_BYTES: Final = 15 * 2**20
"""Of one document; MongoDB takes 16 MiB."""
_MOST_PAGE_BYTES: Final = 64 * 2**20
_CHUNK: Final = 256
_DURABLY: Final = WriteConcern(w="majority", j=True)
_AUTHENTICATION_FAILED, _UNAUTHORIZED, _INDEX_CONFLICTS = 18, 13, {85, 86}
_HOPELESS: Final = frozenset({_AUTHENTICATION_FAILED, _UNAUTHORIZED, *_INDEX_CONFLICTS})
"""What the server says that no waiting mends."""

INDEXES: Final = (
    IndexModel([("seq", DESCENDING)], name="by_seq", unique=True),
    IndexModel([("state", ASCENDING), ("seq", DESCENDING)], name="by_state"),
    IndexModel([("owner", ASCENDING), ("seq", DESCENDING)], name="by_owner"),
    IndexModel(
        [("owner", ASCENDING), ("state", ASCENDING), ("seq", DESCENDING)], name="by_owner_and_state"
    ),
    IndexModel([("tags", ASCENDING), ("seq", DESCENDING)], name="by_tag"),
    IndexModel([("name", ASCENDING), ("seq", DESCENDING)], name="by_name"),
    IndexModel(
        [("slot", ASCENDING)],
        name="by_slot",
        unique=True,
        partialFilterExpression={"slot": {"$gte": 0}},
    ),
    IndexModel(
        [("claimed", ASCENDING), ("seq", ASCENDING)],
        name="claimed",
        partialFilterExpression={"claimed": True},
    ),
    IndexModel(
        [("untidy", ASCENDING), ("seq", ASCENDING)],
        name="untidy",
        partialFilterExpression={"untidy": True},
    ),
    IndexModel([("done_at", ASCENDING)], name="done", sparse=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What an open store holds."""

    client: Client
    tasks: Collection
    drivers: Collection
    news: Collection
    meta: Collection
    adds: Together[Row]


class MongoStore:
    """A `TaskStore`, and `JobNews`, in the database that `uri` names.

    `timeout_s` is how long a call looks for a server; one that answers no more is given up after
    twice as long.
    """

    sole = False
    """Any number of processes may share the database."""

    def __init__(self, uri: str, *, timeout_s: float = 3.0) -> None:
        self._uri = uri
        self._timeout_s = timeout_s
        self._opened: Opened | None = None
        self._changing = asyncio.Lock()

    async def open(self) -> None:
        """Connect, make indexes. Idempotent. Raises Misconfigured if it never can."""
        async with self._changing:
            if self._opened is not None:
                return
            client = await asyncio.to_thread(self._client, asyncio.get_running_loop())
            try:
                self._opened = await _opened(client)
            finally:
                if self._opened is None:
                    await asyncio.to_thread(client.close)

    async def close(self) -> None:
        """Finish what waits and disconnect. Idempotent."""
        async with self._changing:
            opened, self._opened = self._opened, None
            if opened is not None:
                await opened.adds.close()
                await asyncio.to_thread(opened.client.close)

    async def add(self, task: Task) -> None:
        """Keep a new task; a known id changes nothing. Raises InvalidRequest if it is too large."""
        row = row_of(task)
        if size_of(row) > _MOST_BYTES:
            raise InvalidRequest(Mistake("", "The task is larger than this server can keep."))
        await self._live.adds.add(row)

    async def get(self, task_id: TaskId) -> Task | None:
        """Return the task as last saved."""
        with weather():
            found = await self._live.tasks.find_one({"_id": task_id}, {"task": 1})
        return None if found is None else decode(found["task"])

    async def save(self, task: Task) -> None:
        """Replace the revision before. Raises Stale, SlotTaken."""
        before = {"_id": task.id, "revision": task.revision - 1}
        with weather():
            try:
                result = await self._live.tasks.update_one(before, change(row_of(task)))
            except DuplicateKeyError as error:
                raise SlotTaken(f"Slot {task.slot} is held by another task.") from error
        if not result.matched_count:
            raise Stale(f"Task {task.id} is not at revision {task.revision - 1}.")

    async def document(self, task_id: TaskId, view: View, owner: str | None) -> bytes | None:
        """Return the task rendered in that view; None if there is none, or it is another's."""
        wanted = {"_id": task_id} if owner is None else {"_id": task_id, "owner": owner}
        with weather():
            found = await self._live.tasks.find_one(wanted, projection(view))
        return None if found is None else shown(found)

    async def page(self, query: Query) -> Page:
        """Return one page of a list; a shorter one where the whole would be too large."""
        documents, size, last = list[bytes](), 0, None
        with weather():
            async for found in self._newest_first(query):
                if len(documents) == query.limit or size > _MOST_PAGE_BYTES:
                    return Page(documents=documents, next_before=last)
                documents.append(shown(found))
                size += len(documents[-1])
                last = found["seq"]
        return Page(documents=documents, next_before=None)

    async def queued(self, limit: int) -> Sequence[Task]:
        """Return waiting tasks, oldest first."""
        with weather():
            tasks = self._live.tasks.find({"state": State.QUEUED.value}, {"task": 1})
            found = await tasks.sort("seq", ASCENDING).limit(limit).to_list(limit)
        return [decode(one["task"]) for one in found]

    async def driven(self, driver: DriverId | None, states: frozenset[State]) -> Sequence[Glance]:
        """Return claimed, unfinished tasks, oldest first."""
        with weather():
            tasks = self._live.tasks.find({"claimed": True}, {"state": 1, "driver": 1})
            found = await tasks.sort("seq", ASCENDING).to_list(None)
        return [
            Glance(id=TaskId(one["_id"]), state=State(one["state"]), driver=DriverId(one["driver"]))
            for one in found
            if one["state"] in states and driver in {None, one["driver"]}
        ]

    async def untidy(self, limit: int, after: int = 0) -> Sequence[tuple[int, TaskId]]:
        """Return ended tasks with leftovers, oldest first."""
        with weather():
            tasks = self._live.tasks.find({"untidy": True, "seq": {"$gt": after}}, {"seq": 1})
            found = await tasks.sort("seq", ASCENDING).limit(limit).to_list(limit)
        return [(one["seq"], TaskId(one["_id"])) for one in found]

    async def count(self, states: frozenset[State], owner: str | None, most: int) -> int:
        """Count tasks in these states, up to `most`."""
        wanted: dict[str, Any] = {"state": {"$in": sorted(states)}}
        if owner is not None:
            wanted["owner"] = owner
        with weather():
            return await self._live.tasks.count_documents(wanted, limit=most)

    async def remove_ended(self, before: datetime, limit: int) -> int:
        """Remove tasks that ended before that moment and left nothing behind."""
        old = {"done_at": {"$lt": before}}
        with weather():
            tasks = self._live.tasks.find(old, {"_id": 1}).sort("done_at", ASCENDING)
            found = await tasks.limit(limit).to_list(limit)
            if not found:
                return 0
            names = {"_id": {"$in": [one["_id"] for one in found]}}
            return (await self._live.tasks.delete_many(names | old)).deleted_count

    async def slots(self) -> frozenset[int]:
        """Return the slots that are held."""
        with weather():
            found = await self._live.tasks.find({"slot": {"$gte": 0}}, {"slot": 1}).to_list(None)
        return frozenset(one["slot"] for one in found)

    async def beat(self, driver: DriverId) -> Mapping[DriverId, int]:
        """Count a beat and return everybody's."""
        with weather():
            await _upsert(self._live.drivers, driver, {"$inc": {"beats": 1}})
            found = await self._live.drivers.find().to_list(None)
        return {DriverId(one["_id"]): one["beats"] for one in found}

    async def retire(self, driver: DriverId) -> None:
        """Take a driver off the list."""
        with weather():
            await self._live.drivers.delete_one({"_id": driver})

    async def news(self, job: JobId) -> News | None:
        """Return what was heard of a job."""
        with weather():
            return await mongo_news.news(self._live.news, job)

    async def keep_news(
        self, job: JobId, record: bytes, revision: int, *, doomed: bool = False
    ) -> None:
        """Keep what was heard of a job. Raises Stale."""
        with weather():
            await mongo_news.keep(self._live.news, job, record, revision, doomed=doomed)

    async def drop_news(self, jobs: Several[JobId]) -> None:
        """Forget jobs."""
        with weather():
            await mongo_news.drop(self._live.news, jobs)

    async def doomed(self, limit: int) -> Sequence[JobId]:
        """Return jobs that nobody asks for any more."""
        with weather():
            return await mongo_news.doomed(self._live.news, limit)

    @property
    def _live(self) -> Opened:
        if self._opened is None:
            raise StoreUnreachable("The store is closed.")
        return self._opened

    def _client(self, loop: asyncio.AbstractEventLoop) -> Client:
        """Connect; blocks where the URI is a name to be looked up."""
        if not self._uri.startswith(_SCHEMES):
            raise Misconfigured(f"db.mongodb_uri must begin with {' or '.join(_SCHEMES)}.")
        wait_ms = int(self._timeout_s * 1000)
        try:
            parse_uri(self._uri)  # the client itself would pass over options it cannot read
            return AsyncIOMotorClient(
                self._uri,
                io_loop=loop,
                appname="tesp-api",
                serverSelectionTimeoutMS=wait_ms,
                connectTimeoutMS=wait_ms,
                timeoutMS=2 * wait_ms,
            )
        except (ConfigurationError, ValueError, TypeError) as error:
            raise Misconfigured(f"db.mongodb_uri cannot be used: {error}.") from error

    async def _newest_first(self, query: Query) -> AsyncIterator[Mapping[str, Any]]:
        chunk = min(query.limit + 1, _CHUNK)
        tasks = self._live.tasks.find(choice(query), projection(query.view))
        cursor = tasks.sort("seq", DESCENDING).limit(query.limit + 1).batch_size(chunk)
        while found := await cursor.to_list(chunk):
            for one in found:
                yield one


@contextmanager
def weather() -> Iterator[None]:
    """Translate the driver's troubles; whether a write took place is then unknown."""
    try:
        yield
    except PyMongoError as error:
        raise StoreUnreachable(f"MongoDB does not answer as it should: {said(error)}.") from error


def said(error: PyMongoError) -> str:
    """Return what went wrong, without the driver's picture of the whole cluster."""
    return str(error).partition(", Topology Description")[0]


async def _opened(client: Client) -> Opened:
    database = client.get_default_database(
        _DATABASE, read_preference=ReadPreference.PRIMARY, write_concern=_DURABLY
    )
    tasks, news, meta = database["task"], database["news"], database["meta"]
    try:
        version = await _version(meta)
        await tasks.create_indexes(list(INDEXES))
        await news.create_indexes(list(mongo_news.INDEXES))
        await _advance_counter(tasks, meta)
        if version < _VERSION:
            await _upgrade(tasks, meta)
    except (ConfigurationError, OperationFailure) as error:
        if isinstance(error, ConfigurationError) or error.code in _HOPELESS:
            raise Misconfigured(f"db.mongodb_uri cannot be used: {error}.") from error
        raise StoreUnreachable(f"MongoDB cannot be opened: {error}.") from error
    except PyMongoError as error:
        raise StoreUnreachable(f"MongoDB does not answer: {said(error)}.") from error

    async def insert(rows: Sequence[Row]) -> None:
        with weather():
            await _insert(tasks, meta, rows)

    adds = Together(insert)
    return Opened(
        client=client, tasks=tasks, drivers=database["driver"], news=news, meta=meta, adds=adds
    )


async def _version(meta: Collection) -> int:
    """Return by which version of this program the database was written."""
    await _upsert(meta, "schema", {"$setOnInsert": {"version": _VERSION}})
    found = await meta.find_one({"_id": "schema"})
    if found is not None and found["version"] > _VERSION:
        raise Misconfigured(
            "db.mongodb_uri names a database written by a later version of this program"
            f" (schema {found['version']}, this one knows {_VERSION}): upgrade."
        )
    return _VERSION if found is None else int(found["version"])


async def _upgrade(tasks: Collection, meta: Collection) -> None:
    """Give ended tasks their `done_at`, of which version 1 knew nothing; may be repeated."""
    logger.info("the store's database becomes one of schema {}", _VERSION)
    ended = {"state": {"$in": sorted(TERMINAL)}}
    async for found in tasks.find(ended, {"task": 1, "revision": 1}):
        if (moment := done_at(decode(found.pop("task")))) is not None:
            await tasks.update_one(found, {"$set": {"done_at": moment}})
    await meta.update_one({"_id": "schema"}, {"$max": {"version": _VERSION}})


async def _advance_counter(tasks: Collection, meta: Collection) -> None:
    """Make sure that the counter is not behind the tasks, as after a partial restore."""
    newest = await tasks.find_one({}, {"seq": 1}, sort=[("seq", DESCENDING)])
    await _upsert(meta, "order", {"$max": {"newest": newest["seq"] if newest else 0}})


async def _upsert(collection: Collection, key: str, update: Mapping[str, Any]) -> None:
    """Update the document, or make it; of two that make it at once, the second updates it."""
    try:
        await collection.update_one({"_id": key}, update, upsert=True)
    except DuplicateKeyError:
        await collection.update_one({"_id": key}, update)


async def _insert(tasks: Collection, meta: Collection, rows: Sequence[Row]) -> None:
    order = await meta.find_one_and_update(
        {"_id": "order"}, {"$inc": {"newest": len(rows)}}, return_document=ReturnDocument.AFTER
    )
    first = order["newest"] - len(rows) + 1
    documents = [new(row, first + place) for place, row in enumerate(rows)]
    try:
        await tasks.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        await _forgive_repeats(tasks, rows, error)


async def _forgive_repeats(tasks: Collection, rows: Sequence[Row], error: BulkWriteError) -> None:
    """Raise `error` unless all it complains of are tasks that were there already."""
    failed = {rows[one["index"]].id for one in error.details["writeErrors"]}
    known = await tasks.count_documents({"_id": {"$in": sorted(failed)}})
    if known < len(failed) or error.details["writeConcernErrors"]:
        raise error


async def documents(uri: str, database: str, collection: str) -> AsyncIterator[Mapping[str, Any]]:
    """Yield a collection's documents by their ids, oldest first. Raises StoreUnreachable."""
    client: Client = AsyncIOMotorClient(uri, serverSelectionTimeoutMS=5_000)
    try:
        with weather():
            async for found in client[database][collection].find().sort("_id", ASCENDING):
                yield found
    finally:
        client.close()
