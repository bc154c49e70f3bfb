"""A cancel meets what is under way: a Pulsar that is away, transfers, a natural end.

Whatever wins, the task has one end, which stays; and once it is CANCELED nothing comes any more.
"""

import random
import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

import pytest

from tests.e2e.stack import Json, Stack, begin_stack, fastest, shell
from tests.e2e.web import Web
from tests.needs import need
from tests.pulsars import HOST, until
from tests.servers.in_thread import in_thread

TRANSPORTS: Final = ("rest", "amqp")
LATER_S: Final = 6.0
"""For whatever may still come, and should not."""
SOON: Final = {"TESP_PULSAR__CLIENT_TIMEOUT": "4", "TESP_DISPATCH__LEASE_S": "3"}
STOPS_S: Final = 15.0
"""Within which a transfer ends after a cancel."""
RACERS: Final = 20
RACE_S: Final = 1.2


@pytest.fixture(params=TRANSPORTS, scope="module")
def own(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack whose Pulsar may be killed."""
    need("pulsar")
    directory = tmp_path_factory.mktemp(f"races-{request.param}") / "run"
    stack = begin_stack(directory, fastest(), request.param, **SOON)
    try:
        stack.pulsar.wait_until_up()
        stack.api.wait_until_up()
        yield stack
    finally:
        stack.stop()


@contextmanager
def away(stack: Stack) -> Iterator[None]:
    """Have no Pulsar meanwhile; its jobs live on."""
    stack.pulsar.kill()
    try:
        yield
    finally:
        stack.pulsar.begin()
        stack.pulsar.wait_until_up()


def marked(web: Web, name: str, line: str) -> Json:
    """Return a task whose runner can be seen to begin, and whose end to send something."""
    return shell(
        line,
        volumes=["/out"],
        inputs=[{"path": "/in/mark", "url": web.offer(f"/in/{name}", b"")}],
        outputs=[{"path": "/out/a", "url": f"{web.url}/out/{name}"}],
    )


def executes(stack: Stack, task_id: str) -> bool:
    journals = stack.pulsar.staging.glob(f"*{task_id}*/outputs/tes_journal")
    return any("executor_start" in journal.read_text() for journal in journals)


def check_it_is_over(stack: Stack, *ids: str) -> None:
    """See that they are CANCELED, that nothing is left, and that this is so later too."""
    for one in ids:
        stack.api.wait(one, {"CANCELED"})
    stack.wait_until_nothing_is_left(*ids, patience_s=60)
    end = time.monotonic() + LATER_S
    while time.monotonic() < end:
        assert stack.left_of(*ids) == []
        time.sleep(0.3)
    assert {stack.api.state(one) for one in ids} == {"CANCELED"}


def test_a_cancel_while_pulsar_is_away_of_tasks_that_never_reached_it(own: Stack, web: Web) -> None:
    names = [f"never-{own.name}-{number}" for number in range(3)]
    with away(own):
        ids = [own.api.post(marked(web, name, "sleep 300")) for name in names]
        for one in ids:
            own.api.wait(one, {"INITIALIZING"})
        time.sleep(1)  # into the calls
        for one in ids:
            assert own.api.cancel(one).status_code == 200
        time.sleep(2)
        assert {own.api.state(one) for one in ids} <= {"CANCELING"}, "nobody can know yet"

    check_it_is_over(own, *ids)
    assert [web.count("PUT", f"/out/{name}") for name in names] == [0, 0, 0]


def test_a_cancel_while_pulsar_is_away_of_tasks_that_run(own: Stack, web: Web) -> None:
    names = [f"runs-{own.name}-{number}" for number in range(3)]
    ids = [own.api.post(marked(web, name, "echo a > /out/a; sleep 300")) for name in names]
    until(lambda: all(executes(own, one) for one in ids), 60, own.api.tail)
    with away(own):
        for one in ids:
            assert own.api.cancel(one).status_code == 200
        time.sleep(3)
        assert {own.api.state(one) for one in ids} <= {"CANCELING"}, "they run"

    check_it_is_over(own, *ids)
    assert [web.count("GET", f"/in/{name}") for name in names] == [1, 1, 1]


def test_a_cancel_is_not_forgotten_when_the_server_dies_and_pulsar_is_away(
    own: Stack, web: Web
) -> None:
    name = f"forgotten-{own.name}"
    task_id = own.api.post(marked(web, name, "sleep 300"))
    until(lambda: executes(own, task_id), 60, own.api.tail)
    with away(own):
        assert own.api.cancel(task_id).status_code == 200
        own.api.kill()
    own.api.start()

    check_it_is_over(own, task_id)


# Transfers


@dataclass
class Slow:
    """A web server with which a file takes for ever; `open` are transfers under way."""

    port: int = 0
    begun: set[str] = field(default_factory=set)
    open: set[str] = field(default_factory=set)

    def url(self, name: str) -> str:
        return f"http://{HOST}:{self.port}/{name}"


class _Trickle(BaseHTTPRequestHandler):
    slow: Slow

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(2**30))
        self.end_headers()
        with self._noted():
            while not _gone(self.connection):
                self.wfile.write(b"x")
                time.sleep(0.05)

    def do_PUT(self) -> None:
        with self._noted():
            while self.rfile.read1(2**20):
                time.sleep(0.05)

    @contextmanager
    def _noted(self) -> Iterator[None]:
        self.slow.begun.add(self.path)
        self.slow.open.add(self.path)
        try:
            yield
        except OSError:
            self.close_connection = True
        finally:
            self.slow.open.discard(self.path)

    def log_message(self, format: str, *args: Any) -> None: ...


def _gone(line: socket.socket) -> bool:
    return bool(select.select([line], [], [], 0)[0])


@pytest.fixture(scope="module")
def slow() -> Iterator[Slow]:
    made = Slow()
    with in_thread(_Trickle, slow=made) as made.port:
        yield made


def test_a_cancel_ends_an_input_under_way_and_no_executor_starts(
    own: Stack, web: Web, slow: Slow
) -> None:
    path = f"/in-{own.name}"
    task = marked(web, f"input-{own.name}", "echo a > /out/a")
    task["inputs"].append({"path": "/in/slow", "url": slow.url(path[1:])})
    task_id = own.api.post(task)
    until(lambda: path in slow.open, 60, own.api.tail)

    own.api.cancel(task_id)

    until(lambda: path not in slow.open, STOPS_S, own.api.tail)
    check_it_is_over(own, task_id)
    assert path not in slow.open
    assert not own.api.get(task_id)["logs"][0].get("logs")
    assert web.count("PUT", f"/out/input-{own.name}") == 0


def test_a_cancel_ends_an_output_under_way(own: Stack, slow: Slow) -> None:
    path = f"/out-{own.name}"
    task_id = own.api.post(
        shell(
            "truncate -s 4G /out/a",
            volumes=["/out"],
            outputs=[{"path": "/out/a", "url": slow.url(path[1:])}],
        )
    )
    until(lambda: path in slow.open, 60, own.api.tail)

    own.api.cancel(task_id)

    until(lambda: path not in slow.open, STOPS_S, own.api.tail)
    check_it_is_over(own, task_id)
    assert path not in slow.open


# The natural end


def test_a_cancel_that_meets_the_natural_end_gives_one_state_that_stays(
    own: Stack, web: Web
) -> None:
    rng = random.Random(5)
    names = [f"race-{own.name}-{number}" for number in range(RACERS)]
    waits = [rng.uniform(0, RACE_S) for _ in names]
    with ThreadPoolExecutor(8) as crowd:
        ids = list(crowd.map(lambda each: _race(own, web, *each), zip(names, waits, strict=True)))
    first = {one: own.api.wait(one) for one in ids}
    own.wait_until_nothing_is_left(*ids, patience_s=60)
    time.sleep(LATER_S)

    listed = {task["id"]: task["state"] for task in own.api.list(page_size="500")["tasks"]}
    for one, name in zip(ids, names, strict=True):
        _check_one_end(first[one], own.api.get(one), listed[one], web.count("PUT", f"/out/{name}"))
    states = [first[one]["state"] for one in ids]
    assert set(states) <= {"CANCELED", "COMPLETE"}, states
    assert len(set(states)) > 1, f"it was no race: {states}"


def _race(stack: Stack, web: Web, name: str, wait_s: float) -> str:
    task_id = stack.api.post(marked(web, name, "echo a > /out/a"))
    until(lambda: web.count("GET", f"/in/{name}") == 1, 60, stack.api.tail)
    time.sleep(wait_s)
    assert stack.api.cancel(task_id).status_code == 200
    return task_id


def _check_one_end(first: Mapping[str, Any], later: Json, listed: str, sent: int) -> None:
    assert first["state"] == later["state"] == listed
    assert [log.get("logs") for log in first["logs"]] == [log.get("logs") for log in later["logs"]]
    assert sent <= 1
    if later["state"] == "COMPLETE":
        (attempt,) = later["logs"]
        assert [one["exit_code"] for one in _executors(attempt)] == [0]
        assert ([one["path"] for one in attempt["outputs"]], sent) == (["/out/a"], 1)


def _executors(attempt: Json) -> Sequence[Json]:
    return attempt.get("logs") or ()
