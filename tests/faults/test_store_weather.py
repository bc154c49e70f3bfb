"""The store goes away under the true server: clients are told to come again, nothing is lost.

MongoDB's connections are cut, or fall silent, in a proxy; SQLite's file is locked by another
program, or its disk, a small one of the test's own, is full.
"""

import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pymongo
import pytest

from tesp_api.service import HOLD_S
from tests.e2e.stack import Api, Stack, begin_stack, shell
from tests.needs import missing, need
from tests.pulsars import until
from tests.servers.process import HOST
from tests.servers.proxy import Cut, Pass, Proxy, Silence, faulty

SOON_S: Final = HOLD_S + 1.5
"""Clients of some kinds give up after 10 s."""
NOBODY: Final = {"TESP_PULSAR__URL": f"http://{HOST}:9"}
DISK_BYTES: Final = 4 * 2**20
ON_A_SMALL_DISK: Final = """
import os, sys
mount = f'mount -t tmpfs -o size={sys.argv[2]} none "$0" && exec "$@"'
serve = [sys.executable, "-m", "tesp_api", "serve"]
os.execvp("unshare", ["unshare", "-Urm", "sh", "-c", mount, sys.argv[1], *serve])
"""
"""In name spaces of its own; the process stays the same one."""


def try_to_post(api: Api, name: str, size: int = 0) -> tuple[httpx.Response, float]:
    """Return the answer and how many seconds it took."""
    task: dict[str, Any] = shell("true", name=name)
    if size:
        task["inputs"] = [{"path": "/in", "content": "x" * size}]
    begun = time.monotonic()
    answer = httpx.post(f"{api.base}/v1/tasks", json=task, timeout=30)
    return answer, time.monotonic() - begun


def check_it_is_put_off(answered: tuple[httpx.Response, float]) -> None:
    answer, took_s = answered
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert set(answer.json()) == {"status", "error", "message"}
    assert took_s < SOON_S


def names(api: Api) -> list[str]:
    return sorted(task["name"] for task in api.list(view="FULL")["tasks"])


def posts_work_again(api: Api, name: str) -> None:
    answer, _ = try_to_post(api, name)
    assert answer.status_code == 200, answer.text


# SQLite


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    api = Api(tmp_path, NOBODY)
    api.start()
    try:
        yield api
    finally:
        api.stop()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.close()


def test_a_locked_file_puts_posts_off_and_reads_go_on(api: Api, tmp_path: Path) -> None:
    posts_work_again(api, "before")
    with locked(tmp_path / "tasks.sqlite"):
        check_it_is_put_off(try_to_post(api, "meanwhile"))
        assert names(api) == ["before"]
    posts_work_again(api, "after")
    assert names(api) == ["after", "before"]
    assert "ERROR" not in api.log.read_text()


def test_a_file_locked_for_a_moment_only_delays_a_post(api: Api, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as other:
        with locked(tmp_path / "tasks.sqlite"):
            posted = other.submit(try_to_post, api, "delayed")
            time.sleep(1.5)
            assert not posted.done()
        answer, took_s = posted.result()
    assert answer.status_code == 200
    assert took_s < SOON_S


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Api, Path]]:
    """A server whose store is on a disk of its own, and the way there from outside."""
    need("userns")
    directory = tmp_path / "disk"
    directory.mkdir()
    api = Api(tmp_path, {**NOBODY, "TESP_DB__SQLITE_PATH": str(directory / "tasks.sqlite")})
    api.begin("-c", ON_A_SMALL_DISK, str(directory), str(DISK_BYTES))
    try:
        api.wait_until_up()
        yield api, Path(f"/proc/{api.pid}/root{directory}")
    finally:
        api.stop()


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as filler:
        while shutil.disk_usage(file.parent).free:
            filler.write(b"x" * 4096)
        with pytest.raises(OSError, match="No space left"):
            filler.write(b"x" * 4096)


def copied(disk: Path, api: Api, to: Path) -> Path:
    """Copy what is on the disk while nobody writes: SQLite itself would not find the way there."""
    os.kill(api.pid, signal.SIGSTOP)
    try:
        return Path(shutil.copytree(disk, to))
    finally:
        os.kill(api.pid, signal.SIGCONT)


def test_a_full_disk_puts_posts_off_until_there_is_room(
    small_disk: tuple[Api, Path], tmp_path: Path
) -> None:
    api, disk = small_disk
    assert try_to_post(api, "before", 100_000)[0].status_code == 200
    fill(disk / "filler")
    for _ in range(2):
        check_it_is_put_off(try_to_post(api, "meanwhile", 500_000))
    assert names(api) == ["before"]
    (disk / "filler").unlink()
    assert try_to_post(api, "after", 500_000)[0].status_code == 200
    assert names(api) == ["after", "before"]
    assert "ERROR" not in api.log.read_text()
    db = sqlite3.connect(copied(disk, api, tmp_path / "copy") / "tasks.sqlite")
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert db.execute("SELECT count(*) FROM task").fetchone() == (2,)
    assert db.execute("SELECT count(*) FROM document").fetchone() == (2,)
    db.close()


def test_a_disk_that_is_full_from_the_start_is_waited_for(tmp_path: Path) -> None:
    need("userns")
    directory = tmp_path / "disk"
    directory.mkdir()
    api = Api(tmp_path, {**NOBODY, "TESP_DB__SQLITE_PATH": str(directory / "tasks.sqlite")})
    api.begin("-c", ON_A_SMALL_DISK, str(directory), str(4 * 4096))
    try:
        until(lambda: "waiting for the store" in api.tail(), 30, api.tail)
        api.wait_until_up()
        ready = httpx.get(f"{api.base}/readyz", timeout=10)
        assert (ready.status_code, "The store does not answer." in ready.json()["reasons"]) == (
            503, True,
        )  # fmt: skip
        check_it_is_put_off(try_to_post(api, "meanwhile"))
    finally:
        api.stop()


# MongoDB


@pytest.fixture
def database() -> Iterator[str]:
    need("mongodb")
    uri = f"{os.environ['TESP_TEST_MONGODB_URI'].rstrip('/')}/tesp_test_{uuid4().hex[:16]}"
    yield uri
    with pymongo.MongoClient(uri) as client:
        client.drop_database(client.get_default_database().name)


@contextmanager
def behind_a_proxy(database: str, directory: Path) -> Iterator[tuple[Stack, Proxy]]:
    """The stack, with all that it says to MongoDB passing through a proxy."""
    need("pulsar")
    parts = urlsplit(database)
    userinfo = parts.netloc.rpartition("@")
    with faulty(parts.port or 27017) as proxy:
        netloc = f"{userinfo[0]}{userinfo[1]}{HOST}:{proxy.port}"
        uri = parts._replace(netloc=netloc, query="directConnection=true").geturl()
        engine = "host" if missing("userns") is None else "docker"
        stack = begin_stack(
            directory, engine, TESP_DB__SQLITE_PATH="", TESP_DB__MONGODB_URI=uri,
            TESP_DISPATCH__LEASE_S="30",
        )  # fmt: skip
        try:
            stack.pulsar.wait_until_up()
            stack.api.wait_until_up()
            yield stack, proxy
        finally:
            stack.stop()


@pytest.mark.parametrize("fault", [Cut(), Silence()], ids=["cut", "silent"])
def test_an_outage_of_mongodb_puts_posts_off_and_tasks_go_on_after_it(
    database: str, tmp_path: Path, fault: Cut | Silence
) -> None:
    with behind_a_proxy(database, tmp_path) as (stack, proxy):
        api = stack.api
        task_id = api.post(shell("sleep 3; echo done", name="before"))
        api.wait(task_id, {"RUNNING"})
        proxy.always(fault)
        proxy.cut()
        with ThreadPoolExecutor(4) as crowd:
            for answered in crowd.map(lambda n: try_to_post(api, f"meanwhile {n}"), range(4)):
                check_it_is_put_off(answered)
        ready = httpx.get(f"{api.base}/readyz", timeout=10)
        assert ready.status_code == 503
        assert any("store" in reason for reason in ready.json()["reasons"])
        assert httpx.get(f"{api.base}/healthz", timeout=10).status_code == 200
        proxy.always(Pass())
        proxy.cut()
        later = api.run(shell("echo later", name="after"))
        assert later["state"] == "COMPLETE"
        ended = api.wait(task_id)
        assert (ended["state"], ended["logs"][-1]["logs"][0]["stdout"]) == ("COMPLETE", "done\n")
        assert len(ended["logs"]) == 1
        assert names(api) == ["after", "before"]
        stack.wait_until_nothing_is_left(task_id)
        assert " ERROR " not in api.log.read_text()


def test_a_post_whose_answer_was_cut_off_on_the_way_makes_one_task(
    database: str, tmp_path: Path
) -> None:
    """The client's connections end after so many bytes of what MongoDB says: often in mid-write."""
    with behind_a_proxy(database, tmp_path) as (stack, proxy):
        accepted = list[str]()
        for number in range(12):
            proxy.next(*[Cut(after=400 + 331 * number + 57 * n) for n in range(3)])
            proxy.cut()
            answer, took_s = try_to_post(stack.api, f"task {number}")
            assert took_s < SOON_S
            assert answer.status_code in {200, 503}
            if answer.status_code == 200:
                accepted.append(f"task {number}")
        proxy.always(Pass())
        kept = names(stack.api)
        assert set(accepted) <= set(kept)
        assert len(kept) == len(set(kept))
        assert len(accepted) > 6
