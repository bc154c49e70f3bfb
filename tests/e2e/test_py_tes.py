"""The GA4GH flow by the real client, py-tes; and a crowd of them at once."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tes

from tests.e2e.stack import IMAGE, Api, Stack, environment
from tests.pulsars import until

CLIENTS = 16
CROWD = 500


def client_of(api: Api) -> tes.HTTPClient:
    return tes.HTTPClient(api.base, timeout=30)


def task_of(*command: str) -> tes.Task:
    return tes.Task(name="py-tes", executors=[tes.Executor(image=IMAGE, command=list(command))])


def test_create_wait_get_and_list_by_py_tes(quick: Stack) -> None:
    client = client_of(quick.api)

    task_id = client.create_task(task_of("echo", "hello"))
    client.wait(task_id, timeout=60)

    ended = client.get_task(task_id, "FULL")
    assert ended.state == "COMPLETE"
    assert ended.logs[0].logs[0].stdout == "hello\n"
    assert ended.logs[0].logs[0].exit_code == 0
    assert task_id in {task.id for task in client.list_tasks(page_size=50).tasks}
    assert client.get_service_info().name == "TESP API"


def test_cancel_by_py_tes(quick: Stack) -> None:
    client = client_of(quick.api)
    task_id = client.create_task(task_of("sleep", "300"))
    until(lambda: client.get_task(task_id, "MINIMAL").state == "RUNNING", 30, lambda: "not running")

    client.cancel_task(task_id)

    until(
        lambda: client.get_task(task_id, "MINIMAL").state == "CANCELED", 30, lambda: "not canceled"
    )
    quick.wait_until_nothing_is_left(task_id)


@pytest.mark.slow
def test_500_tasks_of_16_clients_at_once_are_all_complete_and_leave_nothing(
    quick: Stack, tmp_path: Path
) -> None:
    settings = environment(quick.engine, quick.pulsar, quick.files)
    api = Api(tmp_path / "crowd", {**settings, "TESP_PULSAR__MAX_JOBS": "8"})
    api.start()
    try:
        begun = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as crowd:
            ids = list(
                crowd.map(lambda _: client_of(api).create_task(task_of("true")), range(CROWD))
            )
        print(f"posted after {time.monotonic() - begun:.1f} s")
        assert len(set(ids)) == CROWD
        until(lambda: not unfinished(api), 300, lambda: str(unfinished(api)), pause_s=1)
        print(f"ended after {time.monotonic() - begun:.1f} s")
        assert Counter(api.state(one) for one in ids) == {"COMPLETE": CROWD}
        until(lambda: not quick.pulsar.directories("tes-"), 30, lambda: "directories are left")
    finally:
        api.stop()


def unfinished(api: Api) -> list[str]:
    """Name some of the tasks that have not ended."""
    states = ("QUEUED", "INITIALIZING", "RUNNING")
    return [
        task["id"] for state in states for task in api.list(state=state, page_size="5")["tasks"]
    ]
