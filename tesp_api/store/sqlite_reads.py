"""What is asked of the SQLite file; each answer is one row (`sqlite_writes` says why)."""

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from tesp_api.domain.task import DriverId, Task, TaskId
from tesp_api.domain.tes import State, View
from tesp_api.ports import Glance, Page, Query
from tesp_api.store.rows import decode
from tesp_api.store.sqlite_pages import (
    Filter,
    Sql,
    choose,
    count,
    few_of,
    filters,
    obvious,
    oldest,
    statement,
)

_BEGINNING: Final = re.compile(rb'\{"id":("(?:[^"\\]|\\.)*")')
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
            found = _page(db, query.limit, _one(db, statement(query, lead)))
        except sqlite3.DataError:
            if query.limit == 1:
                raise
            query = replace(query, limit=query.limit // 2)
        else:
            if found is not None:
                return found


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


def number(db: sqlite3.Connection, states: frozenset[State], owner: str | None, most: int) -> int:
    """Count tasks in these states, of that owner or of all, and stop at `most`."""
    (scope,) = filters(Query(view=View.MINIMAL, limit=1, owner=owner, states=states))
    found: int = _one(db, count(scope, most))[0]
    return found


def slots(db: sqlite3.Connection) -> frozenset[int]:
    """Return the slots that are held."""
    return frozenset(_json(db, _SLOTS))


def beats(db: sqlite3.Connection) -> Mapping[DriverId, int]:
    """Return each driver's beats."""
    return {DriverId(driver): number for driver, number in _json(db, _BEATS).items()}


def _lead(db: sqlite3.Connection, query: Query) -> Filter | None:
    candidates = filters(query)
    if obvious(candidates):
        return choose(candidates, lambda _: 0, few=0)
    few = few_of(_one(db, Sql(text=_NEWEST))[0], query.limit)

    def counted(one: Filter) -> int:
        number: int = _one(db, count(one, few))[0]
        return number

    return choose(candidates, counted, few)


def _page(db: sqlite3.Connection, limit: int, row: Sequence[Any]) -> Page | None:
    """Make a page of what `statement` found, without the task that only says that more follow.

    None where that one has just been removed: ask again.
    """
    number, tasks, any_canceling = row
    lacks = frozenset[State]() if any_canceling else frozenset({State.CANCELING})
    if number <= limit:
        return Page(documents=(tasks,) if number else (), next_before=None, lacks=lacks)
    shown, _, further = tasks.rpartition(Page.between)
    last = shown[shown.rfind(Page.between[-1:]) + 1 :]
    sql = oldest(_id_of(further), _id_of(last))
    place = db.execute(sql.text, sql.values).fetchone()
    if place is None:
        return None
    return Page(documents=(shown,), next_before=place[0] + 1, lacks=lacks)


def _id_of(rendered: bytes) -> str:
    beginning = _BEGINNING.match(rendered)
    assert beginning is not None
    task_id: str = json.loads(beginning[1])
    return task_id


def _one(db: sqlite3.Connection, sql: Sql) -> Sequence[Any]:
    row: Sequence[Any] = db.execute(sql.text, sql.values).fetchone()
    return row


def _json(db: sqlite3.Connection, text: str, *values: int) -> Any:  # noqa: ANN401 - JSON
    return json.loads(db.execute(text, values).fetchone()[0])
