"""Processes die while a task is under way: it runs once, is COMPLETE, and leaves nothing.

The ledger is a web server of the test: the runner fetches the task's input once when it begins, and
sends its output once when it ends.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import uuid4

import pymongo
import pytest

from tests.e2e.stack import COMPONENT, Json, Stack, begin_stack, shell
from tests.e2e.web import Web, serving
from tests.needs import missing, need
from tests.pulsars import until

SECONDS: Final = 3
SOON: Final = {"TESP_DISPATCH__LEASE_S": "3", "TESP_PULSAR__CLIENT_TIMEOUT": "4"}
"""What an interrupted call was about is removed after the sum of both."""
PULSE: Final = {"TESP_DISPATCH__HEARTBEAT_S": "1", "TESP_DISPATCH__SILENCE_S": "30"}


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@contextmanager
def running(directory: Path, engine: str, **settings: str) -> Iterator[Stack]:
    need("pulsar")
    need(COMPONENT.get(engine, engine))
    stack = begin_stack(directory, engine, **{**SOON, **settings})
    try:
        stack.pulsar.wait_until_up()
        stack.api.wait_until_up()
        yield stack
    finally:
        stack.stop()


def quickest() -> str:
    return "host" if missing("userns") is None else "docker"


def ledger_task(web: Web, name: str, seconds: float = SECONDS) -> Json:
    url = web.offer(f"/{name}", b"")
    return shell(
        f"echo begun; sleep {seconds}; echo done | tee /data/mark",
        inputs=[{"path": "/data/mark", "url": url}],
        outputs=[{"path": "/data/mark", "url": url}],
    )


def executes(stack: Stack, task_id: str) -> bool:
    journals = stack.pulsar.staging.glob(f"*{task_id}*/outputs/tes_journal")
    return any("executor_start" in journal.read_text() for journal in journals)


def post_and_see_it_run(stack: Stack, task: Json) -> str:
    task_id = stack.api.post(task)
    until(lambda: executes(stack, task_id), 30, lambda: f"not executed:\n{stack.api.tail()}")
    return task_id


def check_it_ran_once(stack: Stack, web: Web, task_id: str, name: str) -> None:
    ended = stack.api.wait(task_id)
    assert ended["state"] == "COMPLETE", ended
    (attempt,) = ended["logs"]
    (executor,) = attempt["logs"]
    assert (executor["exit_code"], executor["stdout"]) == (0, "begun\ndone\n")
    assert [output["size_bytes"] for output in attempt["outputs"]] == ["5"]
    assert (web.count("GET", f"/{name}"), web.count("PUT", f"/{name}")) == (1, 1)
    stack.wait_until_nothing_is_left(task_id, patience_s=40)


@pytest.mark.parametrize("engine", ["docker", "host"])
def test_a_task_survives_kill_9_of_the_api(engine: str, web: Web, tmp_path: Path) -> None:
    with running(tmp_path, engine) as stack:
        during = post_and_see_it_run(stack, ledger_task(web, "during"))
        stack.api.kill()
        stack.api.start()
        early = stack.api.post(ledger_task(web, "early", 0))
        stack.api.kill()
        time.sleep(SECONDS)  # the first one ends while nobody looks
        stack.api.start()

        check_it_ran_once(stack, web, during, "during")
        check_it_ran_once(stack, web, early, "early")


@pytest.fixture
def database() -> Iterator[str]:
    need("mongodb")
    uri = f"{os.environ['TESP_TEST_MONGODB_URI'].rstrip('/')}/tesp_test_{uuid4().hex[:16]}"
    yield uri
    with pymongo.MongoClient(uri) as client:
        client.drop_database(client.get_default_database().name)


def test_a_task_survives_kill_9_of_the_api_over_mongodb(
    database: str, web: Web, tmp_path: Path
) -> None:
    with running(
        tmp_path, quickest(), TESP_DB__SQLITE_PATH="", TESP_DB__MONGODB_URI=database
    ) as stack:
        task_id = post_and_see_it_run(stack, ledger_task(web, "mongodb"))
        stack.api.kill()
        stack.api.start()

        check_it_ran_once(stack, web, task_id, "mongodb")


def test_sigterm_ends_the_api_within_10_s_and_the_next_start_completes_the_task(
    web: Web, tmp_path: Path
) -> None:
    with running(tmp_path, quickest()) as stack:
        task_id = post_and_see_it_run(stack, ledger_task(web, "sigterm"))

        status, took_s = stack.api.terminate()

        assert status in {0, -signal.SIGTERM}
        assert took_s < 10
        stack.api.start()
        check_it_ran_once(stack, web, task_id, "sigterm")


def test_a_task_survives_kill_9_of_pulsar_that_says_running_for_ever_after_it(
    web: Web, tmp_path: Path
) -> None:
    with running(tmp_path, quickest(), **PULSE) as stack:
        task_id = post_and_see_it_run(stack, ledger_task(web, "pulsar"))
        stack.api.wait(task_id, {"RUNNING"})
        stack.pulsar.kill()
        stack.pulsar.begin()
        stack.pulsar.wait_until_up()

        check_it_ran_once(stack, web, task_id, "pulsar")


def test_a_job_that_dies_with_pulsar_ends_the_task_with_the_reason_and_is_not_run_again(
    web: Web, tmp_path: Path
) -> None:
    silence = {"TESP_DISPATCH__HEARTBEAT_S": "1", "TESP_DISPATCH__SILENCE_S": "3"}
    with running(tmp_path, quickest(), **silence) as stack:
        task_id = post_and_see_it_run(stack, ledger_task(web, "died", 300))
        stack.api.wait(task_id, {"RUNNING"})
        stack.pulsar.kill(jobs=True)
        stack.pulsar.begin()
        stack.pulsar.wait_until_up()

        ended = stack.api.wait(task_id)

        assert ended["state"] == "SYSTEM_ERROR", ended
        assert any("died without a report" in line for line in ended["logs"][0]["system_logs"])
        assert (web.count("GET", "/died"), web.count("PUT", "/died")) == (1, 0)
        stack.wait_until_nothing_is_left(task_id, patience_s=40)


def test_a_pulsar_that_stalls_during_a_start_runs_the_task_once(web: Web, tmp_path: Path) -> None:
    """What a stalled server has in its backlog comes all at once when it goes on."""
    with running(tmp_path, quickest(), TESP_PULSAR__CLIENT_TIMEOUT="1") as stack:
        names = [f"stalled-{number}" for number in range(6)]
        stack.api.run(shell("true"))
        ids = []
        for name in names:
            ids.append(stack.api.post(ledger_task(web, name, 0)))
            time.sleep(0.02)
        (worker,) = stack.pulsar.workers()
        os.kill(worker, signal.SIGSTOP)
        try:
            time.sleep(3)
        finally:
            os.kill(worker, signal.SIGCONT)

        for task_id, name in zip(ids, names, strict=True):
            check_it_ran_once(stack, web, task_id, name)
