"""What only the embedded store promises: of its file, its lock, its disk, and of dying."""

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from resource import RLIMIT_FSIZE, getrlimit, setrlimit
from typing import IO

import pytest

from tesp_api.domain.errors import Misconfigured, StoreUnreachable
from tesp_api.domain.lifecycle import Claimed, advance
from tesp_api.domain.task import DriverId, JobId, Task, TaskId
from tesp_api.domain.tes import State, TaskRequest, View
from tesp_api.ports import Query
from tesp_api.store import sqlite_file
from tesp_api.store.sqlite import SqliteStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = TaskRequest.model_validate({"executors": [{"image": "u", "command": ["true"]}]})

WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from tesp_api.domain.task import Task, TaskId
from tesp_api.domain.tes import State, TaskRequest
from tesp_api.store.sqlite import SqliteStore

REQUEST = TaskRequest.model_validate({"executors": [{"image": "u", "command": ["true"]}]})

async def one(store, number):
    task_id, born = TaskId(str(number)), datetime.now(UTC)
    await store.add(Task(id=task_id, request=REQUEST, state=State.QUEUED, created_at=born))
    print(number, flush=True)

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.open()
    for start in range(0, 10**6, 16):
        await asyncio.gather(*(one(store, start + offset) for offset in range(16)))

asyncio.run(main())
"""


def new_task(name: str, content: str | None = None) -> Task:
    request = REQUEST
    if content is not None:
        given = {"inputs": [{"path": "/in", "content": content}], "executors": REQUEST.executors}
        request = TaskRequest.model_validate(given)
    return Task(id=TaskId(name), request=request, state=State.QUEUED, created_at=NOW)


def claimed(task: Task, slot: int) -> Task:
    event = Claimed(at=NOW, job=JobId("j" + task.id), slot=slot, driver=DriverId("d"))
    return advance(task, event)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "tasks.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, patience_s=0.05)
    await store.open()
    yield store
    await store.close()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    before = path.read_bytes()
    yield
    assert path.read_bytes() == before


@contextmanager
def writer(path: Path) -> Iterator[IO[str]]:
    """Another process that adds tasks 0, 1, 2, … and says each when it is durable."""
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.send_signal(signal.SIGKILL)


# The file


async def test_the_files_are_the_owners_alone(store: SqliteStore, path: Path) -> None:
    await store.add(new_task("a"))
    files = [one for one in path.parent.iterdir() if one.is_file()]
    assert path in files
    assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}


async def test_a_second_store_on_the_file_is_refused(store: SqliteStore, path: Path) -> None:
    link = path.with_name("other.db")
    link.symlink_to(path)
    for same in (path, link, path.parent / ".." / path.parent.name / path.name):
        with pytest.raises(Misconfigured, match=rf"\({os.getpid()}\) uses .*tasks.db\. .*MongoDB"):
            await SqliteStore(same).open()
    await store.add(new_task("a"))


async def test_a_second_process_is_refused_until_the_first_is_dead(path: Path) -> None:
    with writer(path) as said:
        said.readline()
        with pytest.raises(Misconfigured, match="Another process"):
            await SqliteStore(path).open()
    store = SqliteStore(path)
    await store.open()
    assert await store.get(TaskId("0")) is not None
    await store.close()


async def test_what_was_answered_survives_kill_9(path: Path) -> None:
    for _ in range(3):
        with writer(path) as said:
            first = said.readline()
            answered = [first, *(said.readline() for _ in range(400))]
        store = SqliteStore(path)
        await store.open()
        kept = {task.id for task in await store.queued(10**6)}
        await store.close()
        assert {TaskId(line.strip()) for line in answered} <= kept
        for one in path.parent.iterdir():
            one.unlink()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.glusterfs"])
async def test_a_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"36 21 0:40 / {tmp_path} rw shared:7 master:1 - {kind} server:/x rw\n"
    )
    store = SqliteStore(tmp_path / "a" / "tasks.db", mountinfo=mounts)
    with pytest.raises(Misconfigured, match=f"network file system.*{kind}.*MongoDB"):
        await store.open()
    assert list((tmp_path / "a").iterdir()) == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/home/x", "ext4"),
        ("/data/x", "nfs"),
        ("/database", "ext4"),
        ("/data/local/y", "xfs"),
        ("/with blank/y", "cifs"),
        ("/twice/y", "tmpfs"),
        ("/zwölf ☃/y", "9p"),
        ("/file.db", "xfs"),
    ],
)
def test_the_innermost_and_last_mount_counts(path: str, kind: str) -> None:
    info = "\n".join(
        f"36 35 98:0 / {point} rw,noatime master:1 - {kind} /dev/root rw"
        for point, kind in [
            ("/", "ext4"),
            ("/data", "nfs"),
            ("/data/local", "xfs"),
            (r"/with\040blank", "cifs"),
            ("/twice", "nfs"),
            ("/twice", "tmpfs"),
            (r"/zwölf\040☃", "9p"),
            ("/file.db", "xfs"),
            (r"/not\040utf-8" + "\udcff", "btrfs"),
        ]
    )
    mount = sqlite_file.mount_of(Path(path), info)
    assert mount is not None
    assert mount.kind == kind


async def test_where_mounts_are_not_told_the_file_is_taken(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "tasks.db", mountinfo=tmp_path / "nowhere")
    await store.open()
    await store.close()


async def test_a_path_that_cannot_be_written_is_misconfigured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "tasks.db", tmp_path):
        with pytest.raises(Misconfigured, match=r"db\.sqlite_path"):
            await SqliteStore(path).open()


async def test_a_file_of_a_later_version_is_refused_and_left_alone(path: Path) -> None:
    store = SqliteStore(path)
    await store.open()
    await store.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with unchanged(path), pytest.raises(Misconfigured, match=r"later version .*99.*upgrade"):
        await SqliteStore(path).open()


async def test_a_foreign_database_is_refused_and_left_alone(path: Path) -> None:
    write(path, "")
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with unchanged(path), pytest.raises(Misconfigured, match="other program's database"):
        await SqliteStore(path).open()


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path) -> None:
    write(path, "not a database " * 100)
    with unchanged(path), pytest.raises(Misconfigured, match="no database"):
        await SqliteStore(path).open()


async def test_a_refused_start_holds_nothing(path: Path) -> None:
    write(path, "not a database " * 100)
    with pytest.raises(Misconfigured):
        await SqliteStore(path).open()
    write(path, "")
    store = SqliteStore(path)
    await store.open()
    await store.close()


@pytest.mark.parametrize(("synchronous", "number"), [("FULL", 2), ("NORMAL", 1)])
async def test_the_journal_is_synced_as_asked(
    tmp_path: Path, synchronous: str, number: int
) -> None:
    with sqlite3.connect(tmp_path / "x.db") as db:
        sqlite_file.prepare(db, tmp_path / "x.db", synchronous)
        assert db.execute("PRAGMA synchronous").fetchone() == (number,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


# Weather


async def test_a_locked_file_is_weather_for_writes_and_nothing_for_reads(
    store: SqliteStore, path: Path
) -> None:
    await store.add(new_task("a"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnreachable, match="locked"):
        await store.add(new_task("b"))
    assert await store.get(TaskId("a")) is not None
    assert len((await store.page(Query(view=View.FULL, limit=5))).each) == 1
    other.execute("ROLLBACK")
    other.close()
    await store.add(new_task("b"))
    assert len(await store.queued(5)) == 2


async def test_what_was_given_up_while_the_file_was_locked_does_not_take_place(path: Path) -> None:
    store = SqliteStore(path, patience_s=10)
    await store.open()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    given_up, *others = (asyncio.ensure_future(store.add(new_task(name))) for name in "abc")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await given_up
    other.execute("ROLLBACK")
    other.close()
    await asyncio.gather(*others)
    assert [task.id for task in await store.queued(5)] == ["b", "c"]
    await store.close()


async def test_a_file_locked_at_the_start_is_weather(path: Path) -> None:
    first = SqliteStore(path)
    await first.open()
    await first.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnreachable, match="locked"):
        await SqliteStore(path, patience_s=0.05).open()
    other.close()
    await first.open()
    await first.close()


async def test_a_full_disk_is_weather_and_passes(store: SqliteStore) -> None:
    await store.add(new_task("before"))
    limits = getrlimit(RLIMIT_FSIZE)
    setrlimit(RLIMIT_FSIZE, (256 * 1024, limits[1]))
    try:
        results = await asyncio.gather(
            *(store.add(new_task(f"big{number}", "x" * 200_000)) for number in range(4)),
            return_exceptions=True,
        )
    finally:
        setrlimit(RLIMIT_FSIZE, limits)
    assert {type(result) for result in results} == {StoreUnreachable}
    await store.add(new_task("after"))
    assert [task.id for task in await store.queued(9)] == ["before", "after"]


async def test_a_write_that_cannot_be_done_fails_alone(store: SqliteStore) -> None:
    task = new_task("a")
    await store.add(task)
    results = await asyncio.gather(
        store.add(new_task("b")),
        store.save(claimed(task, slot=2**70)),
        store.add(new_task("c")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), OverflowError, type(None)]
    assert [one.id for one in await store.queued(9)] == ["a", "b", "c"]
    assert await store.get(task.id) == task


# Reads


async def test_a_page_too_large_to_hold_is_cut_short(store: SqliteStore) -> None:
    tasks = [new_task(f"t{number}", "x" * 9_000_000) for number in range(10)]
    for task in tasks:
        await store.add(task)
    query, seen = Query(view=View.FULL, limit=10), 0
    while True:
        page = await store.page(query)
        assert 0 < len(page.each) < 10
        seen += len(page.each)
        if page.next_before is None:
            break
        query = Query(view=View.FULL, limit=10, before=page.next_before)
    assert seen == 10


async def test_slow_questions_hold_up_neither_writes_nor_single_reads(store: SqliteStore) -> None:
    end, readers = threading.Event(), store._live.readers
    slow = [asyncio.ensure_future(readers.ask(lambda _: end.wait())) for _ in range(5)]
    try:
        await store.add(new_task("a"))
        assert await store.document(TaskId("a"), View.MINIMAL, None) is not None
        assert await store.get(TaskId("a")) is not None
    finally:
        end.set()
    assert await asyncio.gather(*slow) == [True] * 5
