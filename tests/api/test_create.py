"""POST /tasks: what is accepted, kept, given back and refused."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.api.conftest import Client, MakeClient, create, fetch, minimal_task
from tests.api.memory import Listener

EVERYTHING: dict[str, Any] = {
    "name": "everything",
    "description": "all that TES 1.1 knows",
    "inputs": [
        {
            "name": "a",
            "description": "b",
            "url": "http://example.org/file",
            "path": "/data/file",
            "type": "FILE",
            "streamable": True,
        },
        {"content": "text\n\u00e9", "path": "/data/script", "type": "FILE"},
    ],
    "outputs": [
        {
            "name": "c",
            "description": "d",
            "url": "http://example.org/out/",
            "path": "/out/*.txt",
            "path_prefix": "/out",
            "type": "FILE",
        }
    ],
    "resources": {
        "cpu_cores": 4,
        "preemptible": False,
        "ram_gb": 0.067,
        "disk_gb": 40.0,
        "zones": ["eu-west-1"],
        "backend_parameters": {"VmSize": "large"},
        "backend_parameters_strict": True,
    },
    "executors": [
        {
            "image": "quay.io/team/tool:1.0@sha256:" + "a" * 64,
            "command": ["sh", "-c", "echo $HOME; exit 1", "", "a b\nc"],
            "workdir": "/data/",
            "stdin": "/data/file",
            "stdout": "/tmp/out",
            "stderr": "/tmp/err",
            "env": {"A.B": "c=d"},
            "ignore_error": True,
        }
    ],
    "volumes": ["/vol/A/"],
    "tags": {"WORKFLOW": "x", "$odd.key": ""},
}


async def test_every_field_of_1_1_is_kept_and_given_back(tes: Client) -> None:
    given = await fetch(tes, await create(tes, **EVERYTHING))
    own = {"id", "state", "creation_time"}
    assert {key: value for key, value in given.items() if key not in own} == EVERYTHING
    assert given["state"] == "QUEUED"
    assert given["creation_time"] == "2026-11-22T12:00:00.000Z"


async def test_the_dispatcher_is_told_of_a_new_task(tes: Client, listener: Listener) -> None:
    await create(tes)
    assert listener.news == 1


async def test_10_3_nulls_are_taken_for_absent_and_server_fields_are_ignored(tes: Client) -> None:
    body = {
        "id": None, "state": None, "name": None, "inputs": None, "outputs": None, "logs": None,
        "creation_time": None, "volumes": None, "tags": {"kept": "x", "dropped": None},
        "resources": {"cpu_cores": None, "zones": None, "backend_parameters": None},
        "executors": [
            {
                "image": "alpine", "command": ["true"], "stdin": None, "stdout": None,
                "env": {"A": None, "B": "c"}, "workdir": None, "ignore_error": None,
            }
        ],
    }  # fmt: skip
    given = await fetch(tes, await create(tes, **body))
    assert given["executors"] == [{"image": "alpine", "command": ["true"], "env": {"B": "c"}}]
    assert given["tags"] == {"kept": "x"}
    assert "logs" not in given
    assert "inputs" not in given


async def test_10_3_server_fields_with_values_are_ignored(tes: Client) -> None:
    task_id = await create(tes, id="mine", state="COMPLETE", logs=[{}], creation_time="yesterday")
    given = await fetch(tes, task_id)
    assert (given["id"], given["state"]) == (task_id, "QUEUED")
    assert given["creation_time"] != "yesterday"
    assert "logs" not in given


async def test_10_3_type_is_always_written(tes: Client) -> None:
    inputs = [{"path": "/a", "content": "x"}, {"path": "/b", "content": "x", "type": None}]
    outputs = [{"path": "/o", "url": "http://example.org/o"}]
    given = await fetch(tes, await create(tes, inputs=inputs, outputs=outputs))
    assert [item["type"] for item in given["inputs"] + given["outputs"]] == ["FILE"] * 3


async def test_10_3_fields_of_1_1_are_echoed_only_where_they_were_sent(tes: Client) -> None:
    inputs = [{"path": "/a", "content": "x"}]
    text = json.dumps(await fetch(tes, await create(tes, inputs=inputs, resources={})))
    for field in ("streamable", "ignore_error", "path_prefix", "backend_parameters", "null"):
        assert field not in text


async def test_camel_case_spellings_are_taken(tes: Client) -> None:
    body = {
        "outputs": [{"path": "/o/*", "url": "http://example.org/o", "pathPrefix": "/o"}],
        "resources": {
            "cpuCores": 2, "ramGb": 1.5, "diskGb": 3, "backendParameters": {"vmSize": "x"},
            "backendParametersStrict": True,
        },
        "executors": [{"image": "alpine", "command": ["true"], "ignoreError": True}],
    }  # fmt: skip
    given = await fetch(tes, await create(tes, **body))
    assert given["resources"] == {
        "cpu_cores": 2, "ram_gb": 1.5, "disk_gb": 3.0, "backend_parameters": {"vmSize": "x"},
        "backend_parameters_strict": True,
    }  # fmt: skip
    assert given["executors"][0]["ignore_error"] is True
    assert given["outputs"][0]["path_prefix"] == "/o"


async def test_unknown_fields_are_ignored_and_not_kept(tes: Client) -> None:
    executor = {"image": "a", "command": ["b"], "vendor": 1}
    given = await fetch(tes, await create(tes, executors=[executor], project="x"))
    assert "project" not in given
    assert given["executors"] == [{"image": "a", "command": ["b"]}]


async def test_unsupported_backend_parameters_are_neither_kept_nor_returned(tes: Client) -> None:
    parameters = {"VMSIZE": "large", "Caching": "on"}
    given = await fetch(tes, await create(tes, resources={"backend_parameters": parameters}))
    assert given["resources"] == {"backend_parameters": {"VMSIZE": "large"}}


async def test_an_empty_content_is_an_empty_file(tes: Client) -> None:
    given = await fetch(tes, await create(tes, inputs=[{"path": "/a", "content": ""}]))
    assert given["inputs"] == [{"path": "/a", "content": "", "type": "FILE"}]


async def test_a_url_beside_content_is_not_judged(tes: Client) -> None:
    await create(tes, inputs=[{"path": "/a", "content": "x", "url": "nonsense://"}])


async def test_content_of_a_mebibyte_is_taken_and_more_is_refused(tes: Client) -> None:
    await create(tes, inputs=[{"path": "/a", "content": "x" * 2**20}])
    body = minimal_task(inputs=[{"path": "/a", "content": "x" * (2**20 + 1)}])
    answer = await tes.post("/tasks", json=body)
    assert answer.status_code == 400
    assert answer.json()["details"][0]["path"] == "inputs[0].content"


CONTENT_TYPES = (
    "application/json",
    "application/json; charset=utf-8",
    "application/json;charset=UTF-8;x=y",
    "Application/JSON",
    "application/vnd.ga4gh+json",
    "",
)


@pytest.mark.parametrize("content_type", CONTENT_TYPES)
async def test_10_6_json_is_taken_under_the_types_that_clients_send(
    tes: Client, content_type: str
) -> None:
    headers = {"Content-Type": content_type}
    answer = await tes.post("/tasks", content=json.dumps(minimal_task()), headers=headers)
    assert answer.status_code == 200


async def test_10_6_json_is_taken_without_a_type(tes: Client) -> None:
    answer = await tes.post("/tasks", content=json.dumps(minimal_task()).encode())
    assert "content-type" not in answer.request.headers
    assert answer.status_code == 200


OTHER_TYPES = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")


@pytest.mark.parametrize("content_type", OTHER_TYPES)
async def test_other_media_types_are_415(tes: Client, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    answer = await tes.post("/tasks", content=json.dumps(minimal_task()), headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (415, 415)


BAD_BODIES = (b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"executors": "\xe9"}', b"{}" * 2)


@pytest.mark.parametrize("body", BAD_BODIES)
async def test_what_is_no_json_object_is_400(tes: Client, body: bytes) -> None:
    answer = await tes.post("/tasks", content=body)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("The body ")


async def test_a_deeply_nested_body_is_400(tes: Client) -> None:
    body = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert (await tes.post("/tasks", content=body)).status_code == 400


async def test_all_mistakes_are_told_at_once_with_their_paths(tes: Client) -> None:
    body = {
        "executors": [{"image": "", "command": [], "workdir": "rel"}],
        "inputs": [{"path": "a"}, {"url": "gopher://x/y", "path": "/b/../c"}],
        "outputs": [{"url": "http://example.org/", "path": "/o/*"}],
        "resources": {"cpu_cores": 2**31, "ram_gb": -1},
        "tags": {"": "x"},
    }
    answer = await tes.post("/tasks", json=body)
    assert answer.status_code == 400
    assert {mistake["path"] for mistake in answer.json()["details"]} == {
        "executors[0].image", "executors[0].command", "executors[0].workdir", "inputs[0].path",
        "inputs[0].url", "inputs[1].path", "inputs[1].url", "outputs[0].path_prefix",
        "resources.cpu_cores", "resources.ram_gb", "tags",
    }  # fmt: skip


async def test_a_scheme_that_is_not_served_is_refused_with_those_that_are(tes: Client) -> None:
    body = minimal_task(inputs=[{"path": "/a", "url": "gopher://x/y"}])
    message = (await tes.post("/tasks", json=body)).json()["message"]
    assert "https" in message


async def test_a_strict_request_with_an_unsupported_parameter_is_400(tes: Client) -> None:
    strict = {"backend_parameters": {"INVALID": "x"}, "backend_parameters_strict": True}
    answer = await tes.post("/tasks", json=minimal_task(resources=strict))
    assert answer.status_code == 400
    assert answer.json()["details"][0]["path"] == "resources.backend_parameters.INVALID"


async def test_a_refused_task_leaves_no_trace(tes: Client, listener: Listener) -> None:
    await tes.post("/tasks", json={"executors": []})
    assert (await tes.get("/tasks")).json() == {"tasks": []}
    assert listener.news == 0


async def test_a_body_over_the_limit_is_413(make_client: MakeClient, prefix: str) -> None:
    client = make_client(body_bytes=1000)
    fits = json.dumps(minimal_task()).encode().ljust(1000)
    assert (await client.post(f"{prefix}/tasks", content=fits)).status_code == 200
    answer = await client.post(f"{prefix}/tasks", content=fits + b" ")
    assert (answer.status_code, answer.json()["status"]) == (413, 413)


async def test_a_body_over_the_limit_is_413_without_a_declared_length(
    make_client: MakeClient, prefix: str
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 100

    answer = await make_client(body_bytes=1000).post(f"{prefix}/tasks", content=chunks())
    assert "content-length" not in answer.request.headers
    assert answer.status_code == 413
