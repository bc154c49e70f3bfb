"""A cancel ends everything of a task, also when it comes at once; proven again 15 seconds later."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.conftest import Stacks
from tests.e2e.stack import COMPONENT, WAYS, Api, Stack, environment, shell, task
from tests.e2e.web import Web
from tests.needs import missing, need
from tests.pulsars import until

LATER_S: Final = 15.0
DELAYS_MS: Final = (0, 10, 20, 30, 50, 70, 100)
"""Into the claim, the upload, the submit, and the job's start."""
RUNNING: Final = "while it runs"
MOMENTS: Final = (*(f"{delay} ms after the submit" for delay in DELAYS_MS), RUNNING)


@dataclass(frozen=True, slots=True)
class Canceled:
    """A task whose cancel was answered."""

    stack: Stack
    id: str


@pytest.fixture(scope="module")
def canceled(stacks: Stacks, web: Web) -> Mapping[tuple[str, str], Canceled]:
    """Cancel in all engines and ways, so that all tests share one wait."""
    here = [stacks(*way) for way in WAYS if _lacking(*way) is None]
    found: dict[tuple[str, str], Canceled] = {}
    for stack in here:
        for delay, moment in zip(DELAYS_MS, MOMENTS, strict=False):
            early = stack.api.post(task("sleep", "300"))
            time.sleep(delay / 1000)
            assert stack.api.cancel(early).status_code == 200
            found[stack.name, moment] = Canceled(stack, early)
    for stack in here:
        url = web.offer(f"/canceled/{stack.name}", b"")
        running = stack.api.post(
            shell("sleep 300 & sleep 300", inputs=[{"path": "/in/mark", "url": url}])
        )
        stack.api.wait(running, {"RUNNING"})
        until(lambda: _executes(stack, running), 30, lambda: "its executor does not start")  # noqa: B023
        assert stack.api.cancel(running).status_code == 200
        found[stack.name, RUNNING] = Canceled(stack, running)
    return found


def _lacking(engine: str, transport: str) -> str | None:
    broker = missing("rabbitmq") if transport == "amqp" else None
    return missing(COMPONENT.get(engine, engine)) or broker


def _executes(stack: Stack, task_id: str) -> bool:
    journals = stack.pulsar.staging.glob(f"*{task_id}*/outputs/tes_journal")
    return any("executor_start" in journal.read_text() for journal in journals)


@pytest.fixture(scope="module")
def later(canceled: Mapping[tuple[str, str], Canceled]) -> list[str]:
    """What was seen of any of them from the moment all were CANCELED and clean to 15 s later."""
    for one in canceled.values():
        one.stack.api.wait(one.id, {"CANCELED"})
    since = time.monotonic()
    by_way: dict[str, tuple[Stack, list[str]]] = {}
    for one in canceled.values():
        by_way.setdefault(one.stack.name, (one.stack, []))[1].append(one.id)
    for stack, ids in by_way.values():
        stack.wait_until_nothing_is_left(*ids)
    seen: list[str] = []
    while time.monotonic() - since < LATER_S:
        time.sleep(1)
        for stack, ids in by_way.values():
            seen += stack.left_of(*ids)
    return seen


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_nothing_is_left_of_a_task_nor_comes_later_when_it_is_canceled(
    way: tuple[str, str],
    moment: str,
    canceled: Mapping[tuple[str, str], Canceled],
    later: list[str],
) -> None:
    engine, transport = way
    need(COMPONENT.get(engine, engine))
    if transport == "amqp":
        need("rabbitmq")
    one = canceled["-".join(way), moment]

    assert [trace for trace in later if one.id in trace] == []
    assert one.stack.left_of(one.id) == []
    assert one.stack.api.get(one.id)["state"] == "CANCELED"


def test_a_cancel_is_seen_at_once(quick: Stack) -> None:
    task_id = quick.api.post(task("sleep", "300"))
    quick.api.wait(task_id, {"RUNNING"})

    answer = quick.api.cancel(task_id)

    assert (answer.status_code, answer.json()) == (200, {})
    assert quick.api.state(task_id) in {"CANCELING", "CANCELED"}
    quick.api.wait(task_id, {"CANCELED"})


def test_a_finished_task_stays_as_it_is_when_it_is_canceled(quick: Stack) -> None:
    before = quick.api.run(task("true"))

    answer = quick.api.cancel(before["id"])

    assert (answer.status_code, answer.json()) == (200, {})
    assert quick.api.get(before["id"]) == before


def test_a_queued_task_is_canceled_without_ever_running(
    quick: Stack, web: Web, tmp_path: Path
) -> None:
    settings = environment(quick.engine, quick.pulsar, quick.files)
    api = Api(tmp_path / "one at a time", {**settings, "TESP_PULSAR__MAX_JOBS": "1"})
    api.start()
    try:
        first = api.post(task("sleep", "300"))
        api.wait(first, {"RUNNING"})
        url = web.offer("/never-fetched", b"")
        second = api.post(task("true", inputs=[{"path": "/in/x", "url": url}]))
        assert api.state(second) == "QUEUED"

        api.cancel(second)

        assert api.state(second) == "CANCELED"
        api.cancel(first)
        api.wait(first, {"CANCELED"})
        assert api.state(second) == "CANCELED"
        assert web.count("GET", "/never-fetched") == 0
        quick.wait_until_nothing_is_left(first, second)
    finally:
        api.stop()
