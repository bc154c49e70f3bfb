"""Each failed task says in its last lines what failed, where, what was tried, and whose turn it is.

One task for each kind of failure, with the real cause.
"""

import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.data_sides import write_secrets
from tests.e2e.stack import Api, Json, Stack, begin_stack, environment, shell, task
from tests.e2e.web import serving
from tests.faults.tasks import runners
from tests.needs import need
from tests.pulsars import HOST, LivePulsar, until
from tests.servers.in_thread import in_thread
from tests.servers.process import nobody_listens

pytestmark = pytest.mark.faults
SETTINGS: Final = {"TESP_STORAGE__ATTEMPTS": "2", "TESP_OUTPUTS__MISSING": "error"}
PATIENCE_S: Final = 25.0
"""Trouble is told in the task after ten seconds, and looked at ever more seldom."""
BEGAN_WITHIN: Final = timedelta(seconds=9)
"""A first call may have had to time out before it is one."""
USER, DATA = "the user's turn", "the turn of who keeps the data"
NODE, PULSAR = (
    f"the turn of the operator of node {os.uname().nodename}",
    "the Pulsar operator's turn",
)

NOBODY: Final = {
    "prefixes": ["s3://lab/"],
    "endpoint": f"http://{HOST}:9",
    "access_key": "nobody",
    "secret_key": "nothing",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task that fails, and what its last lines have to say. A turn may be one of several."""

    request: Callable[["Sides"], Json]
    state: str
    what: str
    where: str = ""
    tried: str = ""
    turns: tuple[str, ...]
    then: Callable[[Stack, str], None] = lambda _stack, _task: None


@dataclass(frozen=True, kw_only=True)
class Sides:
    """URLs of who serves, who refuses, and nobody."""

    web: str
    refusing: str
    nobody: str


def fetching(url: Callable[[Sides], str]) -> Callable[[Sides], Json]:
    return lambda sides: task("true", inputs=[{"path": "/in/x", "url": url(sides)}])


def kill_its_runner(stack: Stack, task_id: str) -> None:
    def executes() -> bool:
        journals = stack.pulsar.staging.glob(f"*{task_id}*/outputs/tes_journal")
        return any("executor_start" in journal.read_text() for journal in journals)

    until(executes, 60, stack.api.tail)
    for pid in runners(task_id):
        os.kill(pid, signal.SIGKILL)


SYSTEM, EXECUTOR = "SYSTEM_ERROR", "EXECUTOR_ERROR"
CASES: Final[Mapping[str, Case]] = {
    "a program that fails": Case(
        request=lambda _: shell("exit 7"),
        state=EXECUTOR,
        what="ended with exit code 7",
        where="executor 0",
        turns=(USER,),
    ),
    "a program that is not in the image": Case(
        request=lambda _: task("no-such-program"),
        state=EXECUTOR,
        what="could not be started",
        where="executor 0",
        turns=(USER,),
    ),
    "a program that needs too much memory": Case(
        request=lambda _: shell("tail /dev/zero", resources={"ram_gb": 0.02}),
        state=EXECUTOR,
        what="needed more memory",
        where="executor 0",
        turns=(USER,),
    ),
    "an image that is not there": Case(
        request=lambda _: task("true", image=f"{HOST}:9/no/image:1"),
        state=SYSTEM,
        what="cannot be pulled",
        where=f"{HOST}:9/no/image:1",
        turns=(USER,),
    ),
    "an input that is not there": Case(
        request=fetching(lambda sides: f"{sides.web}/no/such"),
        state=SYSTEM,
        what="HTTP 404",
        where="/no/such",
        tried="at attempt 1",
        turns=(DATA,),
    ),
    "an input that nobody serves": Case(
        request=fetching(lambda sides: f"{sides.nobody}/x"),
        state=SYSTEM,
        what="refused",
        where=f"http://{HOST}:",
        tried="after 2 attempts",
        turns=(DATA,),
    ),
    "an output that is refused": Case(
        request=lambda sides: shell(
            "echo x > /out/x", outputs=[{"path": "/out/x", "url": f"{sides.refusing}/x"}]
        ),
        state=SYSTEM,
        what="HTTP 403",
        where="/x",
        tried="at attempt 1",
        turns=(DATA,),
    ),
    "an output that was not written": Case(
        request=lambda sides: shell(
            "true", outputs=[{"path": "/out/x", "url": f"{sides.web}/x"}], volumes=["/out"]
        ),
        state=SYSTEM,
        what="output /out/x",
        turns=(USER,),
    ),
    "a bucket that is not granted": Case(
        request=fetching(lambda _: "s3://other/x"),
        state=SYSTEM,
        what="no storage.s3 of this server serves it",
        where="s3://other/x",
        turns=(USER, "the operator's"),
    ),
    "a disk that is too small": Case(
        request=lambda _: task("true", resources={"disk_gb": 1e9}),
        state=SYSTEM,
        what="GB of disk",
        turns=(NODE,),
    ),
    "a runner that is killed": Case(
        request=lambda _: shell("sleep 300"),
        state=SYSTEM,
        what="died without a report",
        where=f"Pulsar (http://{HOST}:",
        tried="not run again",
        turns=(PULSAR,),
        then=kill_its_runner,
    ),
}


class _Refusing(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def refusing() -> Iterator[str]:
    """Give the URL of a server that takes nothing."""
    with in_thread(_Refusing) as port:
        yield f"http://{HOST}:{port}"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Json]]:
    """All of them, run at once."""
    need("pulsar")
    need("docker")
    directory = tmp_path_factory.mktemp("bad-news") / "run"
    write_secrets(directory / "api", {"s3": [NOBODY]})
    stack = begin_stack(directory, "docker", "rest", **SETTINGS)
    try:
        stack.pulsar.wait_until_up()
        stack.api.wait_until_up()
        with serving() as web, refusing() as no, nobody_listens() as closed:
            sides = Sides(web=web.url, refusing=no, nobody=f"http://{HOST}:{closed}")
            with ThreadPoolExecutor(len(CASES)) as crowd:
                found = crowd.map(lambda case: _run(stack, sides, case), CASES.values())
                yield dict(zip(CASES, found, strict=True))
    finally:
        stack.stop()


def _run(stack: Stack, sides: Sides, case: Case) -> Json:
    task_id = stack.api.post(case.request(sides))
    case.then(stack, task_id)
    return stack.api.wait(task_id, patience_s=120)


def last_lines(ended: Json) -> str:
    """Return what a person reads who reads the end."""
    return "\n".join(ended["logs"][-1]["system_logs"][-3:])


@pytest.mark.parametrize("name", CASES)
def test_the_last_lines_say_what_failed_where_what_was_tried_and_whose_turn_it_is(
    name: str, ended: Mapping[str, Json]
) -> None:
    case, found = CASES[name], ended[name]

    assert found["state"] == case.state, found
    told = last_lines(found)
    for part in (case.what, case.where, case.tried, *case.turns):
        assert part in told, f"{part!r} is not in:\n{told}"
    assert "turn" in found["logs"][-1]["system_logs"][-1], told
    assert found["logs"][-1]["metadata"]["pulsar"], "where it was tried"


# What is waited for, until patience ends


def no_order_for_it() -> Json:
    """Return a task whose order cannot be made without asking the object store."""
    return task("true", inputs=[{"path": "/in/x", "url": "s3://lab/x/", "type": "DIRECTORY"}])


@dataclass(frozen=True, kw_only=True)
class Outage:
    """What is wrong, what is to be told of it, and whose turn it is."""

    settings: Mapping[str, str]
    what: str
    turn: str = PULSAR
    request: Callable[[], Json] = lambda: shell("true")


OUTAGES: Final[Mapping[str, Outage]] = {
    "a wrong token": Outage(
        settings={"TESP_PULSAR__PRIVATE_TOKEN": "wrong"},
        what="refuses our token: check pulsar.private_token",
    ),
    "a manager that is not there": Outage(
        settings={"TESP_PULSAR__MANAGER": "no-such"}, what="answered 500"
    ),
    "a wrong address": Outage(
        settings={"TESP_PULSAR__URL": f"http://{HOST}:9"},
        what=f"http://{HOST}:9 cannot be reached",
    ),
    "an object store that is away": Outage(
        settings={}, what="s3://lab/x/: its S3 does not answer", turn=DATA, request=no_order_for_it
    ),
}


@dataclass(frozen=True)
class GivenUp:
    posted_at: datetime
    ended: Json


@pytest.fixture(scope="module")
def given_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, GivenUp]]:
    """All of them, waited for at once."""
    need("pulsar")
    directory = tmp_path_factory.mktemp("given-up")
    pulsar = LivePulsar(directory / "pulsar")
    pulsar.begin()
    try:
        pulsar.wait_until_up()
        with ThreadPoolExecutor(len(OUTAGES)) as crowd:
            found = crowd.map(
                lambda each: _wait(pulsar, directory / each[0].replace(" ", "-"), each[1]),
                OUTAGES.items(),
            )
            yield dict(zip(OUTAGES, found, strict=True))
    finally:
        pulsar.stop()


def _wait(pulsar: LivePulsar, directory: Path, outage: Outage) -> GivenUp:
    write_secrets(directory, {"s3": [NOBODY]})
    patience = {"TESP_DISPATCH__PATIENCE_S": f"{PATIENCE_S:g}"}
    settings = {**environment("host", pulsar, directory), **patience, **outage.settings}
    api = Api(directory, settings)
    api.start()
    try:
        posted_at = datetime.now(UTC)
        return GivenUp(posted_at, api.run(outage.request(), patience_s=120))
    finally:
        api.stop()


@pytest.mark.parametrize("name", OUTAGES)
def test_what_is_waited_for_is_told_and_since_when_and_in_the_end_whose_turn_it_is(
    name: str, given_up: Mapping[str, GivenUp]
) -> None:
    outage, found = OUTAGES[name], given_up[name]

    assert found.ended["state"] == SYSTEM
    waiting, last = found.ended["logs"][-1]["system_logs"]
    assert "Waiting: " in waiting
    assert outage.what in waiting
    since = datetime.fromisoformat(re.findall(r"20\d\d-\S+\+00:00", waiting)[0])
    assert abs(since - found.posted_at) < BEGAN_WITHIN, "when it began, not when it was told"
    assert re.search(r"Given up after \d+ s", last)
    assert outage.what in last
    assert outage.turn in last
