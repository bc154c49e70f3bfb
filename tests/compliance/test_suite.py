"""What the official compliance suite of GA4GH asserts, one test for each of its 23, named like it.

Each answer is held against the standard's document besides (see conftest).
"""

from email.utils import parseaddr
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.compliance.conftest import Tes
from tests.e2e.stack import Json

ENDS_OF_THE_SUITE = frozenset({"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "PREEMPTED"})
BUCKET = "s3://my-object-store"


def comp_test(*commands: list[str], **more: Any) -> Json:
    executors = [
        {"image": "alpine", "command": command} for command in commands or (["echo", "hello"],)
    ]
    return {"name": "CompTest", "description": "CompTest", "executors": executors, **more}


def test_service_info(tes: Tes) -> None:
    info = tes.service_info()

    assert info["id"]
    assert info["name"]
    assert info["version"]
    assert info["type"]["artifact"] == "tes"
    assert info["organization"]["name"]
    assert urlsplit(info["organization"]["url"]).scheme in {"http", "https"}
    contact = urlsplit(info.get("contactUrl", "https://example.org"))
    assert contact.scheme in {"http", "https"} or "@" in parseaddr(contact.path)[1]
    assert None not in info.values()
    assert "" not in info.values()


def test_create_task(tes: Tes) -> None:
    assert tes.create(comp_test())


def test_create_task_inputs(tes: Tes) -> None:
    item = {"url": f"{BUCKET}/file-1", "path": "/data/file1", "type": "FILE"}

    assert tes.create(comp_test(inputs=[item]))


def test_create_task_outputs(tes: Tes) -> None:
    item = {"url": f"{BUCKET}/outfile-1", "path": "/data/outfile", "type": "FILE"}

    assert tes.create(comp_test(outputs=[item]))


def test_create_task_optional_filetype(tes: Tes) -> None:
    inputs = [{"url": f"{BUCKET}/file-1", "path": "/data/file1"}]
    outputs = [{"url": f"{BUCKET}/outfile-1", "path": "/data/outfile"}]

    assert tes.create(comp_test(inputs=inputs, outputs=outputs))


def test_create_task_streamable(tes: Tes) -> None:
    item = {"url": f"{BUCKET}/file-1", "path": "/data/file1", "streamable": True}

    assert tes.create(comp_test(inputs=[item]))


def test_create_task_backend_parameters(tes: Tes) -> None:
    parameters = {"VmSize": "Standard_D64_v3", "Caching": "ReadWrite"}
    resources = {"backend_parameters": parameters, "backend_parameters_strict": False}

    assert tes.create(comp_test(resources=resources))


def test_create_task_backend_parameters_negative(tes: Tes) -> None:
    resources = {"backend_parameters": {"INVALID": "X"}, "backend_parameters_strict": True}

    assert tes.refused(comp_test(resources=resources)) == 400


def test_create_task_functional(running_tes: Tes) -> None:
    ended = running_tes.wait(running_tes.create(comp_test()), view="FULL")

    assert ended["state"] == "COMPLETE", ended
    assert ended["state"] in ENDS_OF_THE_SUITE
    assert ended["logs"][0]["logs"][0]["stdout"] == "hello\n"


@pytest.mark.parametrize(("ignored", "executors_run"), [(False, 1), (True, 2)])
def test_create_task_ignore_error(running_tes: Tes, ignored: bool, executors_run: int) -> None:
    task = comp_test(["ERROR"], ["echo", "hello"])
    task["executors"][0]["ignore_error"] = ignored

    ended = running_tes.wait(running_tes.create(task), view="FULL")

    assert ended["state"] in ENDS_OF_THE_SUITE
    assert len(ended["logs"][0]["logs"]) == executors_run


def test_cancel_task(tes: Tes) -> None:
    assert tes.cancel(tes.create(comp_test())) == {}


def test_cancel_task_functional(running_tes: Tes) -> None:
    task_id = running_tes.create(comp_test())

    running_tes.cancel(task_id)

    running_tes.wait(task_id, frozenset({"CANCELED", "CANCELING"}))
    assert running_tes.wait(task_id)["state"] == "CANCELED"


def test_get_task_minimal(tes: Tes) -> None:
    task_id = tes.create(comp_test())

    minimal = tes.get(task_id, "MINIMAL")

    assert minimal.keys() == {"id", "state"}
    assert minimal["id"] == task_id


@pytest.mark.parametrize("view", ["BASIC", "FULL"])
def test_get_task_basic_and_full(tes: Tes, view: str) -> None:
    task_id = tes.create(comp_test())

    shown = tes.get(task_id, view)

    assert shown["id"] == task_id
    assert shown["executors"] == [{"image": "alpine", "command": ["echo", "hello"]}]


def test_list_tasks_minimal(tes: Tes) -> None:
    tes.create(comp_test())

    assert all(task.keys() == {"id", "state"} for task in tes.list(view="MINIMAL")["tasks"])


@pytest.mark.parametrize("view", ["BASIC", "FULL"])
def test_list_tasks_basic_and_full(tes: Tes, view: str) -> None:
    tes.create(comp_test())

    listed = tes.list(view=view)["tasks"]

    assert listed
    assert all(task["executors"] for task in listed)


def test_list_tasks_page_size(tes: Tes) -> None:
    for _ in range(2):
        tes.create(comp_test())

    assert len(tes.list(page_size=1)["tasks"]) == 1
    assert len(tes.list(page_size=2)["tasks"]) == 2


def test_list_tasks_page_token(tes: Tes) -> None:
    earlier, later = (tes.create(comp_test()) for _ in range(2))

    first = tes.list(page_size=1)
    second = tes.list(page_size=1, page_token=first["next_page_token"])

    assert [task["id"] for task in first["tasks"]] == [later]
    assert [task["id"] for task in second["tasks"]] == [earlier]


def test_filter_task_by_name(tes: Tes) -> None:
    run = uuid4().hex
    names = [f"{run}-e70dda48-ComplianceTest", f"{run}-b51f4c41-ComplianceTest"]
    for name in (*names, f"ComplianceTest-{run}"):
        tes.create({**comp_test(), "name": name})

    def named(prefix: str) -> list[str]:
        return [task["name"] for task in tes.list(view="BASIC", name_prefix=prefix)["tasks"]]

    assert named(names[0]) == [names[0]]
    assert named(f"{run}-b51f") == [names[1]]
    assert named("f9327c19") == []
    assert named(f"{run[1:]}-e70dda48") == []


def test_filter_task_by_state(running_tes: Tes) -> None:
    running_tes.wait(running_tes.create(comp_test()))

    listed = running_tes.list(state="COMPLETE", view="BASIC")["tasks"]

    assert {task["state"] for task in listed} == {"COMPLETE"}


def test_filter_task_by_tag(tes: Tes) -> None:
    run = uuid4().hex
    tags = {"custom_id": run, "project": "tes-compliance", "use-case": "GWAS", "env": ""}
    tes.create(comp_test(tags=tags))

    def tagged(*pairs: tuple[str, str], values: int | None = None) -> list[Json]:
        keys, all_values = zip(*pairs, strict=True)
        query = {"tag_key": list(keys), "tag_value": list(all_values[:values])}
        return [task["tags"] for task in tes.list(view="BASIC", **query)["tasks"]]

    others = [pair for pair in tags.items() if pair[0] != "custom_id"]
    mine = ("custom_id", run)
    assert tagged(*reversed(others), mine) == [tags]
    assert tagged(mine, *others[:2], values=2) == [tags]
    assert tagged(mine, *others, ("extra", "x")) == []
    assert tagged(mine, ("project", "another")) == []
    assert tagged(mine, ("env", "")) == [tags]
    assert tagged(mine, ("undefined", "")) == []


@pytest.mark.parametrize("url", [f"{BUCKET}/file-1", "gs://bucket/x"])
def test_a_task_with_storage_that_the_server_has_not_ends_with_a_sentence(
    running_tes: Tes, url: str
) -> None:
    task = comp_test(inputs=[{"url": url, "path": "/data/file1"}])

    ended = running_tes.wait(running_tes.create(task), view="FULL")

    assert ended["state"] == "SYSTEM_ERROR", ended
    (attempt,) = ended["logs"]
    assert any("no storage.s3 of this server serves it" in line for line in attempt["system_logs"])
    assert attempt["logs"] == []
