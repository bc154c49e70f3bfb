"""What each view shows, in bytes."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesp_api.domain.task import Attempt, Task, TaskId
from tesp_api.domain.tes import ExecutorLog, OutputFileLog, State, View
from tesp_api.domain.views import basic_differs, render, restated
from tests.unit.fakes import new_task

AT = datetime(2026, 11, 22, 12, 0, 1, 234567, tzinfo=UTC)
TO_1_0 = {b"CANCELING": b"CANCELED"}


def full_task() -> Task:
    task = new_task(
        inputs=[{"path": "/i", "content": "secret text"}, {"path": "/j", "url": "http://x/j"}],
        outputs=[{"path": "/o", "url": "http://x/o"}],
        tags={"a": "b", "state": "CANCELING"},
        executors=[{"image": "i", "command": ["c"], "stdout": "/out.txt", "stderr": "/err.txt"}],
    )
    attempt = Attempt(
        started_at=AT,
        ended_at=AT,
        executors=(ExecutorLog(exit_code=0, stdout="out text", stderr="err text"),),
        outputs=(OutputFileLog(url="http://x/o", path="/o", size_bytes="12"),),
        system_logs=("a line",),
        metadata={"host": "n1"},
    )
    return replace(task, attempts=(attempt,), state=State.COMPLETE)


def shown(task: Task, view: View) -> Any:
    return json.loads(render(task, view))


def test_minimal_is_id_and_state() -> None:
    assert render(full_task(), View.MINIMAL) == b'{"id":"a","state":"COMPLETE"}'


def test_full_shows_everything() -> None:
    document = shown(full_task(), View.FULL)
    assert document["inputs"][0]["content"] == "secret text"
    (log,) = document["logs"]
    assert log["system_logs"] == ["a line"]
    assert log["logs"] == [{"exit_code": 0, "stdout": "out text", "stderr": "err text"}]
    assert log["outputs"] == [{"url": "http://x/o", "path": "/o", "size_bytes": "12"}]
    assert log["metadata"] == {"host": "n1"}
    assert log["start_time"] == log["end_time"] == "2026-11-22T12:00:01.234Z"
    assert document["creation_time"] == "2026-11-22T12:00:00.000Z"


def test_basic_leaves_out_texts_contents_and_system_logs_and_nothing_else() -> None:
    full, basic = shown(full_task(), View.FULL), shown(full_task(), View.BASIC)
    del full["inputs"][0]["content"]
    del full["logs"][0]["system_logs"]
    for name in ("stdout", "stderr"):
        del full["logs"][0]["logs"][0][name]
    assert basic == full
    assert basic["executors"][0]["stdout"] == "/out.txt", "a path is no text"


def test_a_task_without_attempts_has_no_logs() -> None:
    assert "logs" not in shown(new_task(), View.FULL)


def test_basic_and_full_are_the_same_where_the_task_has_nothing_to_hide() -> None:
    task = new_task(inputs=[{"path": "/j", "url": "http://x/j"}])
    assert not basic_differs(task)
    assert render(task, View.BASIC) == render(task, View.FULL)
    assert basic_differs(full_task())


@pytest.mark.parametrize("view", View)
def test_there_are_no_nulls_whatever_a_client_leaves_out_or_sends_as_null(view: View) -> None:
    nulls = new_task(
        name=None, inputs=None, tags={"k": None}, resources={"cpu_cores": None, "ram_gb": 1}
    )
    for task in (nulls, replace(full_task(), attempts=(Attempt(started_at=AT),))):
        assert b"null" not in render(task, view)


def test_a_state_is_restated_in_place_and_any_other_left() -> None:
    task = replace(full_task(), state=State.CANCELING)
    for view in View:
        document = json.loads(restated(render(task, view), TO_1_0))
        assert document == {**shown(task, view), "state": "CANCELED"}
        assert restated(render(full_task(), view), TO_1_0) == render(full_task(), view)


@given(state=st.sampled_from(State), words=st.text(max_size=40), view=st.sampled_from(View))
def test_no_word_of_a_users_is_taken_for_the_state(state: State, words: str, view: View) -> None:
    task = new_task(
        name=f'{words}"state":"CANCELING"', tags={"state": "CANCELING", words or "x": words}
    )
    task = replace(task, id=TaskId("x"), state=state)
    document = json.loads(restated(render(task, view), TO_1_0))
    expected = "CANCELED" if state is State.CANCELING else state.value
    assert document == {**shown(task, view), "state": expected}
