"""The Python libraries that other programs reach TES by, against a live server."""

import json
import os
import subprocess
from pathlib import Path
from typing import Final
from uuid import uuid4

import pydantictes.models as pydantic_tes
import pytest
import tes
from pydantictes.api import TesClient

from tests.e2e.stack import IMAGE, Stack, shell
from tests.needs import need

SCRIPT: Final = Path(__file__).with_name("py_tes_0_4.py")


def echo(text: str) -> tes.Executor:
    return tes.Executor(image=IMAGE, command=["echo", text])


@pytest.mark.parametrize("path", ["", "/", "/ga4gh/tes/v1", "/ga4gh/tes/v1/", "/v1", "/v1/"])
def test_py_tes_creates_waits_and_reads_by_any_address_of_the_server(
    quick: Stack, path: str
) -> None:
    client = tes.HTTPClient(quick.api.base + path, timeout=30)

    task_id = client.create_task(tes.Task(name="py-tes", executors=[echo("hello")]))
    ended = client.wait(task_id, timeout=60)

    assert ended.state == "COMPLETE"
    full = client.get_task(task_id, "FULL")
    assert full.logs[0].logs[0].stdout == "hello\n"
    assert full.logs[0].logs[0].exit_code == 0
    assert client.get_service_info().type["artifact"] == "tes"


def test_py_tes_reads_every_field_back_as_it_was_sent(quick: Stack) -> None:
    client = tes.HTTPClient(quick.api.base, timeout=30)
    output = str(quick.files / f"{uuid4().hex}.txt")
    sent = tes.Task(
        name="all fields",
        description="of py-tes",
        executors=[echo("hello"), echo("again")],
        inputs=[tes.Input(path="/in/text", content="text", type="FILE", streamable=True)],
        outputs=[tes.Output(path="/in/text", url=output, type="FILE", name="text")],
        resources=tes.Resources(cpu_cores=1, ram_gb=0.5, disk_gb=1, preemptible=False),
        volumes=["/vol"],
        tags={"key": "value"},
    )
    sent.executors[0].env = {"NAME": "value"}
    sent.executors[0].workdir = "/in"
    sent.executors[0].ignore_error = True

    task_id = client.create_task(sent)
    client.wait(task_id, timeout=60)
    full = client.get_task(task_id, "FULL")

    for field in ("name", "description", "executors", "inputs", "outputs", "resources", "tags"):
        assert getattr(full, field) == getattr(sent, field)
    assert full.state == "COMPLETE", full.logs
    assert full.logs[0].outputs[0].size_bytes in {4, "4"}
    assert Path(output).read_text() == "text"


def test_py_tes_lists_in_pages_and_cancels(quick: Stack) -> None:
    client = tes.HTTPClient(quick.api.base, timeout=30)
    ids = [
        client.create_task(
            tes.Task(executors=[tes.Executor(image=IMAGE, command=["sleep", "300"])])
        )
        for _ in range(3)
    ]
    for task_id in ids:
        client.cancel_task(task_id)

    first = client.list_tasks(page_size=2, view="FULL")
    second = client.list_tasks(page_size=1, page_token=first.next_page_token)

    assert [task.id for task in (*first.tasks, *second.tasks)] == ids[::-1]
    for task_id in ids:
        assert quick.api.wait(task_id)["state"] == "CANCELED"
        client.cancel_task(task_id)


def test_py_tes_is_told_of_an_unknown_task(quick: Stack) -> None:
    client = tes.HTTPClient(quick.api.base, timeout=30)

    with pytest.raises(Exception, match="404"):
        client.get_task("unknown")


def test_py_tes_0_4_does_all_that_it_can(quick: Stack) -> None:
    need("py-tes-0.4")
    quick.api.run(shell("exit 3", inputs=[{"path": "/in/x", "content": "x", "streamable": False}]))
    command = (os.environ["TESP_TEST_PY_TES_0_4"], str(SCRIPT), quick.api.base)

    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    learnt = json.loads(done.stdout)
    assert (learnt["state"], learnt["stdout"], learnt["exit_code"]) == ("COMPLETE", "hello\n", 0)
    assert learnt["canceled"] == "CANCELED"
    assert learnt["basic"] == {"a": "b"}
    assert [*learnt["listed"], *learnt["next"]] == learnt["ids"]
    assert learnt["doc"]


def test_pydantic_tes_posts_its_nulls_and_reads_every_kind_of_answer(quick: Stack) -> None:
    client = TesClient(quick.api.base)
    executor = pydantic_tes.TesExecutor(image=IMAGE, command=["echo", "hello"])
    posted = pydantic_tes.TesTask(name="pydantic", executors=[executor], volumes=["/vol/"])
    assert "null" in posted.model_dump_json()

    created = client.create_task(posted)

    quick.api.wait(created.id)
    full = client.get_task(created, "FULL")
    assert full.state is pydantic_tes.TesState.COMPLETE
    assert full.logs is not None
    assert full.logs[0].logs[0].exit_code == 0
    assert pydantic_tes.TesTask(**quick.api.get(created.id, "BASIC")).logs
    assert client.service_info().storage
    client.cancel_task(created)
    assert client.get_task(created, "FULL").state is pydantic_tes.TesState.COMPLETE


def test_pydantic_tes_reads_failed_and_canceled_tasks(quick: Stack) -> None:
    failed = quick.api.run(shell("exit 3"))
    broken = quick.api.run(shell("true", inputs=[{"path": "/in/x", "url": "s3://bucket/x"}]))
    running = quick.api.post(shell("sleep 300"))
    quick.api.wait(running, frozenset({"RUNNING"}))
    quick.api.cancel(running)
    canceled = quick.api.wait(running)

    states = [pydantic_tes.TesTask(**task).state for task in (failed, broken, canceled)]

    assert [state.value for state in states if state] == [
        "EXECUTOR_ERROR",
        "SYSTEM_ERROR",
        "CANCELED",
    ]
