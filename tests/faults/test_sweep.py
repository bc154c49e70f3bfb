"""What servers leave behind when they die is removed by the next one, or by a peer; exactly that.

Beside it lie things of others, which look much alike: they are there afterwards.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from tests.e2e.stack import (
    IMAGE,
    Api,
    Stack,
    begin_stack,
    containers_of,
    environment,
    fastest,
    shell,
)
from tests.faults.ground import database
from tests.needs import need
from tests.pulsars import processes_of, until

pytestmark = pytest.mark.faults
SOON: Final = {
    "TESP_DISPATCH__LEASE_S": "3",
    "TESP_PULSAR__CLIENT_TIMEOUT": "3",
    "TESP_RETENTION__SWEEP_S": "2",
}
SWEPT_S: Final = 25.0
"""What interrupted calls were about is removed after the sum of both, by one of the sweeps."""
DAYS: Final = {"TESP_RETENTION__DAYS": f"{3 / 86400:.9f}"}


@contextmanager
def running(
    directory: Path, engine: str = "", transport: str = "rest", **settings: str
) -> Iterator[Stack]:
    need("pulsar")
    stack = begin_stack(directory, engine or fastest(), transport, **{**SOON, **settings})
    try:
        stack.pulsar.wait_until_up()
        stack.api.wait_until_up()
        yield stack
    finally:
        stack.stop()


def executes(stack: Stack, task_id: str) -> bool:
    journals = stack.pulsar.staging.glob(f"*{task_id}*/outputs/tes_journal")
    return any("executor_start" in journal.read_text() for journal in journals)


def left_behind(stack: Stack) -> str:
    """Return a task that has ended and is kept, but whose job is still there: a call was unsure."""
    task_id = stack.api.post(shell("sleep 3"))
    until(lambda: executes(stack, task_id), 60, stack.api.tail)
    stack.api.kill()
    stack.api.start()
    stack.api.wait(task_id, {"COMPLETE"})
    stack.api.kill()
    assert stack.pulsar.directories(task_id), "it was too fast"
    return task_id


@contextmanager
def strangers_at(stack: Stack) -> Iterator[list[Path]]:
    """Put directories beside ours: a job of another server, and what is none of ours at all."""
    names = [f"tes-{uuid4().hex[:24]}-0", "somebody-elses-job", "tes-notes"]
    made = [stack.pulsar.staging / name for name in names]
    for directory in made:
        (directory / "outputs").mkdir(parents=True)
        (directory / "outputs" / "result").write_text("precious\n")
    yield made
    for directory in made:
        assert (directory / "outputs" / "result").read_text() == "precious\n"


@pytest.mark.parametrize("transport", ["rest", "amqp"])
def test_the_first_sweep_removes_what_a_dead_server_left_at_pulsar_and_nothing_else(
    transport: str, tmp_path: Path
) -> None:
    if transport == "amqp":
        need("rabbitmq")
    with running(tmp_path, transport=transport) as stack, strangers_at(stack):
        task_id = left_behind(stack)

        stack.api.start()

        stack.wait_until_nothing_is_left(task_id, patience_s=SWEPT_S)


def test_a_peer_s_sweep_removes_what_a_dead_server_left_at_pulsar(tmp_path: Path) -> None:
    with database() as settings, running(tmp_path / "one", **settings) as stack:
        own = environment(stack.engine, stack.pulsar, stack.files)
        peer = Api(tmp_path / "peer", {**own, **SOON, **settings})
        with strangers_at(stack):
            task_id = left_behind(stack)
            peer.start()
            try:
                stack_of_peer = Stack(
                    engine=stack.engine,
                    transport=stack.transport,
                    pulsar=stack.pulsar,
                    api=peer,
                    files=stack.files,
                )
                stack_of_peer.wait_until_nothing_is_left(task_id, patience_s=SWEPT_S)
            finally:
                peer.stop()


@pytest.fixture
def stranger() -> Iterator[str]:
    """A container with labels like ours, of another instance."""
    need("docker")
    name = f"tesp-{uuid4().hex[:10]}-{uuid4().hex[:24]}-0"
    labels = [f"--label=tesp.{label}=x" for label in ("instance", "task", "job")]
    run = ["docker", "run", "--detach", "--rm", "--name", name, *labels, IMAGE, "sleep", "300"]
    subprocess.run(run, check=True, capture_output=True)
    yield name
    subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)


def test_a_container_that_lost_its_runner_and_watchdog_is_removed_and_a_stranger_s_is_not(
    stranger: str, tmp_path: Path
) -> None:
    with running(tmp_path, "docker") as stack:
        task_id = stack.api.post(shell("sleep 300"))
        until(lambda: executes(stack, task_id), 60, stack.api.tail)
        until(lambda: bool(containers_of(task_id)), 30, stack.api.tail)
        stack.api.kill()
        all_of_it = [int(one.partition(":")[0]) for one in processes_of(task_id)]
        for number in (signal.SIGSTOP, signal.SIGKILL):  # none sees another die
            for pid in all_of_it:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        time.sleep(1)
        assert containers_of(task_id), "nobody is there to remove it"

        stack.api.start()

        ended = stack.api.wait(task_id, patience_s=90)
        assert ended["state"] == "SYSTEM_ERROR"
        stack.wait_until_nothing_is_left(task_id, patience_s=60)
        assert containers_of(stranger), "it is not ours"


@pytest.mark.parametrize("store", ["sqlite", "mongodb"])
def test_ended_tasks_go_after_their_days_and_others_stay(store: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as exits:
        settings = exits.enter_context(database()) if store == "mongodb" else {}
        stack = exits.enter_context(running(tmp_path, **{**settings, **DAYS}))
        lasting = stack.api.post(shell("sleep 300"))
        short = [stack.api.post(shell("true")) for _ in range(3)]

        until(lambda: gone(stack, *short), 40, stack.api.tail)

        assert stack.api.state(lasting) == "RUNNING"
        assert [one["id"] for one in stack.api.list()["tasks"]] == [lasting]
        stack.api.cancel(lasting)
        until(lambda: gone(stack, lasting), 40, stack.api.tail)
        assert stack.left_of(lasting, *short) == []


def gone(stack: Stack, *ids: str) -> bool:
    listed = {one["id"] for one in stack.api.list()["tasks"]}
    return not listed & set(ids)


def test_without_days_ended_tasks_stay(tmp_path: Path) -> None:
    with running(tmp_path) as stack:
        task_id = stack.api.run(shell("true"))["id"]
        time.sleep(5)
        assert stack.api.state(task_id) == "COMPLETE"
