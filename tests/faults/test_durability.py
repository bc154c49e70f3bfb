"""What a client was told is on the disk before; what nobody knows is asked for before it is told.

The disk is held still by a library of the test's own before the server's calls of `fdatasync`; the
words of MongoDB are cut off in a relay that reads its protocol.
"""

import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import bson
import httpx
import pymongo
import pytest

from tests.e2e.stack import Api, shell
from tests.faults.ground import Ground, database, over
from tests.faults.table import Table, whole
from tests.faults.weather import storm
from tests.needs import PREFIX, required
from tests.pulsars import HOST, until

pytestmark = pytest.mark.faults
NOBODY: Final = {"TESP_PULSAR__URL": f"http://{HOST}:9"}
STILL_S: Final = 2.0
"""Less than a client is held."""
GATE: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void pass(void) {
    while (access(getenv("TEST_GATE"), F_OK) == 0) usleep(5000);
}
int fdatasync(int fd) {
    pass();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
int fsync(int fd) {
    pass();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}
"""
OP_MSG: Final = 2013


def post(api: Api, name: str) -> httpx.Response:
    return httpx.post(f"{api.base}/v1/tasks", json=shell("true", name=name), timeout=30)


def names(api: Api) -> list[str]:
    return sorted(one["name"] for one in api.list(view="FULL")["tasks"])


# SQLite


@pytest.fixture
def gate(tmp_path: Path) -> Mapping[str, str]:
    """Build the library; as long as the file TEST_GATE is there, no disk is waited for in vain."""
    compiler = shutil.which("cc")
    if compiler is None:
        (pytest.fail if required() else pytest.skip)(f"{PREFIX}cc: not installed")
    source, library = tmp_path / "gate.c", tmp_path / "gate.so"
    source.write_text(GATE)
    built = [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(built, check=True)
    return {"LD_PRELOAD": str(library), "TEST_GATE": str(tmp_path / "closed")}


@contextmanager
def serving(directory: Path, settings: Mapping[str, str]) -> Iterator[Api]:
    api = Api(directory, {**NOBODY, **settings})
    try:
        api.start()
        yield api
    finally:
        Path(settings.get("TEST_GATE", directory / "nothing")).unlink(missing_ok=True)
        api.stop()


@contextmanager
def while_the_disk_is_still(gate: Mapping[str, str], api: Api) -> Iterator[Future[httpx.Response]]:
    """Post, and give the answer to come."""
    closed = Path(gate["TEST_GATE"])
    with ThreadPoolExecutor(1) as client:
        closed.touch()
        try:
            yield client.submit(post, api, "meanwhile")
        finally:
            closed.unlink()


def test_a_post_is_answered_only_when_its_disk_has_it(
    tmp_path: Path, gate: Mapping[str, str]
) -> None:
    with serving(tmp_path / "api", gate) as api:
        with while_the_disk_is_still(gate, api) as answer:
            time.sleep(STILL_S)
            assert not answer.done()
        assert answer.result().status_code == 200
        assert names(api) == ["meanwhile"]


def test_with_synchronous_normal_it_does_not_wait_for_the_disk(
    tmp_path: Path, gate: Mapping[str, str]
) -> None:
    """Which shows that the library above holds what it is to hold."""
    with serving(tmp_path / "api", {**gate, "TESP_DB__SQLITE_SYNCHRONOUS": "NORMAL"}) as api:
        with while_the_disk_is_still(gate, api) as answer:
            until(answer.done, STILL_S, api.tail)
        assert answer.result().status_code == 200


def test_a_file_that_others_lock_for_seconds_changes_no_task_s_end(
    place: Ground, table: Table, seed: int
) -> None:
    row = table.row("the SQLite file locked by another program for seconds")
    replica = place.replica("locked")
    path = replica.log.parent / "tasks.sqlite"
    with storm(place, row, seed, replica) as weather:

        def strike() -> int:
            other = sqlite3.connect(path, isolation_level=None, timeout=30)
            other.execute("BEGIN IMMEDIATE")
            time.sleep(weather.rng.uniform(0.5, 6))
            other.close()
            time.sleep(weather.rng.uniform(0.3, 2))
            return 1

        weather.pass_over("locked", strike, lambda: None, 20 if whole() else 2)

    assert not row.bad, row.bad


# MongoDB


@dataclass
class Relay:
    """Passes everything on; of the commands in `deaf`, the client does not hear the answer.

    `when` is whether the command is carried out all the same.
    """

    upstream: tuple[str, int]
    port: int = 0
    deaf: str = ""
    times: int = 0
    carried_out: bool = True
    commands: list[Mapping[str, Any]] = field(default_factory=list)

    def serve(self, listening: socket.socket) -> None:
        while True:
            with suppress(OSError):
                client, _ = listening.accept()
                threading.Thread(target=self._relay, args=(client,), daemon=True).start()
                continue
            return

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.upstream) as server, suppress(EOFError, OSError):
            while True:
                asked = _message(client)
                harmed = self._harms(asked)
                if harmed and not self.carried_out:
                    return
                server.sendall(asked)
                answer = _message(server)
                if harmed:
                    return
                client.sendall(answer)

    def _harms(self, message: bytes) -> bool:
        if struct.unpack_from("<i", message, 12)[0] != OP_MSG:
            return False
        size = struct.unpack_from("<i", message, 21)[0]
        command = bson.decode(message[21 : 21 + size])
        self.commands.append(command)
        if command.get(self.deaf) != "task" or self.times == 0:
            return False
        self.times -= 1
        return True


def _message(line: socket.socket) -> bytes:
    head = _exactly(line, 4)
    return head + _exactly(line, struct.unpack("<i", head)[0] - 4)


def _exactly(line: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = line.recv(size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


@pytest.fixture
def relayed(tmp_path: Path) -> Iterator[tuple[Api, Relay, str]]:
    """A server whose words with MongoDB pass a relay; and the way to MongoDB past it."""
    with database() as settings, socket.create_server((HOST, 0), backlog=64) as listening:
        uri = settings["TESP_DB__MONGODB_URI"]
        parts = urlsplit(uri)
        relay = Relay((parts.hostname or HOST, parts.port or 27017))
        threading.Thread(target=relay.serve, args=(listening,), daemon=True).start()
        login, at, _ = parts.netloc.rpartition("@")
        netloc = f"{login}{at}{HOST}:{listening.getsockname()[1]}"
        through = parts._replace(netloc=netloc, query="directConnection=true").geturl()
        with serving(tmp_path / "api", over(through)) as api:
            yield api, relay, uri


@pytest.mark.parametrize("carried_out", [True, False], ids=["carried out", "not carried out"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_write_whose_answer_is_lost_is_asked_for_again_before_the_client_is_answered(
    times: int, carried_out: bool, relayed: tuple[Api, Relay, str]
) -> None:
    api, relay, uri = relayed
    relay.deaf, relay.carried_out, relay.times = "insert", carried_out, times

    answer = post(api, "unheard")

    assert answer.status_code == 200, answer.text
    assert relay.times == 0, "the harm was done"
    tried = [one for one in relay.commands if one.get("insert") == "task"]
    assert len(tried) > times
    with pymongo.MongoClient[dict[str, Any]](uri) as client:
        tasks = client.get_default_database()["task"]
        assert [one["_id"] for one in tasks.find()] == [answer.json()["id"]]
    assert names(api) == ["unheard"]


def test_a_cancel_whose_answer_is_lost_is_done_once_and_answered(
    relayed: tuple[Api, Relay, str],
) -> None:
    api, relay, _ = relayed
    task_id = api.post(shell("true", name="unheard"))
    until(lambda: api.state(task_id) == "INITIALIZING", 10, api.tail)
    relay.deaf, relay.times = "update", 2

    assert api.cancel(task_id).status_code == 200

    assert api.state(task_id) == "CANCELING"


def test_every_write_of_the_server_asks_for_a_journaled_majority(
    relayed: tuple[Api, Relay, str],
) -> None:
    """Under its defaults, by what it really says: a task posted, claimed, canceled."""
    api, relay, _ = relayed
    task_id = api.post(shell("true"))
    until(lambda: api.state(task_id) == "INITIALIZING", 10, api.tail)
    assert api.cancel(task_id).status_code == 200

    kinds = ("insert", "update", "delete", "findAndModify")
    writes = [one for one in relay.commands if any(kind in one for kind in kinds)]
    assert {next(iter(one)) for one in writes} >= {"insert", "update", "findAndModify"}
    assert all(one.get("writeConcern") == {"w": "majority", "j": True} for one in writes)
    assert os.environ["TESP_TEST_MONGODB_URI"].find("w=") < 0, "not by the URI"
