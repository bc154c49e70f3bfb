"""One step at a time, without a dispatcher: what it asks of Pulsar and what it returns."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tesp_api.domain.lifecycle import (
    ACTIVE,
    TERMINAL,
    CancelAsked,
    Claimed,
    Lost,
    Submitted,
    advance,
    forget,
)
from tesp_api.domain.task import DriverId, JobId, Task
from tesp_api.domain.tes import State
from tesp_api.drive import Drive
from tesp_api.duties import Duties
from tesp_api.orders import Orders
from tesp_api.ports import Phase, Sighting, Traces
from tests.unit.fakes import (
    BEGINNING,
    POLICY,
    SITE,
    FakeStorage,
    StillClock,
    StillTime,
    frame,
    new_task,
    patient,
)


class Oracle:
    """JobRunner that says what it is told to say, and writes down what it was asked."""

    name = "http://oracle.test"

    def __init__(self, phase: Phase, traces: Traces | None = None, output: str = "") -> None:
        self.phase = phase
        self.traces = traces or Traces()
        self.output = output
        self.asked: list[str] = []

    async def start(self, _job: JobId, _order: Mapping[str, Any], *, again: bool = True) -> None:
        self.asked.append("start again" if again else "start")

    async def has_unbegun(self, _job: JobId) -> bool:
        self.asked.append("has_unbegun")
        return True

    async def look(self, _job: JobId) -> Sighting:
        self.asked.append("look")
        return Sighting(phase=self.phase, output=self.output, exit_code=1)

    async def kill(self, _job: JobId) -> None:
        self.asked.append("kill")

    async def settle(self, _job: JobId) -> Traces:
        self.asked.append("settle")
        return self.traces

    async def forget(self, _job: JobId) -> None:
        self.asked.append("forget")
        self.phase = Phase.UNKNOWN

    async def ping(self) -> str:
        return "1"

    async def close(self) -> None: ...


def claimed() -> Task:
    event = Claimed(at=BEGINNING, job=JobId("tes-a-0"), slot=0, driver=DriverId("d"))
    return advance(new_task(), event)


def submitted(state: State = State.INITIALIZING) -> Task:
    return replace(advance(claimed(), Submitted(at=BEGINNING)), state=state)


def drive(task: Task, *, doubt: bool = False) -> Drive:
    made = Drive(task_id=task.id, doubt=doubt)
    made.entered(task, 1000.0)
    return made


def duties(oracle: Oracle, **policy: Any) -> Duties:
    clock = StillClock(StillTime())
    return Duties(oracle, Orders(FakeStorage(), SITE), patient(**policy), clock)


async def test_there_is_a_duty_for_each_state_but_queued_and_none_that_fails() -> None:
    for state in ACTIVE | TERMINAL:
        oracle = Oracle(Phase.KILLED, Traces(watch="reaped"))
        task = submitted(state)
        await duties(oracle).step(task, drive(task))
        assert bool(oracle.asked) is (state is not State.QUEUED)


async def test_a_start_without_doubt_is_one_call() -> None:
    oracle = Oracle(Phase.UNKNOWN)
    after = await duties(oracle).step(claimed(), drive(claimed()))
    assert oracle.asked == ["start"]
    assert after is not None
    assert after.jobs[0].submitted


@pytest.mark.parametrize("phase", Phase)
async def test_in_doubt_a_job_is_started_only_where_pulsar_has_not_got_it(phase: Phase) -> None:
    oracle = Oracle(phase)
    await duties(oracle).step(claimed(), drive(claimed(), doubt=True))
    assert ("start again" in oracle.asked) is (phase in (Phase.UNKNOWN, Phase.SET_UP))


async def test_a_running_task_is_looked_at_and_nothing_else() -> None:
    oracle, task = Oracle(Phase.RUNNING), submitted(State.RUNNING)
    one, remembered = duties(oracle), drive(task)
    assert not await one.nothing_new(remembered), "nothing is remembered yet"
    assert await one.step(task, remembered) is None
    for _ in range(3):
        assert await one.nothing_new(remembered)
    assert oracle.asked == ["look"] * 4


async def test_what_a_look_found_is_not_asked_for_twice() -> None:
    oracle, task = Oracle(Phase.RUNNING), submitted(State.RUNNING)
    one, remembered = duties(oracle), drive(task)
    await one.step(task, remembered)
    oracle.phase, oracle.output = Phase.ENDED, frame("tes-a-0")
    assert not await one.nothing_new(remembered)
    after = await one.step(task, remembered)
    assert after is not None
    assert after.state is State.COMPLETE
    assert oracle.asked == ["look", "look"]


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("complete", State.COMPLETE),
        ("executor_error", State.EXECUTOR_ERROR),
        ("system_error", State.SYSTEM_ERROR),
    ],
)
async def test_the_runners_word_is_the_end(outcome: str, state: State) -> None:
    for task in (submitted(), submitted(State.RUNNING)):
        oracle = Oracle(Phase.ENDED, output=frame("tes-a-0", outcome, reason="so"))
        after = await duties(oracle).step(task, drive(task))
        assert after is not None
        assert after.state is state
        assert ("so" in after.attempts[0].system_logs) is (outcome != "complete")


@pytest.mark.parametrize(
    ("journal", "begun"),
    [
        (None, False),
        ("", False),
        ("no json\n[]\n{}\n3\n", False),
        (json.dumps({"event": "executor_start", "index": 0}) + '\n{"eve', True),
        (json.dumps({"event": "executor_end", "index": 0}), True),
    ],
)
async def test_the_journal_tells_whether_a_program_had_started(
    journal: str | None, begun: bool
) -> None:
    oracle = Oracle(Phase.ENDED, Traces(watch="reaped", journal=journal))
    task = submitted(State.RUNNING)
    after = await duties(oracle).step(task, drive(task))
    assert after is not None
    assert after.state is (State.SYSTEM_ERROR if begun else State.QUEUED)


async def test_a_lost_jobs_reaper_is_kept_before_the_kill_makes_the_id_known_again() -> None:
    oracle = Oracle(Phase.UNKNOWN)
    task = advance(submitted(State.RUNNING), CancelAsked(at=BEGINNING))
    after = await duties(oracle).step(task, drive(task))
    assert after is not None
    assert after.jobs[-1].purpose == "reap"
    assert "kill" not in oracle.asked


async def test_a_clean_up_of_a_known_end_asks_for_nothing_but_the_proof() -> None:
    oracle, task = Oracle(Phase.ENDED), submitted(State.COMPLETE)
    remembered = drive(task)
    remembered.job, remembered.phase = JobId("tes-a-0"), Phase.ENDED
    after = await duties(oracle).step(task, remembered)
    assert oracle.asked == ["forget", "look"]
    assert after is not None
    assert not after.leftovers


async def test_an_unsure_job_waits_for_its_quarantine_and_its_neighbours_do_not() -> None:
    oracle, task = Oracle(Phase.ENDED), submitted(State.COMPLETE)
    sure, unsure = task.jobs[0], replace(task.jobs[0], id=JobId("tes-a-1"), unsure=True)
    after = await duties(oracle).step(replace(task, jobs=(sure, unsure)), drive(task))
    assert after is not None
    assert after.leftovers == (unsure,)
    assert await duties(oracle, quarantine_s=1.0).step(after, drive(after)) is None
    assert POLICY.quarantine_s > 1.0


def test_no_job_id_is_ever_given_twice() -> None:
    task, seen = new_task(), set()
    for slot in range(5):
        job = task.next_job
        assert job not in seen
        seen.add(job)
        task = advance(task, Claimed(at=BEGINNING, job=job, slot=slot, driver=DriverId("d")))
        task = advance(task, Lost(at=BEGINNING, reason=""))


async def test_what_was_done_behind_a_clean_up_is_removed_again_and_nothing_else() -> None:
    mine = submitted()
    cleaned = forget(mine, mine.jobs[0].id)
    for kept, forgotten in ((cleaned, True), (None, True), (mine, False), (new_task(), False)):
        oracle = Oracle(Phase.RUNNING)
        await duties(oracle).undo(kept, mine)
        assert ("forget" in oracle.asked) is forgotten
