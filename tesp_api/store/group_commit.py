"""One thread that does all writes of a SQLite file: whatever waits becomes one transaction."""

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from tesp_api.domain.errors import StoreUnreachable
from tesp_api.store.sqlite_writes import Write, apply

_MOST_WRITES: Final = 512


class GroupCommit:
    """Does writes in the order they come. Made, used and closed on one event loop; owns `db`."""

    def __init__(self, db: sqlite3.Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._db = db
        self._loop = loop
        self._waiting: deque[tuple[Write, asyncio.Future[None]]] = deque()
        self._wake = threading.Event()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="tesp-store-writer", daemon=True)
        self._thread.start()

    async def do(self, write: Write) -> None:
        """Return when `write` is durable. Raises Stale, SlotTaken, StoreUnreachable."""
        if self._ending:
            raise StoreUnreachable("The store is closed.")
        done = self._loop.create_future()
        self._waiting.append((write, done))
        self._wake.set()
        await done

    async def close(self) -> None:
        """Do what waits, then end. Idempotent."""
        self._ending = True
        self._wake.set()
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while not (self._ending and not self._waiting):
            self._wake.wait()
            self._wake.clear()
            while self._waiting:
                size = min(len(self._waiting), _MOST_WRITES)
                taken = [self._waiting.popleft() for _ in range(size)]
                self._serve(taken)
        self._db.close()

    def _serve(self, batch: Sequence[tuple[Write, asyncio.Future[None]]]) -> None:
        given_up = {id(write): done.cancelled for write, done in batch}
        answers = commit(self._db, [write for write, _ in batch], lambda one: given_up[id(one)]())
        with suppress(RuntimeError):  # the loop has gone, and with it everybody who waited
            self._loop.call_soon_threadsafe(_tell, [done for _, done in batch], answers)


def commit(
    db: sqlite3.Connection, writes: Sequence[Write], given_up: Callable[[Write], bool]
) -> Sequence[Exception | None]:
    """Do `writes` in one transaction and return each one's answer (None: it is durable).

    Where one of them cannot be done at all, each is done alone, so that it fails alone. What its
    caller has given up, when the file can be written at last, is not done: he said so to somebody.
    """
    try:
        return _transaction(db, writes, given_up)
    except sqlite3.OperationalError as weather:
        return [StoreUnreachable(f"The store cannot write: {weather}.") for _ in writes]
    except Exception as surprise:  # noqa: BLE001 - whoever waits must hear of it, and the thread go on
        if len(writes) == 1:
            return [surprise]
        return [answer for write in writes for answer in commit(db, [write], given_up)]


def _transaction(
    db: sqlite3.Connection, writes: Sequence[Write], given_up: Callable[[Write], bool]
) -> Sequence[Exception | None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        wanted = [None if given_up(write) else write for write in writes]
        answers = iter(apply(db, [write for write in wanted if write is not None]))
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    return [None if write is None else next(answers) for write in wanted]


def _tell(waiters: Sequence[asyncio.Future[None]], answers: Sequence[Exception | None]) -> None:
    for done, answer in zip(waiters, answers, strict=True):
        if done.done():
            continue
        if answer is None:
            done.set_result(None)
        else:
            done.set_exception(answer)
