"""Old tasks in the SQLite file: found by an index, counted by one; files of earlier schemas."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from tesp_api.domain.errors import StoreUnreachable
from tesp_api.domain.lifecycle import ACTIVE, Claimed, Succeeded, Withdrawn, advance, forget
from tesp_api.domain.task import DriverId, JobId, Task, TaskId
from tesp_api.domain.tes import State, TaskRequest, View
from tesp_api.ports import Query
from tesp_api.store import sqlite_removal, sqlite_schema
from tesp_api.store.rows import row_of
from tesp_api.store.sqlite import SqliteStore
from tesp_api.store.sqlite_pages import count, filters
from tesp_api.store.sqlite_schema import SCHEMA, STEPS, VERSION

END: Final = datetime(2026, 3, 4, 5, 6, 7, 891011, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)

SCHEMA_1: Final = (
    """CREATE TABLE task (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL,
        state TEXT NOT NULL,
        revision INTEGER NOT NULL,
        owner TEXT,
        name TEXT,
        driver TEXT,
        slot INTEGER,
        claimed INTEGER NOT NULL,
        untidy INTEGER NOT NULL,
        minimal BLOB NOT NULL
    )""",
    "CREATE UNIQUE INDEX task_by_id ON task (id)",
    "CREATE INDEX task_by_state ON task (state, seq)",
    "CREATE INDEX task_by_owner ON task (owner, seq, minimal) WHERE owner IS NOT NULL",
    "CREATE INDEX task_by_owner_and_state ON task (owner, state, seq) WHERE owner IS NOT NULL",
    "CREATE INDEX task_by_name ON task (name, seq) WHERE name IS NOT NULL",
    "CREATE UNIQUE INDEX task_by_slot ON task (slot) WHERE slot IS NOT NULL",
    "CREATE INDEX task_claimed ON task (seq) WHERE claimed",
    "CREATE INDEX task_untidy ON task (seq) WHERE untidy",
    """CREATE TABLE document (
        seq INTEGER PRIMARY KEY,
        basic BLOB,
        full BLOB NOT NULL,
        task BLOB NOT NULL
    )""",
    """CREATE TABLE tag (
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (key, value, seq)
    ) WITHOUT ROWID""",
    "CREATE INDEX tag_by_key ON tag (key, seq)",
    """CREATE TABLE driver (
        id TEXT PRIMARY KEY,
        beats INTEGER NOT NULL
    ) WITHOUT ROWID""",
    f"PRAGMA application_id = {sqlite_schema.APPLICATION_ID}",
    "PRAGMA user_version = 1",
)
"""As the first version made its files."""


def new_task(name: str) -> Task:
    executors = [{"image": "u", "command": ["true"]}]
    request = TaskRequest.model_validate(
        {"name": name, "tags": {"k": name}, "executors": executors}
    )
    return Task(id=TaskId(name), request=request, state=State.QUEUED, created_at=END)


def ran(name: str) -> Task:
    """A task that has ended, and left a job behind."""
    at = END - timedelta(hours=1)
    event = Claimed(at=at, job=JobId(f"job-{name}"), slot=1, driver=DriverId("d"))
    return advance(advance(new_task(name), event), Succeeded(at=END))


def tidy(task: Task) -> Task:
    return forget(task, *(job.id for job in task.jobs))


def put_1(db: sqlite3.Connection, task: Task) -> None:
    """Write a task as the first version did."""
    row = row_of(task)
    db.execute(
        "INSERT INTO task"
        " (id, state, revision, owner, name, driver, slot, claimed, untidy, minimal)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (row.id, row.state, row.revision, row.owner, row.name, row.driver, row.slot, row.claimed,
         row.untidy, row.minimal),
    )  # fmt: skip
    seq = db.execute("SELECT max(seq) FROM task").fetchone()[0]
    values = (seq, row.basic, row.full, row.task)
    db.execute("INSERT INTO document (seq, basic, full, task) VALUES (?, ?, ?, ?)", values)
    db.executemany("INSERT INTO tag VALUES (?, ?, ?)", [(*tag, seq) for tag in row.tags.items()])


def make_file_1(path: Path, tasks: Sequence[Task]) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    for statement in (*SCHEMA_1, "PRAGMA journal_mode = WAL"):
        db.execute(statement)
    for task in tasks:
        put_1(db, task)
    db.close()


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for text in SCHEMA:
        connection.execute(text)
    yield connection
    connection.close()


def plan(db: sqlite3.Connection, text: str, *values: object) -> list[str]:
    return [line[3] for line in db.execute("EXPLAIN QUERY PLAN " + text, values)]


# What is asked


def test_what_is_to_be_removed_is_found_by_an_index(db: sqlite3.Connection) -> None:
    lines = plan(db, sqlite_removal._DONE, 0.0, 256)
    assert "SEARCH task USING COVERING INDEX task_done (done_at<?)" in lines
    assert "SEARCH document USING INTEGER PRIMARY KEY (rowid=?)" in lines
    assert not any("TEMP B-TREE" in line for line in lines)


def test_what_is_removed_is_looked_up(db: sqlite3.Connection) -> None:
    tags = plan(db, sqlite_removal._DELETE_TAGS, "a", "[1]")
    assert "SEARCH tag USING COVERING INDEX tag_by_key (key=? AND seq=?)" in tags
    for table, statement in zip(("document", "task"), sqlite_removal._DELETE, strict=True):
        lines = plan(db, statement, "[1]")
        assert f"SEARCH {table} USING INTEGER PRIMARY KEY (rowid=?)" in lines


@pytest.mark.parametrize("owner", [None, "anna"])
def test_counting_reads_an_index_only(db: sqlite3.Connection, owner: str | None) -> None:
    query = Query(view=View.MINIMAL, limit=1, owner=owner, states=frozenset(ACTIVE))
    (scope,) = filters(query)
    sql = count(scope, 5)
    lines = plan(db, sql.text, *sql.values)
    index = "task_by_state" if owner is None else "task_by_owner_and_state"
    found = [line for line in lines if line.startswith("SEARCH")]
    assert found
    assert all(f"COVERING INDEX {index} (" in line for line in found), found
    assert not any(line.startswith("SCAN lead") for line in lines)


# Files of earlier schemas


async def test_a_file_of_version_1_is_opened_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    untidy, withdrawn = ran("untidy"), advance(new_task("withdrawn"), Withdrawn(at=END))
    old = [new_task("waits"), untidy, tidy(ran("tidy")), withdrawn]
    make_file_1(path, old)
    store = SqliteStore(path)
    await store.open()
    assert [await store.get(task.id) for task in old] == old
    assert await store.remove_ended(END - timedelta(seconds=1), 100) == 0
    assert await store.remove_ended(END + timedelta(seconds=1), 100) == 2
    assert [await store.get(task.id) is None for task in old] == [False, False, True, True]
    await store.add(replace(new_task("later"), owner="anna"))
    await store.save(tidy(untidy))
    assert await store.remove_ended(END + MICROSECOND, 100) == 1
    page = await store.page(Query(view=View.MINIMAL, limit=9, tags=(("k", ""),)))
    assert [one[6:-1] for one in page.each] == [
        b'"later","state":"QUEUED"', b'"waits","state":"QUEUED"',
    ]  # fmt: skip
    await store.close()
    await store.open()
    await store.close()


async def test_an_upgraded_file_has_the_tables_and_indexes_of_a_new_one(tmp_path: Path) -> None:
    files = [tmp_path / "old.db", tmp_path / "new.db"]
    make_file_1(files[0], [new_task("a")])
    found = []
    for path in files:
        store = SqliteStore(path)
        await store.open()
        await store.close()
        db = sqlite3.connect(path)
        assert db.execute("PRAGMA user_version").fetchone() == (VERSION,)
        indexes = db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'index'").fetchall()
        tables = [db.execute(f"PRAGMA table_info({name})").fetchall() for name in ("task", "tag")]
        found.append((sorted(indexes, key=str), tables))
        db.close()
    assert found[0] == found[1]


async def test_an_upgrade_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "tasks.db"
    make_file_1(path, [ran("a")])
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("UPDATE document SET full = 'no JSON'")
    db.execute("UPDATE task SET untidy = 0")
    db.close()
    with pytest.raises(StoreUnreachable, match="JSON"):
        await SqliteStore(path).open()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert "done_at" not in str(db.execute("PRAGMA table_info(task)").fetchall())
    db.close()


def test_there_is_a_step_from_each_earlier_version() -> None:
    assert list(STEPS) == list(range(1, VERSION))


async def test_the_moment_of_the_end_is_kept_to_the_microsecond(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "tasks.db")
    await store.open()
    await store.add(tidy(ran("a")))
    assert await store.remove_ended(END, 9) == 0
    assert await store.remove_ended(END + MICROSECOND, 9) == 1
    await store.close()
