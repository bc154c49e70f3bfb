"""How tasks end, in every way: one batch a stack, posted at once, and a test for each claim."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import pytest

from tests.e2e.conftest import Stacks
from tests.e2e.stack import WAYS, Json, Stack, shell, task
from tests.e2e.web import Web

LONG: Final = "0123456789ABCDE\n" * 8192 + "žluťoučký kůň, 🐎\n"
"""A little more than 128 KiB."""


@dataclass(frozen=True, slots=True)
class Batch:
    stack: Stack
    web: Web
    ended: Mapping[str, Json]


def exits(_stack: Stack, _web: Web) -> Json:
    return shell("echo out; echo err >&2; exit 7")


def misses_its_program(_stack: Stack, _web: Web) -> Json:
    return task("no-such-program", "--at-all")


def ignores_an_error(_stack: Stack, _web: Web) -> Json:
    first, second = shell("exit 3", ignore_error=True), shell("echo second")
    return {"executors": [*first["executors"], *second["executors"]]}


def stops_at_an_error(_stack: Stack, _web: Web) -> Json:
    first, second = shell("exit 3"), shell("echo second")
    return {"executors": [*first["executors"], *second["executors"]]}


def misses_its_image(stack: Stack, _web: Web) -> Json:
    images = os.environ.get("TESP_TEST_APPTAINER_IMAGE_ROOT")
    local = stack.engine == "apptainer"
    return task("true", image=f"{images}/missing.sif" if local else "127.0.0.1:9/missing:1")


def copies_long_content(stack: Stack, _web: Web) -> Json:
    return task(
        *("cp", "/in/text", "/out/copy"),
        inputs=[{"path": "/in/text", "content": LONG}],
        outputs=[{"path": "/out/copy", "url": (stack.files / "long.txt").as_uri()}],
    )


def reads_and_writes_files(stack: Stack, _web: Web) -> Json:
    source = stack.files / "source file.txt"
    source.write_text("from a file\n")
    return task(
        *("tee", "/out/one", "/out/two"),
        stdin="/in/source",
        inputs=[{"path": "/in/source", "url": source.as_uri()}],
        outputs=[
            {"path": "/out/one", "url": (stack.files / "deep/er/one").as_uri()},
            {"path": "/out/two", "url": str(stack.files / "two")},
        ],
    )


def sends_by_put_and_by_form(stack: Stack, web: Web) -> Json:
    return shell(
        "echo put > /out/put; echo form > /out/form",
        outputs=[
            {"path": "/out/put", "url": f"{web.url}/{stack.name}/put"},
            {"path": "/out/form", "url": f"{web.url}/form/{stack.name}"},
        ],
    )


def misses_its_input(_stack: Stack, web: Web) -> Json:
    return task("true", inputs=[{"path": "/in/gone", "url": f"{web.url}/gone?token=s3cret"}])


TASKS: Final[Mapping[str, Callable[[Stack, Web], Json]]] = {
    maker.__name__: maker
    for maker in (
        exits,
        misses_its_program,
        ignores_an_error,
        stops_at_an_error,
        misses_its_image,
        copies_long_content,
        reads_and_writes_files,
        sends_by_put_and_by_form,
        misses_its_input,
    )
}


@pytest.fixture(scope="module")
def batches(stacks: Stacks, web: Web) -> Callable[[str, str], Batch]:
    @cache
    def batch_of(engine: str, transport: str) -> Batch:
        stack = stacks(engine, transport)
        ids = {name: stack.api.post(make(stack, web)) for name, make in TASKS.items()}
        return Batch(stack, web, {name: stack.api.wait(one) for name, one in ids.items()})

    return batch_of


@pytest.fixture(params=WAYS, ids="-".join)
def batch(request: pytest.FixtureRequest, batches: Callable[[str, str], Batch]) -> Batch:
    return batches(*request.param)


def test_a_failed_program_is_an_executor_error_with_its_exit_code_and_streams(batch: Batch) -> None:
    ended = batch.ended["exits"]

    assert ended["state"] == "EXECUTOR_ERROR", ended
    (executor,) = ended["logs"][0]["logs"]
    assert (executor["exit_code"], executor["stdout"], executor["stderr"]) == (7, "out\n", "err\n")
    assert "executor 0 ended with exit code 7" in ended["logs"][0]["system_logs"]


def test_a_missing_program_is_an_executor_error_with_a_log_entry(batch: Batch) -> None:
    ended = batch.ended["misses_its_program"]

    assert ended["state"] == "EXECUTOR_ERROR", ended
    (executor,) = ended["logs"][0]["logs"]
    assert executor["exit_code"] == 127
    said = "\n".join(ended["logs"][0]["system_logs"])
    assert "executor 0: the program could not be started" in said
    assert "no-such-program" in said


def test_ignore_error_lets_the_next_executor_run_and_the_task_complete(batch: Batch) -> None:
    ended = batch.ended["ignores_an_error"]

    assert ended["state"] == "COMPLETE", ended
    first, second = ended["logs"][0]["logs"]
    assert (first["exit_code"], second["exit_code"]) == (3, 0)
    assert second["stdout"] == "second\n"


def test_after_a_failed_executor_none_runs(batch: Batch) -> None:
    ended = batch.ended["stops_at_an_error"]

    assert ended["state"] == "EXECUTOR_ERROR", ended
    assert [executor["exit_code"] for executor in ended["logs"][0]["logs"]] == [3]


def test_a_missing_image_is_a_system_error_that_names_it(batch: Batch) -> None:
    ended = batch.ended["misses_its_image"]
    if batch.stack.engine == "host":
        assert ended["state"] == "COMPLETE", ended
        assert any("image is ignored" in line for line in ended["logs"][0]["system_logs"])
        return
    assert ended["state"] == "SYSTEM_ERROR", ended
    image = ended["executors"][0]["image"]
    assert any(f"image {image} " in line for line in ended["logs"][0]["system_logs"]), ended


def test_literal_content_of_more_than_128_kib_arrives_as_it_was(batch: Batch) -> None:
    ended = batch.ended["copies_long_content"]

    assert ended["state"] == "COMPLETE", ended
    assert (batch.stack.files / "long.txt").read_text() == LONG
    (output,) = ended["logs"][0]["outputs"]
    assert output["size_bytes"] == str(len(LONG.encode()))
    assert output["path"] == "/out/copy"


def test_files_of_the_node_are_read_and_written_by_url_and_bare_path(batch: Batch) -> None:
    ended = batch.ended["reads_and_writes_files"]

    assert ended["state"] == "COMPLETE", ended
    assert (batch.stack.files / "deep/er/one").read_text() == "from a file\n"
    assert (batch.stack.files / "two").read_text() == "from a file\n"
    assert ended["logs"][0]["logs"][0]["stdout"] == "from a file\n"


def test_outputs_go_by_put_and_by_a_forms_post_where_put_is_refused(batch: Batch) -> None:
    ended = batch.ended["sends_by_put_and_by_form"]

    assert ended["state"] == "COMPLETE", ended
    assert batch.web.files[f"/{batch.stack.name}/put"] == b"put\n"
    assert batch.web.files[f"/form/{batch.stack.name}"] == b"form\n"


def test_a_missing_input_is_a_system_error_without_the_query_of_its_url(batch: Batch) -> None:
    ended = batch.ended["misses_its_input"]

    assert ended["state"] == "SYSTEM_ERROR", ended
    (line,) = [line for line in ended["logs"][0]["system_logs"] if "404" in line]
    assert f"{batch.web.url}/gone" in line
    assert "s3cret" not in line


def test_nothing_of_an_ended_task_stays_on_the_node(batch: Batch) -> None:
    batch.stack.wait_until_nothing_is_left(*(ended["id"] for ended in batch.ended.values()))
