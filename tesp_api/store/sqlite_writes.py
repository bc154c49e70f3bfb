"""What happens to the tables when a batch of writes is done in one transaction.

A batch is a handful of statements whatever its size, never one for each write. Each row a thread
gets or puts gives up the interpreter's lock, to be won back from a busy event loop: one row a
statement was forty times slower there.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from tesp_api.domain.errors import SlotTaken, Stale
from tesp_api.store import sqlite_news, sqlite_removal
from tesp_api.store.rows import Row
from tesp_api.store.sqlite_news import NewsWrite
from tesp_api.store.sqlite_removal import Remove


@dataclass(frozen=True, slots=True)
class Add:
    """Keep a new task; a known id is left as it is."""

    row: Row


@dataclass(frozen=True, slots=True)
class Save:
    """Replace the revision before this one."""

    row: Row


@dataclass(frozen=True, slots=True)
class Beat:
    """Count one more beat of a driver."""

    driver: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Take a driver off the list."""

    driver: str


Write: TypeAlias = Add | Save | Beat | Retire | Remove | NewsWrite
Value: TypeAlias = str | int | float | bytes | None
_MOST_ROWS: Final = 256
"""Rows of one statement; the widest table has 12 columns, SQLite takes 32,766 values."""

_KNOWN: Final = (
    "SELECT json_group_array(json_array(task.id, task.seq, task.revision, task.slot))"
    " FROM json_each(?) AS wanted CROSS JOIN task ON task.id = wanted.value"
)
_HOLDERS: Final = "SELECT json_group_array(json_array(slot, id)) FROM task WHERE slot >= 0"
_NEWEST: Final = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'task'"
_PUT_TASK: Final = (
    "INSERT INTO task"
    " (seq, id, state, revision, owner, name, driver, slot, claimed, untidy, minimal, done_at)"
    " VALUES {rows}"
    " ON CONFLICT (seq) DO UPDATE SET state = excluded.state, revision = excluded.revision,"
    " driver = excluded.driver, slot = excluded.slot, claimed = excluded.claimed,"
    " untidy = excluded.untidy, minimal = excluded.minimal, done_at = excluded.done_at"
)
_PUT_DOCUMENT: Final = (
    "INSERT INTO document (seq, basic, full, task) VALUES {rows}"
    " ON CONFLICT (seq)"
    " DO UPDATE SET basic = excluded.basic, full = excluded.full, task = excluded.task"
)
_PUT_TAG: Final = "INSERT INTO tag (key, value, seq) VALUES {rows}"
_BEAT: Final = (
    "INSERT INTO driver (id, beats) VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET beats = beats + 1"
)
_RETIRE: Final = "DELETE FROM driver WHERE id = ?"


@dataclass(slots=True)
class Ledger:
    """Where the tasks of a batch stand while it is worked through, and what is to be written."""

    newest: int
    known: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of each stored task the batch names: seq and revision."""
    holders: dict[int, str] = field(default_factory=dict)
    """Who holds which slot."""
    slots: dict[str, int] = field(default_factory=dict)
    fresh: dict[int, Row] = field(default_factory=dict)
    changed: dict[int, Row] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Take up a task unless its id is known. Raises SlotTaken."""
        if row.id in self.known:
            return
        self._hold(row)
        self.newest += 1
        self.known[row.id] = self.newest, row.revision
        self.fresh[self.newest] = self.changed[self.newest] = row

    def save(self, row: Row) -> None:
        """Replace a task's row. Raises Stale, SlotTaken; then nothing has changed."""
        seq, revision = self.known.get(row.id, (0, None))
        if revision != row.revision - 1:
            raise Stale(f"Task {row.id} is at revision {revision}, not at {row.revision - 1}.")
        self._hold(row)
        self.known[row.id] = seq, row.revision
        self.changed.pop(seq, None)  # a later place in the order, behind whoever freed its slot
        self.changed[seq] = row

    def _hold(self, row: Row) -> None:
        if row.slot is not None and self.holders.setdefault(row.slot, row.id) != row.id:
            raise SlotTaken(f"Slot {row.slot} is held by task {self.holders[row.slot]}.")
        held = self.slots.pop(row.id, None)
        if held is not None and held != row.slot:
            del self.holders[held]
        if row.slot is not None:
            self.slots[row.id] = row.slot


def apply(db: sqlite3.Connection, writes: Sequence[Write]) -> list[Stale | SlotTaken | None]:
    """Do `writes` in order, in the caller's transaction; return each one's answer (None: done).

    What is to be removed goes first: what is added may be a task of the same id.
    """
    for write in writes:
        if isinstance(write, Remove):
            sqlite_removal.remove(db, write)
    ledger = _ledger(db, [write.row for write in writes if isinstance(write, Add | Save)])
    answers = [_answer(db, ledger, write) for write in writes]
    _put(db, _PUT_TASK, [_task_values(seq, row) for seq, row in ledger.changed.items()])
    _put(
        db,
        _PUT_DOCUMENT,
        [(seq, row.basic, row.full, row.task) for seq, row in ledger.changed.items()],
    )
    _put(
        db,
        _PUT_TAG,
        [(key, value, seq) for seq, row in ledger.fresh.items() for key, value in row.tags.items()],
    )
    return answers


def _answer(db: sqlite3.Connection, ledger: Ledger, write: Write) -> Stale | SlotTaken | None:
    try:
        match write:
            case Add(row):
                ledger.add(row)
            case Save(row):
                ledger.save(row)
            case Beat(driver):
                db.execute(_BEAT, (driver,))
            case Retire(driver):
                db.execute(_RETIRE, (driver,))
            case Remove():
                pass
            case news:
                sqlite_news.write(db, news)
    except (Stale, SlotTaken) as no:
        return no
    return None


def _ledger(db: sqlite3.Connection, rows: Sequence[Row]) -> Ledger:
    if not rows:
        return Ledger(newest=0)
    ledger = Ledger(newest=db.execute(_NEWEST).fetchone()[0])
    for name, seq, revision, slot in json.loads(
        db.execute(_KNOWN, (json.dumps([row.id for row in rows]),)).fetchone()[0]
    ):
        ledger.known[name] = seq, revision
        if slot is not None:
            ledger.slots[name] = slot
    if any(row.slot is not None for row in rows) or ledger.slots:
        ledger.holders.update(json.loads(db.execute(_HOLDERS).fetchone()[0]))
    return ledger


def _task_values(seq: int, row: Row) -> tuple[Value, ...]:
    return (
        seq,
        row.id,
        row.state,
        row.revision,
        row.owner,
        row.name,
        row.driver,
        row.slot,
        row.claimed,
        row.untidy,
        row.minimal,
        None if row.done_at is None else row.done_at.timestamp(),
    )


def _put(db: sqlite3.Connection, statement: str, rows: Sequence[tuple[Value, ...]]) -> None:
    for part in _parts(rows):
        marks = f"({', '.join('?' * len(part[0]))})"
        db.execute(
            statement.format(rows=", ".join([marks] * len(part))),
            [value for row in part for value in row],
        )


def _parts(rows: Sequence[tuple[Value, ...]]) -> Iterator[Sequence[tuple[Value, ...]]]:
    """Cut `rows` into powers of two, so that few different statements are ever compiled."""
    start = 0
    while left := len(rows) - start:
        size = min(1 << (left.bit_length() - 1), _MOST_ROWS)
        yield rows[start : start + size]
        start += size
