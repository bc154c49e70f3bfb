"""What is asked of the SQLite file; each answer is one row (`sqlite_writes` says why)."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from tesp_api.domain.task import DriverId, Task, TaskId
from tesp_api.domain.tes import State, View
from tesp_api.ports import Glance, Page, Query
from tesp_api.store.rows import decode
from tesp_api.store.sqlite_pages import Filter, Sql, choose, count, few_of, filters, statement

_LONG_LINE_BYTES: Final = 500
_NEWEST: Final = "SELECT coalesce(max(seq), 0) FROM task"
_OF_ONE: Final = "FROM task CROSS JOIN document USING (seq) WHERE id = ?"
_DOCUMENT: Final = {
    View.MINIMAL: "SELECT minimal, owner FROM task WHERE id = ?",
    View.BASIC: f"SELECT coalesce(basic, full), owner {_OF_ONE}",
    View.FULL: f"SELECT full, owner {_OF_ONE}",
}
_TASK: Final = f"SELECT document.task {_OF_ONE}"
_QUEUED: Final = (
    "SELECT json_group_array(record) FROM (SELECT hex(document.task) AS record"
    " FROM task INDEXED BY task_by_state CROSS JOIN document USING (seq)"
    " WHERE task.state = 'QUEUED' ORDER BY task.seq LIMIT ?)"
)
_CLAIMED: Final = (
    "SELECT json_group_array(json_array(id, state, driver)) FROM (SELECT id, state, driver"
    " FROM task INDEXED BY task_claimed WHERE claimed AND seq > 0 ORDER BY seq)"
)
_UNTIDY: Final = (
    "SELECT json_group_array(json_array(seq, id)) FROM (SELECT seq, id"
    " FROM task INDEXED BY task_untidy WHERE untidy AND seq > ? ORDER BY seq LIMIT ?)"
)
_SLOTS: Final = "SELECT json_group_array(slot) FROM task WHERE slot >= 0"
_BEATS: Final = "SELECT json_group_object(id, beats) FROM driver"


def task(db: sqlite3.Connection, task_id: TaskId) -> Task | None:
    """Return the task of that id."""
    row = db.execute(_TASK, (task_id,)).fetchone()
    return None if row is None else decode(row[0])


def document(
    db: sqlite3.Connection, task_id: TaskId, view: View, owner: str | None
) -> bytes | None:
    """Return the rendered task, unless it is not the `owner`'s."""
    row = db.execute(_DOCUMENT[view], (task_id,)).fetchone()
    if row is None or (owner is not None and row[1] != owner):
        return None
    rendered: bytes = row[0]
    return rendered


def page(db: sqlite3.Connection, query: Query) -> Page:
    """Return a page; a shorter one where the whole would be larger than `db` may return."""
    if query.states is not None and not query.states:
        return Page(documents=(), next_before=None)
    lead = _lead(db, query)
    while True:
        try:
            return _cut(_one(db, statement(query, lead)), query.limit)
        except sqlite3.DataError:
            if query.limit == 1:
                raise
            query = replace(query, limit=query.limit // 2)


def queued(db: sqlite3.Connection, limit: int) -> Sequence[Task]:
    """Return waiting tasks, oldest first."""
    return [decode(bytes.fromhex(record)) for record in _json(db, _QUEUED, limit)]


def driven(
    db: sqlite3.Connection, driver: DriverId | None, states: frozenset[State]
) -> Sequence[Glance]:
    """Return claimed, unfinished tasks, oldest first."""
    return [
        Glance(id=TaskId(task_id), state=State(state), driver=DriverId(its))
        for task_id, state, its in _json(db, _CLAIMED)
        if state in states and driver in {None, its}
    ]


def untidy(db: sqlite3.Connection, limit: int, after: int) -> Sequence[tuple[int, TaskId]]:
    """Return ended tasks with leftovers, oldest first."""
    return [(seq, TaskId(task_id)) for seq, task_id in _json(db, _UNTIDY, after, limit)]


def slots(db: sqlite3.Connection) -> frozenset[int]:
    """Return the slots that are held."""
    return frozenset(_json(db, _SLOTS))


def beats(db: sqlite3.Connection) -> Mapping[DriverId, int]:
    """Return each driver's beats."""
    return {DriverId(driver): number for driver, number in _json(db, _BEATS).items()}


def _lead(db: sqlite3.Connection, query: Query) -> Filter | None:
    candidates = filters(query)
    few = few_of(_one(db, Sql(text=_NEWEST))[0], query.limit) if candidates else 0

    def counted(one: Filter) -> int:
        number: int = _one(db, count(one, few))[0]
        return number

    return choose(candidates, counted, few)


def _cut(row: Sequence[Any], limit: int) -> Page:
    if row[0] is None:
        return Page(documents=(), next_before=None)
    seqs = row[0].split(",")
    documents = lines(row[1], len(seqs))
    more = len(seqs) > limit
    return Page(documents=documents[:limit], next_before=int(seqs[limit - 1]) if more else None)


def lines(text: bytes, number: int) -> list[bytes]:
    """Return the lines of `text`, of which there are `number`.

    `split` looks at each byte, `find` at many at once: it is twice as fast where lines are long.
    """
    if len(text) < number * _LONG_LINE_BYTES:
        return text.split(b"\n")
    found, start = list[bytes](), 0
    while (end := text.find(b"\n", start)) >= 0:
        found.append(text[start:end])
        start = end + 1
    return [*found, text[start:]]


def _one(db: sqlite3.Connection, sql: Sql) -> Sequence[Any]:
    row: Sequence[Any] = db.execute(sql.text, sql.values).fetchone()
    return row


def _json(db: sqlite3.Connection, text: str, *values: int) -> Any:  # noqa: ANN401 - JSON
    return json.loads(db.execute(text, values).fetchone()[0])
