"""How near the embedded store comes to what SQLite itself can do; each pair measured in one run.

    python -m benchmarks.store [--tasks 20000] [--lists 100000] [--directory DIR]

The directory should be on the disk that will hold the tasks: durability is most of the price.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from tesp_api.domain.task import Task, TaskId
from tesp_api.domain.tes import State, TaskRequest, View
from tesp_api.ports import Query
from tesp_api.store.rows import Row, row_of
from tesp_api.store.sqlite import SqliteStore
from tesp_api.store.sqlite_file import connect, prepare
from tesp_api.store.sqlite_writes import Add, apply

WAITERS: Final = 256
ROUNDS: Final = 5
REQUEST: Final = TaskRequest.model_validate(
    {
        "name": "benchmark.align.1",
        "description": "About the size of a usual task. " * 20,
        "inputs": [{"path": f"/in/{n}", "url": f"https://example.org/{n}"} for n in range(4)],
        "outputs": [{"path": "/out", "url": "s3://bucket/out"}],
        "resources": {"cpu_cores": 2, "ram_gb": 4},
        "executors": [{"image": "ubuntu:20.04", "command": ["sha1sum", "/in/0"]}],
        "tags": {"workflow": "benchmark"},
    }
)


def tasks(number: int, start: int = 0) -> list[Task]:
    """Return tasks whose ids are spread like real ones."""
    born = datetime.now(UTC)
    ids = (f"{(start + n) * 0x9E3779B97F4A7C15 % 2**64:024x}"[::-1] for n in range(number))
    return [
        Task(id=TaskId(one), request=REQUEST, state=State.QUEUED, created_at=born) for one in ids
    ]


def bare(path: Path, rows: Sequence[Row]) -> float:
    """Return rows per second of bare transactions of 256 rows, one INSERT a row and table."""
    db = connect(path, 1)
    prepare(db, path, "FULL")
    started = time.perf_counter()
    for start in range(0, len(rows), WAITERS):
        part = list(enumerate(rows[start : start + WAITERS], start=start + 1))
        db.execute("BEGIN IMMEDIATE")
        db.executemany(
            "INSERT INTO task VALUES (?, ?, ?, 0, NULL, ?, NULL, NULL, 0, 0, ?)",
            [(seq, row.id, row.state, row.name, row.minimal) for seq, row in part],
        )
        db.executemany(
            "INSERT INTO document VALUES (?, NULL, ?, ?)",
            [(seq, row.full, row.task) for seq, row in part],
        )
        db.executemany(
            "INSERT INTO tag VALUES (?, ?, ?)",
            [(key, value, seq) for seq, row in part for key, value in row.tags.items()],
        )
        db.execute("COMMIT")
    elapsed = time.perf_counter() - started
    db.close()
    return len(rows) / elapsed


async def through_store(path: Path, given: Sequence[Task], *, busy: bool = False) -> float:
    """Return adds per second with 256 callers waiting, on an idle or a busy event loop."""
    async with opened(path) as store:
        left = iter(given)
        load = asyncio.create_task(spin()) if busy else None
        started = time.perf_counter()
        await asyncio.gather(*(add_all(store, left) for _ in range(WAITERS)))
        elapsed = time.perf_counter() - started
        if load is not None:
            load.cancel()
    return len(given) / elapsed


async def add_all(store: SqliteStore, left: Iterator[Task]) -> None:
    """Add one task after another."""
    for task in left:
        await store.add(task)


async def spin() -> None:
    """Keep the event loop busy, as a crowd of requests does: 200 µs at a time."""
    while True:
        until = time.perf_counter() + 200e-6
        while time.perf_counter() < until:
            pass
        await asyncio.sleep(0)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    """Yield an open store on `path`."""
    store = SqliteStore(path)
    await store.open()
    yield store
    await store.close()


def rendering(given: Sequence[Task]) -> float:
    """Return tasks per second of making rows of them: work that no store is spared."""
    started = time.perf_counter()
    for task in given:
        row_of(task)
    return len(given) / (time.perf_counter() - started)


async def writes(directory: Path, number: int) -> None:
    """Print how adds compare with bare transactions, in alternating rounds."""
    given = tasks(number)
    rows = [row_of(task) for task in given]
    found: dict[str, list[float]] = {"bare": [], "store": [], "busy": [], "render": []}
    for turn in range(ROUNDS):
        found["bare"].append(await asyncio.to_thread(bare, directory / f"bare{turn}.db", rows))
        found["store"].append(await through_store(directory / f"store{turn}.db", given))
        busy = await through_store(directory / f"busy{turn}.db", given[: number // 4], busy=True)
        found["busy"].append(busy)
        found["render"].append(rendering(given))
        await asyncio.to_thread(clear, directory)
    rates = {name: median(some) for name, some in found.items()}
    net = 1 / (1 / rates["store"] - 1 / rates["render"])
    print(f"bare transactions of {WAITERS} rows       {rates['bare']:8.0f}/s")
    print(f"rendering alone                    {rates['render']:8.0f}/s")
    print(f"adds, {WAITERS} callers                 {rates['store']:8.0f}/s")
    print(
        f"  of bare {rates['store'] / rates['bare']:.2f}, rendering apart {net / rates['bare']:.2f}"
    )
    print(f"adds, event loop busy              {rates['busy']:8.0f}/s")


def clear(directory: Path) -> None:
    """Make room for the next round."""
    for file in directory.iterdir():
        file.unlink()


def fill(path: Path, number: int) -> None:
    """Put tasks into the file in an instant: one in a hundred is rare by name and tag."""
    made = row_of(tasks(1)[0])
    db = connect(path, 1)
    prepare(db, path, "NORMAL")
    for start in range(0, number, 5000):
        db.execute("BEGIN")
        apply(db, [Add(numbered(made, n)) for n in range(start, start + 5000)])
        db.execute("COMMIT")
    db.close()


def numbered(made: Row, number: int) -> Row:
    """Return a row of its own, with small documents."""
    rare = number % 100 == 0
    name = f"{'rare' if rare else 'common'}.{number}"
    tags = {"workflow": "benchmark", "kind": "rare" if rare else "common"}
    short = b'{"id":"%024d","state":"QUEUED"}' % number
    state = "RUNNING" if rare else "COMPLETE"
    return replace(
        made, id=f"{number:024}", name=name, tags=tags, state=state, minimal=short, task=short
    )


async def lists(directory: Path, number: int) -> None:
    """Print what pages and single reads cost, beside the bare statement where there is one."""
    path = directory / "lists.db"
    await asyncio.to_thread(fill, path, number)
    async with opened(path) as store:
        for label, query in QUERIES.items():
            elapsed = await timed(partial(store.page, query))
            floor = raw_page(path, query) if label in FLOORS else None
            beside = f"  {elapsed / floor:5.2f} of bare" if floor else ""
            print(f"{label:30} {elapsed * 1e3:8.2f} ms{beside}")
        one = TaskId(f"{number // 2:024}")
        for view in View:
            elapsed = await timed(partial(store.document, one, view, None), 200)
            print(f"document {view:21} {elapsed * 1e6:8.1f} us")
        loop = asyncio.get_running_loop()
        elapsed = await timed(lambda: loop.run_in_executor(None, int), 200)
        print(f"{'(a thread, there and back)':30} {elapsed * 1e6:8.1f} us")
    path.unlink()


MINIMAL: Final = Query(view=View.MINIMAL, limit=256)
QUERIES: Final = {
    "2047 MINIMAL": replace(MINIMAL, limit=2047),
    "256 FULL": replace(MINIMAL, view=View.FULL),
    "100 MINIMAL": replace(MINIMAL, limit=100),
    "256 of a rare tag": replace(MINIMAL, tags=(("kind", "rare"),)),
    "256 of a common tag": replace(MINIMAL, tags=(("kind", "common"),)),
    "256 of any tag and rare state": replace(
        MINIMAL, tags=(("kind", ""),), states=frozenset({State.RUNNING})
    ),
    "256 of a rare name": replace(MINIMAL, name_prefix="rare."),
    "256 of a common name": replace(MINIMAL, name_prefix="common."),
    "1 name": replace(MINIMAL, name_prefix="common.77"),
    "256 of three states": replace(
        MINIMAL, states=frozenset({State.RUNNING, State.COMPLETE, State.QUEUED})
    ),
}
FLOORS: Final = {"2047 MINIMAL", "256 FULL"}


def raw_page(path: Path, query: Query) -> float:
    """Return the seconds of the plainest SELECT of such a page, in this thread."""
    table, column = ("task", "minimal") if query.view is View.MINIMAL else ("document", "full")
    text = f"SELECT {column} FROM {table} WHERE seq < 1000000000 ORDER BY seq DESC LIMIT ?"
    with closing(connect(path, 1)) as db:
        taken = list[float]()
        for _ in range(30):
            started = time.perf_counter()
            [document for (document,) in db.execute(text, (query.limit,)).fetchall()]
            taken.append(time.perf_counter() - started)
    return median(taken)


async def timed(call: Callable[[], Awaitable[object]], times: int = 30) -> float:
    """Return the median seconds of one call."""
    taken = list[float]()
    for _ in range(times):
        started = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - started)
    return median(taken)


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--lists", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        if options.tasks:
            await writes(Path(directory), options.tasks)
        for number in options.lists:
            print(f"\nof {number} tasks")
            await lists(Path(directory), number)


if __name__ == "__main__":
    asyncio.run(main())
