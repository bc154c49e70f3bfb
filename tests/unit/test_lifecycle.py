"""The table of states: what is in it happens, what is not is refused, and ends are ends."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesp_api.domain.errors import IllegalTransition
from tesp_api.domain.lifecycle import (
    ACTIVE,
    TERMINAL,
    TRANSITIONS,
    Broke,
    CancelAsked,
    Claimed,
    Ended,
    Event,
    ExecutorFailed,
    Expired,
    Killed,
    Lost,
    Outcome,
    Ran,
    Started,
    Submitted,
    Succeeded,
    Unsent,
    Withdrawn,
    abort,
    adopt,
    advance,
    doubt,
    forget,
    note,
    reap,
    upload,
)
from tesp_api.domain.task import DriverId, JobId, Left, Purpose, Task, Upload
from tesp_api.domain.tes import ExecutorLog, OutputFileLog, State
from tests.unit.fakes import new_task

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TOLD = Outcome(
    executors=(ExecutorLog(exit_code=0),),
    outputs=(OutputFileLog(url="file:///x", path="/x", size_bytes="1"),),
    log=("from the node",),
    metadata={"host": "n1"},
)


LEFT = Left(output=0, path="/out/a", below="a", size_bytes=1)


def claimed(number: int = 0) -> Claimed:
    return Claimed(at=AT, job=JobId(f"j{number}"), slot=number, driver=DriverId("d"))


EVENTS: tuple[Event, ...] = (
    claimed(),
    Submitted(at=AT),
    Started(at=AT),
    Expired(at=AT, job=JobId("j9")),
    Ran(at=AT, job=JobId("j9"), left=(LEFT,), failed=False, outcome=TOLD),
    Unsent(at=AT, job=JobId("j9"), reason="unsent"),
    Succeeded(at=AT, outcome=TOLD),
    ExecutorFailed(at=AT, outcome=TOLD),
    Broke(at=AT, reason="broke"),
    Lost(at=AT, reason="lost"),
    CancelAsked(at=AT),
    Withdrawn(at=AT),
    Killed(at=AT),
)


def after(*events: Event) -> Task:
    task = new_task()
    for event in events:
        task = advance(task, event)
    return task


def in_state(state: State) -> Task:
    return replace(after(claimed()), state=state)


def test_the_events_of_these_tests_are_all_there_are() -> None:
    assert {type(event) for event in EVENTS} == {event for _, event in TRANSITIONS}


@pytest.mark.parametrize(("state", "event"), list(product(State, EVENTS)))
def test_each_pair_is_in_the_table_or_refused_without_change(state: State, event: Event) -> None:
    task = in_state(state)
    expected = TRANSITIONS.get((state, type(event)))
    if expected is None:
        with pytest.raises(IllegalTransition, match=f"{type(event).__name__}.*{state}"):
            advance(task, event)
    else:
        assert advance(task, event).state is expected
    assert task == in_state(state)


def test_every_state_of_ours_is_active_or_terminal() -> None:
    unused = {State.UNKNOWN, State.PAUSED, State.PREEMPTED}
    assert set(State) - unused == ACTIVE | TERMINAL
    assert not ACTIVE & TERMINAL
    assert set(TERMINAL) == {
        State.COMPLETE,
        State.EXECUTOR_ERROR,
        State.SYSTEM_ERROR,
        State.CANCELED,
    }


def test_from_every_active_state_an_end_can_be_reached() -> None:
    reached = set(TERMINAL)
    while grown := {state for (state, _), to in TRANSITIONS.items() if to in reached} - reached:
        reached |= grown
    assert reached >= ACTIVE


def test_the_main_road() -> None:
    task = after(claimed(), Submitted(at=AT), Started(at=AT), Succeeded(at=AT, outcome=TOLD))
    assert task.state is State.COMPLETE
    assert task.revision == 4
    (attempt,) = task.attempts
    assert attempt.executors == TOLD.executors
    assert attempt.outputs == TOLD.outputs
    assert attempt.system_logs == TOLD.log
    assert attempt.metadata == {"host": "n1"}
    assert attempt.ended_at == AT
    assert task.leftovers == task.jobs
    assert task.slot is None


def test_a_lost_attempt_is_kept_and_the_next_one_has_a_log_of_its_own() -> None:
    task = after(claimed(0), Lost(at=AT, reason="it vanished"), claimed(1), Started(at=AT))
    assert task.job is not None
    assert task.job.id == "j1"
    assert [job.id for job in task.jobs] == ["j0", "j1"]
    first, second = task.attempts
    assert first.system_logs == ("it vanished",)
    assert first.ended_at == AT
    assert second.ended_at is None


def test_a_cancel_before_any_job_ends_at_once_with_a_log_entry() -> None:
    task = after(Withdrawn(at=AT))
    assert task.state is State.CANCELED
    assert task.attempts[0].ended_at == AT


def test_a_cancel_keeps_the_slot_until_nothing_runs_any_more() -> None:
    canceling = after(claimed(3), Submitted(at=AT), CancelAsked(at=AT))
    assert canceling.slot == 3
    assert advance(canceling, Killed(at=AT)).slot is None


def test_submitted_marks_the_job_of_this_attempt_only() -> None:
    task = after(claimed(0), Lost(at=AT, reason=""), claimed(1), Submitted(at=AT))
    assert [job.submitted for job in task.jobs] == [False, True]


def test_a_note_is_added_to_the_last_attempt_and_leaves_the_state() -> None:
    task = note(after(claimed(), Started(at=AT)), "it rains")
    assert task.state is State.RUNNING
    assert task.attempts[-1].system_logs == ("it rains",)
    assert task.revision == 3


def test_adoption_doubts_every_job_that_is_not_gone() -> None:
    task = forget(after(claimed(0), Lost(at=AT, reason=""), claimed(1)), JobId("j0"))
    adopted = adopt(task, DriverId("new"))
    assert adopted.driver == "new"
    assert [job.unsure for job in adopted.jobs] == [False, True]
    assert adopted.revision == task.revision + 1


def test_doubt_travels_with_another_change() -> None:
    task = after(claimed())
    assert doubt(task).revision == task.revision
    assert doubt(task).jobs[0].unsure


def test_a_reaper_is_no_run_job_and_is_left_over_until_forgotten() -> None:
    task = reap(after(claimed()), AT)
    assert task.job is not None
    assert task.job.id == "j0"
    assert task.jobs[-1].purpose is Purpose.REAP
    assert [job.id for job in forget(task, JobId("j0"), task.jobs[-1].id).leftovers] == []


def test_a_job_is_remembered_as_running_once_it_was_seen_so() -> None:
    task = after(claimed(), Submitted(at=AT), Started(at=AT), CancelAsked(at=AT))
    assert task.jobs[0].ran
    assert not after(claimed(), Submitted(at=AT)).jobs[0].ran


@given(st.lists(st.sampled_from(EVENTS), max_size=25))
def test_no_history_breaks_the_rules(events: list[Event]) -> None:
    task = new_task()
    for number, event in enumerate(events):
        moment = AT + timedelta(seconds=number)
        one = replace(event, at=moment)
        try:
            later = advance(task, one)
        except IllegalTransition:
            continue
        assert task.state not in TERMINAL, "nothing leaves a terminal state"
        assert later.revision == task.revision + 1
        assert later.jobs[: len(task.jobs)] or not task.jobs, "jobs are never dropped"
        _check(later, one)
        task = later


def _check(task: Task, event: Event) -> None:
    holds = task.state in ACTIVE and task.state is not State.QUEUED
    assert task.slot is None or holds
    assert (task.slot is not None) or not isinstance(event, Claimed)
    if task.attempts:
        over = task.state in TERMINAL or task.state is State.QUEUED
        after_loss = task.state is State.CANCELING and task.attempts[-1].ended_at is not None
        assert (task.attempts[-1].ended_at is not None) == (over or after_loss)
        assert all(attempt.ended_at for attempt in task.attempts[:-1])
    assert not (isinstance(event, Ended | Withdrawn)) or task.attempts[-1].ended_at == event.at


def test_what_was_left_is_kept_until_the_end_and_its_outputs_join_those_already_sent() -> None:
    ran = Ran(at=AT, job=JobId("j1"), left=(LEFT,), failed=True, outcome=TOLD)
    task = after(claimed(), Submitted(at=AT), Started(at=AT), ran)
    assert (task.left, task.failed) == ((LEFT,), True)
    assert task.job is not None
    assert task.job.purpose is Purpose.STAGE_OUT
    assert task.run is not None
    assert task.run.id == "j0"
    assert task.attempts[0].ended_at is None
    ended = advance(task, ExecutorFailed(at=AT, outcome=replace(TOLD, executors=(), log=())))
    assert ended.attempts[0].outputs == TOLD.outputs * 2
    assert ended.attempts[0].executors == TOLD.executors
    assert ended.attempts[0].ended_at == AT
    assert ended.left == ()


def test_a_task_with_an_upload_begun_is_untidy_until_it_is_aborted() -> None:
    task = upload(in_state(State.COMPLETE), Upload(left=LEFT, id="u"))
    task = forget(task, *(job.id for job in task.jobs))
    assert task.untidy
    assert not abort(task).untidy
