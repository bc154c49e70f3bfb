"""The rules that satisfy every known client, as far as a live server is needed to prove them.

Each test is named after its rule. Those of rules 1, 2, 3, 6 and 10, and more of 4 and 9, need only
the HTTP face: they are the `test_10_N_…` of tests/api. Real clients are in the other files here.

 1. Same routes under both prefixes; unknown paths are 404 before any authentication; no redirects.
 2. Two kinds of service-info: of TES 1.1, and the one before.
 3. Unset fields are left out, but for `type`; nulls are taken for absent; nothing is echoed that
    the server sets.
 4. Types of what is in logs.
 5. Only four last states, and none that old clients do not know.
 6. Lenient on headers, bodies of cancels, and unknown parameters.
 7. The directories that a task names are there and writable; /tmp is its own.
 8. Outputs: default type, directories, files within directories, also after a failure.
 9. Contents are for the view FULL alone.
10. Short outages are waited for.
"""

import re
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest

from tests.e2e.conftest import Stacks
from tests.e2e.stack import IMAGE, Json, Stack, shell
from tests.pulsars import until

TES_1_0_STATES: Final = frozenset(
    {
        *("UNKNOWN", "QUEUED", "INITIALIZING", "RUNNING", "PAUSED"),
        *("COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED"),
    }
)


@pytest.fixture(params=["quick", "docker"])
def stack(request: pytest.FixtureRequest, stacks: Stacks) -> Stack:
    """With containers too, where it depends on them."""
    if request.param == "quick":
        quick: Stack = request.getfixturevalue("quick")
        return quick
    return stacks(request.param)


def nulls_in(document: Any) -> bool:
    match document:
        case None:
            return True
        case dict():
            return any(map(nulls_in, document.values()))
        case list():
            return any(map(nulls_in, document))
        case _:
            return False


def complete(stack: Stack, task: Json) -> Json:
    ended = stack.api.run(task)
    assert ended["state"] == "COMPLETE", ended
    return ended


def stdout_of(task: Json, executor: int = 0) -> str:
    return str(task["logs"][0]["logs"][executor]["stdout"])


def test_rule_3_nothing_is_null_in_any_state(quick: Stack) -> None:
    task_id = quick.api.post({"id": None, "state": None, "logs": None, **shell("sleep 300")})
    shown = [quick.api.get(task_id)]
    shown.append(quick.api.wait(task_id, frozenset({"RUNNING"})))
    quick.api.cancel(task_id)
    shown.append(quick.api.wait(task_id))

    assert not nulls_in(shown)


def test_rule_4_logs_have_the_types_that_clients_parse(quick: Stack) -> None:
    out = f"{quick.files}/{uuid4().hex}"
    ended = complete(
        quick,
        shell(
            "echo hello >/out/x",
            resources={"cpu_cores": 1.0},
            outputs=[{"path": "/out/x", "url": out}],
        ),
    )

    (attempt,) = ended["logs"]
    (executor,) = attempt["logs"]
    assert type(ended["resources"]["cpu_cores"]) is int
    assert type(executor["exit_code"]) is int
    assert attempt["outputs"] == [{"url": f"file://{out}", "path": "/out/x", "size_bytes": "6"}]
    assert all(type(value) is str for value in attempt["metadata"].values())
    assert all(type(line) is str for line in attempt.get("system_logs", []))
    times = [executor["start_time"], executor["end_time"], attempt["start_time"]]
    for time in (*times, attempt["end_time"], ended["creation_time"]):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", time)
        assert datetime.fromisoformat(time).tzinfo is not None


def test_rule_4_a_running_task_has_no_executor_without_an_exit_code(quick: Stack) -> None:
    task_id = quick.api.post(shell("sleep 300"))
    running = quick.api.wait(task_id, frozenset({"RUNNING"}))
    quick.api.cancel(task_id)

    assert running["logs"][0]["logs"] == []
    assert running["logs"][0]["outputs"] == []
    quick.api.wait(task_id)


def test_rule_5_old_clients_see_only_states_that_they_know(quick: Stack) -> None:
    task_id = quick.api.post(shell("sleep 300"))
    seen: list[str] = []

    def look(last: str) -> bool:
        seen.append(httpx.get(f"{quick.api.base}/v1/tasks/{task_id}").json()["state"])
        return quick.api.state(task_id) == last

    until(lambda: look("RUNNING"), 60, lambda: str(seen))
    assert set(seen) <= TES_1_0_STATES
    quick.api.cancel(task_id)
    seen.clear()
    until(lambda: look("CANCELED"), 60, lambda: str(seen))
    assert set(seen) == {"CANCELED"}


def test_rule_6_a_cancel_as_each_client_sends_it_is_200(quick: Stack) -> None:
    task_id = quick.api.post(shell("sleep 300"))
    address = f"{quick.api.base}/v1/tasks/{task_id}:cancel"
    json_type = {"Content-Type": "application/json; charset=utf-8"}

    answers = [
        httpx.post(address, headers=json_type, auth=("None", "None")),
        httpx.post(address, json={}, auth=("", "")),
        httpx.post(address, params={"api_key": "x"}),
    ]
    quick.api.wait(task_id)
    answers.append(httpx.post(address, headers=json_type))

    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "{}")] * 4


def test_rule_7_the_places_that_a_task_names_are_there_and_writable(stack: Stack) -> None:
    task = shell(
        "pwd; touch /work/here/a /tmp/b /in/deep/c /vol/d /out/deep/e && mkdir /tmp/conda",
        workdir="/work/here",
        inputs=[{"path": "/in/deep/x", "content": "x"}, {"path": "/tmp/run.sh", "content": "y"}],
        outputs=[{"path": "/out/deep/e", "url": f"{stack.files}/{uuid4().hex}"}],
        volumes=["/vol/"],
    )

    assert stdout_of(complete(stack, task)) == "/work/here\n"


def test_rule_7_volumes_and_tmp_are_shared_by_executors_but_not_by_tasks(stack: Stack) -> None:
    line = "ls /tmp /vol; touch /tmp/mark /vol/mark"
    executors = [{"image": IMAGE, "command": ["sh", "-c", line]}] * 2
    first, second = (
        complete(stack, {"executors": executors, "volumes": ["/vol/"]}) for _ in range(2)
    )

    for task in (first, second):
        assert "mark" not in stdout_of(task, 0)
        assert stdout_of(task, 1).count("mark") == 2


def test_rule_7_a_program_may_make_the_directories_below_its_workdir(stack: Stack) -> None:
    url = f"{stack.files}/{uuid4().hex}"
    output = {"path": "/work/results/x", "url": url}
    line = "mkdir /work/results && echo x >/work/results/x"

    complete(stack, shell(line, outputs=[output], workdir="/work"))


def test_rule_8_directories_are_sent_with_and_without_a_slash_and_files_in_them(
    stack: Stack,
) -> None:
    place = stack.files / uuid4().hex
    task = shell(
        "mkdir sub && echo log >log && echo deep >sub/file",
        workdir="/wd",
        outputs=[
            {"path": "/wd/log", "url": f"{place}/log", "type": None},
            {"path": "/wd", "url": f"{place}/with/", "type": "DIRECTORY"},
            {"path": "/wd", "url": f"{place}/without", "type": "DIRECTORY"},
        ],
    )

    ended = complete(stack, task)

    assert ended["outputs"][0]["type"] == "FILE"
    assert (place / "log").read_text() == "log\n"
    for copy in (place / "with", place / "without"):
        assert (copy / "log").read_text() == "log\n"
        assert (copy / "sub/file").read_text() == "deep\n"
    urls = [output["url"] for output in ended["logs"][0]["outputs"]]
    assert len(urls) == 5
    assert not any("//" in url.removeprefix("file://") for url in urls)


def test_rule_8_what_exists_is_sent_after_a_failure_and_the_exit_code_is_kept(
    stack: Stack,
) -> None:
    place = stack.files / uuid4().hex
    task = shell(
        "echo there >/out/there; exit 9",
        outputs=[
            {"path": "/out/there", "url": f"{place}/there"},
            {"path": "/out/missing", "url": f"{place}/missing"},
        ],
    )

    ended = stack.api.run(task)

    assert ended["state"] == "EXECUTOR_ERROR", ended
    assert ended["logs"][0]["logs"][0]["exit_code"] == 9
    assert (place / "there").read_text() == "there\n"
    assert not (place / "missing").exists()
    assert any("/out/missing" in line for line in ended["logs"][0]["system_logs"])


def test_rule_8_a_missing_output_does_not_hide_a_success(stack: Stack) -> None:
    url = f"{stack.files}/{uuid4().hex}"

    ended = complete(stack, shell("true", outputs=[{"path": "/out/optional", "url": url}]))

    assert any("/out/optional" in line for line in ended["logs"][0]["system_logs"])


def test_rule_9_contents_are_in_full_views_alone_and_in_no_log(quick: Stack) -> None:
    secret = f"export SNAKEMAKE_STORAGE_S3_SECRET_KEY={uuid4().hex}"
    task_id = quick.api.post(
        shell("cat /in/x >/dev/null", inputs=[{"path": "/in/x", "content": secret}])
    )
    ended = quick.api.wait(task_id)

    assert ended["inputs"][0]["content"] == secret
    for view in ("BASIC", "MINIMAL"):
        assert secret not in str(quick.api.get(task_id, view))
        assert secret not in str(quick.api.list(view=view))
    assert secret not in quick.api.log.read_text()
    assert secret not in str(ended["logs"])
    assert secret not in quick.pulsar.log.read_text()
