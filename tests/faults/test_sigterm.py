"""SIGTERM ends the server within 10 s whatever else goes on, and what it had is taken over.

The calls to Pulsar are as patient here as they are by default: a step under way may last longer
than there is time.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.e2e.stack import Api, Json, shell, task
from tests.faults.between import Wire, wire
from tests.faults.ground import Ground, begun, database, over
from tests.faults.replica import Replica
from tests.needs import need
from tests.pulsars import HOST, until

pytestmark = pytest.mark.faults
END_S: Final = 10.0
PATIENT: Final = {"TESP_PULSAR__CLIENT_TIMEOUT": "30"}
LEASE_S: Final = 20.0
MANY: Final = 40


@contextmanager
def silent() -> Iterator[int]:
    """Give the port of somebody who lets everybody in and says nothing."""
    with socket.create_server((HOST, 0), backlog=512) as listening:
        yield listening.getsockname()[1]


@contextmanager
def serving(directory: Path, settings: Mapping[str, str]) -> Iterator[Api]:
    api = Api(directory, {"CONTAINER_TYPE": "host", **PATIENT, **settings})
    try:
        api.start()
        yield api
    finally:
        api.stop()


def check_it_ends_soon(api: Api) -> None:
    _, took_s = api.terminate()
    assert took_s < END_S, f"{took_s:.1f} s\n{api.tail()}"
    assert "bug in" not in api.log.read_text(), api.tail()


def post_some(api: Api) -> None:
    """Post more tasks than there are hands to drive them, and see them driven."""
    ids = [api.post(shell("true")) for _ in range(MANY)]
    until(lambda: api.state(ids[0]) == "INITIALIZING", 10, api.tail)
    time.sleep(0.3)  # into the calls


def half_a_post(api: Api) -> socket.socket:
    """Begin a request that never ends."""
    line = socket.create_connection((HOST, api.port))
    head = f"POST /v1/tasks HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    line.sendall(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
    time.sleep(0.2)
    return line


def a_get(api: Api) -> socket.socket:
    """Ask for a list; whoever cannot answer it waits for the store."""
    line = socket.create_connection((HOST, api.port))
    line.sendall(f"GET /v1/tasks HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    time.sleep(0.2)
    return line


@contextmanager
def wire_to(uri: str) -> Iterator[tuple[Wire, str]]:
    """Lay a line to where the URI leads; give the URI that leads through it too."""
    parts = urlsplit(uri)
    with wire((parts.hostname or HOST, parts.port or 0)) as line:
        login, at, _ = parts.netloc.rpartition("@")
        yield line, parts._replace(netloc=f"{login}{at}{HOST}:{line.port}").geturl()


def test_while_requests_are_open(tmp_path: Path) -> None:
    with silent() as nobody, ExitStack() as lines:
        settings = {"TESP_PULSAR__URL": f"http://{HOST}:{nobody}"}
        api = lines.enter_context(serving(tmp_path, settings))
        for _ in range(3):
            lines.enter_context(closing(half_a_post(api)))
            lines.enter_context(closing(socket.create_connection((HOST, api.port))))

        check_it_ends_soon(api)


def test_while_pulsar_hangs_under_many_tasks_and_requests_are_open(tmp_path: Path) -> None:
    with silent() as nobody, ExitStack() as lines:
        settings = {"TESP_PULSAR__URL": f"http://{HOST}:{nobody}", "TESP_PULSAR__MAX_JOBS": "64"}
        api = lines.enter_context(serving(tmp_path, settings))
        post_some(api)
        lines.enter_context(closing(half_a_post(api)))

        check_it_ends_soon(api)


def test_while_the_broker_hangs_under_many_tasks(tmp_path: Path) -> None:
    need("rabbitmq")
    with wire_to(os.environ["TESP_TEST_AMQP_URL"]) as (line, url):
        settings = {"TESP_PULSAR__AMQP_URL": url, "TESP_PULSAR__MANAGER": f"m{uuid4().hex}"}
        with serving(tmp_path, settings) as api:
            until(lambda: bool(line._pairs), 10, api.tail)
            line.freeze()
            post_some(api)

            check_it_ends_soon(api)
            line.mend()


@pytest.mark.parametrize("fault", ["cut", "freeze"])
def test_while_the_store_is_away_and_requests_wait_for_it(fault: str, tmp_path: Path) -> None:
    with (
        database() as settings,
        wire_to(settings["TESP_DB__MONGODB_URI"]) as (line, uri),
        silent() as nobody,
        ExitStack() as lines,
    ):
        pulsar = {"TESP_PULSAR__URL": f"http://{HOST}:{nobody}"}
        api = lines.enter_context(serving(tmp_path, {**over(uri), **pulsar}))
        post_some(api)
        getattr(line, fault)()
        lines.enter_context(closing(half_a_post(api)))
        lines.enter_context(closing(a_get(api)))

        check_it_ends_soon(api)
        line.mend()


def test_what_it_had_is_taken_over_at_once_and_its_jobs_go_on(place: Ground) -> None:
    lease = {"TESP_DISPATCH__LEASE_S": f"{LEASE_S:g}"}
    names = [f"handed-over-{number}" for number in range(3)]
    with database() as settings:
        leaving, peer = (place.replica(f"leave-{n}", **{**settings, **lease}) for n in (0, 1))
        with begun(leaving):
            ids = [leaving.post(counted(name, place)) for name in names]
            until(lambda: all(map(place.ledger.starts, names)), 60, leaving.tail)
            with begun(peer):  # only now: it would have taken some of them itself
                _, took_s = leaving.terminate()
                assert took_s < END_S
                until(lambda: _adopted(peer) == len(ids), LEASE_S / 2, peer.tail)
                for name, one in zip(names, ids, strict=True):
                    ended = peer.wait(one)
                    assert (ended["state"], len(ended["logs"])) == ("COMPLETE", 1), ended
                    assert (place.ledger.starts(name), place.ledger.sent(name)) == ([1], 1)


def _adopted(peer: Replica) -> int:
    return peer.log.read_text().count("task adopted")


def counted(name: str, place: Ground) -> Json:
    """Return a task that lasts for some seconds, of which the ledger knows start and end."""
    say = f"exec 3<>/dev/tcp/{place.address}/{place.ledger.port}"
    ask = f"printf 'GET /start/{name}/0 HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3 >/dev/null"
    return task(
        *("bash", "-c", f"{say}; {ask}; exec 3>&-; sleep 8; echo a > /out/a"),
        outputs=[{"path": "/out/a", "url": place.ledger.url(f"/out/{name}")}],
    )
