"""The embedded store: one SQLite file, one process.

Writes go through one thread (`group_commit`). Questions that may take a while have threads and
connections of their own, so that they wait for no writer and the event loop waits for none of them.
A read of one task costs less than the way to a thread and back: it is done where it is asked for.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Literal, TypeVar

from tesp_api.domain.errors import Misconfigured, StoreUnreachable
from tesp_api.domain.task import DriverId, JobId, Task, TaskId
from tesp_api.domain.tes import State, View
from tesp_api.ports import Glance, News, Page, Query
from tesp_api.store import sqlite_news, sqlite_removal
from tesp_api.store import sqlite_reads as reads
from tesp_api.store.group_commit import GroupCommit
from tesp_api.store.rows import row_of
from tesp_api.store.sqlite_file import connect, prepare, take
from tesp_api.store.sqlite_writes import Add, Beat, Retire, Save, Write

T = TypeVar("T")
_READERS: Final = 2
_MOST_PAGE_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What an open store holds."""

    lock: int
    near: sqlite3.Connection
    """For the event loop's own short reads."""
    readers: "Readers"
    writer: GroupCommit


class Readers:
    """Threads that read, and a connection for each."""

    def __init__(self, connections: Sequence[sqlite3.Connection]) -> None:
        self._all = connections
        self._free: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        for connection in connections:
            self._free.put(connection)
        self._pool = ThreadPoolExecutor(len(connections), thread_name_prefix="tesp-store-reader")

    async def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Return the answer to `question`, asked in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._ask, question)

    def close(self) -> None:
        """Wait for questions under way, then let go. Blocks."""
        self._pool.shutdown()
        for connection in self._all:
            connection.close()

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._free.get()
        try:
            with reading():
                return question(connection)
        finally:
            self._free.put(connection)


class SqliteStore:
    """A `TaskStore`, and `JobNews`, in the file `path`, which nobody else may use meanwhile.

    With `synchronous` NORMAL the last tasks may be lost when the machine dies, not when only the
    process does. `patience_s` is how long a write waits for a foreign lock.
    """

    sole = True
    """The file is locked against every other process."""

    def __init__(
        self,
        path: Path,
        *,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        patience_s: float = 3.0,
        mountinfo: Path = Path("/proc/self/mountinfo"),
    ) -> None:
        self._path = path
        self._synchronous = synchronous
        self._patience_s = patience_s
        self._mountinfo = mountinfo
        self._opened: Opened | None = None
        self._changing = asyncio.Lock()

    async def open(self) -> None:
        """Take the file, make it if need be. Idempotent. Raises Misconfigured if it never can."""
        async with self._changing:
            if self._opened is None:
                self._opened = await asyncio.to_thread(self._open, asyncio.get_running_loop())

    async def close(self) -> None:
        """Finish what waits and let go of the file. Idempotent."""
        async with self._changing:
            opened, self._opened = self._opened, None
            if opened is not None:
                await asyncio.to_thread(opened.readers.close)
                opened.near.close()
                await opened.writer.close()
                os.close(opened.lock)

    async def add(self, task: Task) -> None:
        """Keep a new task; a known id changes nothing."""
        await self._write(Add(row_of(task)))

    async def get(self, task_id: TaskId) -> Task | None:
        """Return the task as last saved."""
        with reading():
            return reads.task(self._live.near, task_id)

    async def save(self, task: Task) -> None:
        """Replace the revision before. Raises Stale, SlotTaken."""
        await self._write(Save(row_of(task)))

    async def document(self, task_id: TaskId, view: View, owner: str | None) -> bytes | None:
        """Return the task rendered in that view; None if there is none, or it is another's."""
        with reading():
            return reads.document(self._live.near, task_id, view, owner)

    async def page(self, query: Query) -> Page:
        """Return one page of a list."""
        return await self._live.readers.ask(lambda db: reads.page(db, query))

    async def queued(self, limit: int) -> Sequence[Task]:
        """Return waiting tasks, oldest first."""
        return await self._live.readers.ask(lambda db: reads.queued(db, limit))

    async def driven(self, driver: DriverId | None, states: frozenset[State]) -> Sequence[Glance]:
        """Return claimed, unfinished tasks, oldest first."""
        return await self._live.readers.ask(lambda db: reads.driven(db, driver, states))

    async def untidy(self, limit: int, after: int = 0) -> Sequence[tuple[int, TaskId]]:
        """Return ended tasks with leftovers, oldest first."""
        return await self._live.readers.ask(lambda db: reads.untidy(db, limit, after))

    async def count(self, states: frozenset[State], owner: str | None, most: int) -> int:
        """Count tasks in these states, up to `most`."""
        return await self._live.readers.ask(lambda db: reads.number(db, states, owner, most))

    async def remove_ended(self, before: datetime, limit: int) -> int:
        """Remove tasks that ended before that moment and left nothing behind."""
        done = await self._live.readers.ask(lambda db: sqlite_removal.done(db, before, limit))
        if done.seqs:
            await self._write(done)
        return len(done.seqs)

    async def slots(self) -> frozenset[int]:
        """Return the slots that are held."""
        return await self._live.readers.ask(reads.slots)

    async def beat(self, driver: DriverId) -> Mapping[DriverId, int]:
        """Count a beat and return everybody's."""
        await self._write(Beat(driver))
        return await self._live.readers.ask(reads.beats)

    async def retire(self, driver: DriverId) -> None:
        """Take a driver off the list."""
        await self._write(Retire(driver))

    async def news(self, job: JobId) -> News | None:
        """Return what was heard of a job."""
        with reading():
            return sqlite_news.news(self._live.near, job)

    async def keep_news(
        self, job: JobId, record: bytes, revision: int, *, doomed: bool = False
    ) -> None:
        """Keep what was heard of a job. Raises Stale."""
        await self._write(sqlite_news.Keep(job, record, revision, doomed))

    async def drop_news(self, jobs: Collection[JobId]) -> None:
        """Forget jobs."""
        await self._write(sqlite_news.Drop(tuple(jobs)))

    async def doomed(self, limit: int) -> Sequence[JobId]:
        """Return jobs that nobody asks for any more."""
        return await self._live.readers.ask(lambda db: sqlite_news.doomed(db, limit))

    @property
    def _live(self) -> Opened:
        if self._opened is None:
            raise StoreUnreachable("The store is closed.")
        return self._opened

    async def _write(self, write: Write) -> None:
        await self._live.writer.do(write)

    def _open(self, loop: asyncio.AbstractEventLoop) -> Opened:
        path = self._path.resolve()
        with ExitStack() as undo:
            lock = take(path, self._mountinfo)
            undo.callback(os.close, lock)
            with opening(path):
                connections = [connect(path, self._patience_s) for _ in range(2 + _READERS)]
                for connection in connections:
                    undo.callback(connection.close)
                own, near, *readers = connections
                prepare(own, path, self._synchronous)
                for connection in (near, *readers):
                    connection.execute("PRAGMA query_only = ON")
                    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MOST_PAGE_BYTES)
            undo.pop_all()
        return Opened(lock=lock, near=near, readers=Readers(readers), writer=GroupCommit(own, loop))


@contextmanager
def reading() -> Iterator[None]:
    """Tell weather from bugs."""
    try:
        yield
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.Error as error:
        raise StoreUnreachable(f"The store cannot be read: {error}.") from error


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Tell weather at the start (locked, disk full) from what no waiting mends."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode in {
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_PERM,
        }:
            raise Misconfigured(f"db.sqlite_path {path} cannot be used: {error}.") from error
        raise StoreUnreachable(f"The store cannot be opened: {error}.") from error
