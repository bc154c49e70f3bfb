"""One driver and its neighbours: weather, cancels, deaths, crashes. Time stands still."""

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tesp_api.dispatcher import Limits
from tesp_api.domain.lifecycle import TERMINAL
from tesp_api.domain.task import Left, Purpose, Task, TaskId
from tesp_api.domain.tes import State
from tesp_api.duties import CONFIRM_LOST_S
from tests.unit.fakes import (
    LIMITS,
    QUARANTINE_S,
    FakeStorage,
    Script,
    StillClock,
    WeatherStore,
    patient,
    world,
)

LONG = Script(run_s=600.0)
DIES_EARLY = Script(outcome=None, begins=False)
PULSAR_CALLS = ("start", "look", "kill", "settle", "forget")
STORE_CALLS = ("get", "save", "queued", "driven", "slots", "beat", "untidy", "retire")


def logs(task: Task) -> str:
    return "\n".join(line for attempt in task.attempts for line in attempt.system_logs)


# --- the main road ---


async def test_a_short_task_runs_to_its_end_and_nothing_is_left_at_pulsar() -> None:
    async with world() as w:
        w.begin()
        task_id = await w.post()
        task = await w.until_state(task_id, State.COMPLETE, within_s=2)
        assert task.attempts[0].executors[0].exit_code == 0
        await w.until_tidy(task_id, within_s=1)
        assert w.pulsar.jobs == {}


async def test_the_end_of_a_short_task_is_noticed_within_150_ms() -> None:
    async with world() as w:
        w.begin()
        await w.settle()
        task_id = await w.post()
        await w.until_state(task_id, State.COMPLETE)
        assert w.time.elapsed < 0.35 + 0.15


async def test_a_long_task_is_polled_ever_more_rarely_and_costs_the_store_nothing() -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(run_s=3000.0)]
        w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING, within_s=1)
        await w.pass_(100)
        polled, saved = w.pulsar.gate.calls.count("look"), w.store.gate.calls.count("save")
        await w.pass_(100)
        assert 20 <= w.pulsar.gate.calls.count("look") - polled <= 30
        assert w.store.gate.calls.count("save") == saved
        await w.until_state(task_id, State.COMPLETE, within_s=2810)


async def test_a_failing_program_ends_the_task_with_its_exit_code_and_reason() -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(outcome="executor_error")]
        w.begin()
        task = await w.until_state(await w.post(), State.EXECUTOR_ERROR)
        assert task.attempts[0].executors[0].exit_code == 3
        assert "it failed" in logs(task)


async def test_no_more_jobs_than_allowed_are_in_flight_and_the_oldest_go_first() -> None:
    async with world() as w:
        for number in range(10):
            await w.post(f"t{number}")
        w.begin(limits=Limits(max_jobs=3, patience_s=60, poll_interval_s=4))
        most = 0
        while len(w.pulsar.runs) < 10 or w.pulsar.jobs:
            await w.pass_(0.05)
            most = max(most, len(w.pulsar.jobs))
            assert w.time.elapsed < 60
        assert most == 3
        batches = [set(w.pulsar.runs[at : at + 3]) for at in (0, 3, 6)]
        assert batches == [{f"tes-t{at + n}-0" for n in range(3)} for at in (0, 3, 6)]


async def test_a_url_that_is_no_longer_served_ends_the_task_with_the_reason() -> None:
    async with world() as w:
        w.storage.cursed = True
        w.begin()
        inputs = [{"path": "/in", "url": "file:///data/x"}]
        task = await w.until_state(await w.post(inputs=inputs), State.SYSTEM_ERROR)
        assert "file:///data/x is out of reach." in logs(task)
        await w.until_tidy(task.id)


class Cursed(FakeStorage):
    """A storage with a bug."""

    async def fetch_order(self, _item: Any, _owner: str | None) -> Any:
        raise ZeroDivisionError


async def test_a_bug_in_one_task_does_not_stop_its_neighbours() -> None:
    async with world() as w:
        w.begin(storage=Cursed())
        cursed = await w.post("cursed", inputs=[{"path": "/in", "url": "http://x/y"}])
        blessed = [await w.post(f"b{number}") for number in range(5)]
        for task_id in blessed:
            await w.until_state(task_id, State.COMPLETE)
        assert (await w.task(cursed)).state is State.INITIALIZING
        assert "ZeroDivisionError" in w.bugs.pop()


# --- weather ---


@pytest.mark.parametrize("name", ["start", "look"])
async def test_an_outage_of_pulsar_is_waited_out_and_told_once(name: str) -> None:
    async with world() as w:
        w.pulsar.gate.down = {name}
        w.begin()
        task_id = await w.post()
        await w.pass_(9)
        assert "Waiting" not in logs(await w.task(task_id))
        await w.pass_(291)
        assert logs(await w.task(task_id)).count(f"Waiting: no Pulsar for {name}") == 1
        w.pulsar.gate.down = set()
        task = await w.until_state(task_id, State.COMPLETE, within_s=40)
        assert len(w.pulsar.runs) == 1
        assert logs(task).count("Waiting") == 1


async def test_a_second_outage_is_told_again() -> None:
    async with world() as w:
        w.pulsar.scripts = [LONG]
        w.begin()
        task_id = await w.post()
        for _ in range(2):
            await w.pass_(60)
            w.pulsar.gate.down = {"look"}
            await w.pass_(60)
            w.pulsar.gate.down = set()
        await w.pass_(60)
        assert logs(await w.task(task_id)).count("Waiting") == 2


async def test_patience_ends_an_outage_and_the_job_is_removed_when_pulsar_is_back() -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(run_s=10_000)]
        w.begin(limits=Limits(max_jobs=4, patience_s=100, poll_interval_s=4))
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        w.pulsar.gate.down = set(PULSAR_CALLS)
        task = await w.until_state(task_id, State.SYSTEM_ERROR, within_s=160)
        assert "dispatch.patience_s" in logs(task)
        w.pulsar.gate.down = set()
        await w.until_tidy(task_id)
        assert not w.pulsar.living(task_id)


async def test_patience_never_ends_a_cancel() -> None:
    async with world() as w:
        w.pulsar.scripts = [LONG]
        driver = w.begin(limits=Limits(max_jobs=4, patience_s=100, poll_interval_s=4))
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        w.pulsar.gate.down = {"kill"}
        await w.cancel(task_id, driver)
        await w.pass_(400)
        assert (await w.task(task_id)).state is State.CANCELING
        w.pulsar.gate.down = set()
        await w.until_state(task_id, State.CANCELED, within_s=60)


@pytest.mark.parametrize("name", PULSAR_CALLS)
@pytest.mark.parametrize("script", [Script(), Script(outcome=None, begins=False)])
async def test_a_call_whose_answer_is_lost_changes_nothing_but_delays_the_clean_up(
    name: str, script: Script
) -> None:
    async with world() as w:
        w.pulsar.gate.deaf = {name}
        w.pulsar.scripts = [script]
        w.begin()
        task_id = await w.post()
        await w.pass_(20)
        w.pulsar.gate.deaf = set()
        await w.until_state(task_id, State.COMPLETE)
        await w.until_tidy(task_id)


async def test_a_job_whose_start_timed_out_is_deleted_only_after_the_quarantine() -> None:
    async with world() as w:
        w.pulsar.gate.deaf = {"start"}
        w.begin()
        task_id = await w.post()
        await w.settle()
        w.pulsar.gate.deaf = set()
        task = await w.until_state(task_id, State.COMPLETE, within_s=5)
        assert task.jobs[0].unsure
        ended = w.time.elapsed
        await w.pass_(QUARANTINE_S - 5)
        assert w.pulsar.jobs
        await w.until_tidy(task_id, within_s=10)
        assert w.time.elapsed > ended + QUARANTINE_S - 1


@pytest.mark.parametrize("name", STORE_CALLS)
@pytest.mark.parametrize("heard", [True, False])
async def test_a_store_that_fails_now_and_then_costs_time_only(name: str, heard: bool) -> None:
    async with world() as w:
        gate, numbers = w.store.gate, itertools.count()
        w.pulsar.scripts = [Script(run_s=30), Script(run_s=30)]
        driver = w.begin()

        async def every_other(called: str, _after: bool) -> None:
            """Let two thirds of these calls fail, so that also the repetition of one does."""
            bad = {name} if called == name and next(numbers) % 6 < 4 else set()
            gate.down, gate.deaf = (bad, set()) if heard else (set(), bad)

        gate.hook = every_other
        tasks = [await w.post(word) for word in "abc"]
        for task_id in tasks[:2]:
            await w.until_state(task_id, State.COMPLETE)
            await w.until_tidy(task_id)
        gate.hook, gate.down, gate.deaf = None, set(), set()
        await w.until_state(tasks[2], State.COMPLETE)
        assert len(w.pulsar.runs) == 3
        assert driver in w.running
        assert not w.running[driver].done()


async def test_a_claim_whose_outcome_is_unknown_is_found_again() -> None:
    async with world() as w:
        w.begin()
        await w.settle()
        w.store.gate.deaf = {"save"}
        task_id = await w.post()
        await w.settle()
        w.store.gate.deaf = set()
        assert (await w.task(task_id)).state is State.INITIALIZING
        await w.until_state(task_id, State.COMPLETE, within_s=21)


async def test_without_a_lease_nothing_is_done() -> None:
    async with world() as w:
        w.pulsar.scripts = [LONG]
        w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        w.store.gate.down = {"beat"}
        await w.pass_(31)
        calls = len(w.pulsar.gate.calls)
        await w.pass_(100)
        assert len(w.pulsar.gate.calls) == calls
        w.store.gate.down = set()
        await w.until_state(task_id, State.COMPLETE)


# --- deaths ---


async def test_a_lost_job_gets_a_second_attempt_and_the_last_one_ends_in_system_error() -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(queue_s=60, vanishes_s=10)] * 2
        w.begin()
        task = await w.until_state(await w.post(), State.SYSTEM_ERROR)
        assert len(task.attempts) == 2
        assert all(attempt.ended_at for attempt in task.attempts)
        assert "attempt 2 of 2" in logs(task)
        assert logs(task).count("Pulsar no longer knows it") == 2
        runs = [job.id for job in task.jobs if job.purpose is Purpose.RUN]
        assert runs == w.pulsar.runs
        assert len(set(runs)) == 2
        await w.until_tidy(task.id)


async def test_lost_for_a_moment_is_not_lost() -> None:
    async with world() as w:
        w.pulsar.scripts = [LONG]
        w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        job = w.pulsar.jobs.pop(w.pulsar.runs[0])
        looks = w.pulsar.gate.calls.count("look")
        await w.until(lambda: w.pulsar.gate.calls.count("look") > looks)
        await w.pass_(CONFIRM_LOST_S / 2)
        w.pulsar.jobs[job.id] = job
        task = await w.until_state(task_id, State.COMPLETE)
        assert len(task.attempts) == 1


@pytest.mark.parametrize("rerun", [True, False])
async def test_what_had_started_is_run_again_only_if_the_operator_allows(rerun: bool) -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(run_s=20, outcome=None)]
        w.begin(policy=patient(rerun_started=rerun))
        task = await w.until_state(await w.post(), State.COMPLETE, State.SYSTEM_ERROR)
        assert (task.state is State.COMPLETE) is rerun
        assert len(w.pulsar.runs) == (2 if rerun else 1)
        assert ("dispatch.rerun_started" in logs(task)) is not rerun


async def test_a_job_that_vanished_while_it_ran_may_have_started_its_program() -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(run_s=600, vanishes_s=60)]
        w.begin()
        task = await w.until_state(await w.post(), State.SYSTEM_ERROR)
        assert "Nobody can tell whether an executor had started" in logs(task)
        assert not w.pulsar.living(task.id)
        await w.until_tidy(task.id)


async def test_death_before_the_first_executor_is_followed_by_a_second_attempt() -> None:
    async with world() as w:
        w.pulsar.scripts = [DIES_EARLY]
        w.begin()
        task = await w.until_state(await w.post(), State.COMPLETE)
        assert len(task.attempts) == 2
        assert "tried again" in logs(task)


async def test_pulsar_that_could_not_run_the_job_is_the_reason_given() -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(fails=True)] * 2
        w.begin()
        task = await w.until_state(await w.post(), State.SYSTEM_ERROR)
        assert "Pulsar could not run it" in logs(task)


async def test_a_report_is_found_where_pulsar_says_running_for_ever() -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(run_s=20, says_running=True)]
        w.begin()
        await w.until_state(await w.post(), State.COMPLETE, within_s=80)


async def test_a_silent_job_is_ended_and_not_run_again() -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(run_s=10_000, freezes_s=60)]
        w.begin()
        task = await w.until_state(await w.post(), State.SYSTEM_ERROR, within_s=400)
        assert "heartbeat stopped" in logs(task)
        await w.until_tidy(task.id)


async def test_a_job_killed_by_somebody_else_is_told_so() -> None:
    async with world() as w:
        w.pulsar.scripts = [LONG]
        w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        await w.pulsar._kill(w.pulsar.runs[0])
        task = await w.until_state(task_id, State.SYSTEM_ERROR, within_s=60)
        assert "cancelled at Pulsar, and not by a client" in logs(task)


# --- cancels ---


async def test_a_cancel_before_the_first_claim_needs_no_pulsar() -> None:
    async with world() as w:
        task_id = await w.post()
        await w.cancel(task_id)
        w.begin()
        await w.pass_(5)
        assert (await w.task(task_id)).state is State.CANCELED
        assert w.pulsar.gate.calls == []


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.1, 0.2, 0.34, 5.0, 100.0])
@pytest.mark.parametrize("watchdog", [True, False])
async def test_a_cancel_at_any_moment_ends_everything_soon(after_s: float, watchdog: bool) -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(queue_s=0.1, run_s=600, watchdog=watchdog)]
        driver = w.begin()
        task_id = await w.post()
        await w.pass_(after_s)
        await w.cancel(task_id, driver)
        await w.until_state(task_id, State.CANCELED, within_s=13 if watchdog else 20)
        assert not w.pulsar.living(task_id)
        await w.until_tidy(task_id)


@pytest.mark.parametrize("at", range(24))
async def test_a_cancel_during_a_step_wins(at: int) -> None:
    async with world() as w:
        w.pulsar.scripts = [LONG]
        driver = w.begin()
        await w.settle()
        task_id = await w.post()
        numbers = itertools.count()

        async def cancel_then(_name: str, _after: bool) -> None:
            if next(numbers) == at:
                await w.cancel(task_id, driver)

        w.pulsar.gate.hook = w.store.gate.hook = cancel_then
        await w.until_state(task_id, State.CANCELED, within_s=20)
        assert not w.pulsar.living(task_id)
        await w.until_tidy(task_id)


async def test_a_cancel_between_two_attempts_is_heard() -> None:
    async with world() as w:
        w.pulsar.scripts = [DIES_EARLY, LONG]
        driver = w.begin(limits=Limits(max_jobs=1, patience_s=60, poll_interval_s=4))
        task_id = await w.post()
        await w.post("neighbour")
        w.store.gate.down = {"queued"}
        await w.settle()
        w.store.gate.down = set()
        await w.until(lambda: len(w.pulsar.runs) == 1)
        w.store.gate.down = {"queued"}
        task = await w.until_state(task_id, State.QUEUED)
        assert task.jobs
        await w.cancel(task_id, driver)
        assert (await w.task(task_id)).state is State.CANCELING
        await w.until_state(task_id, State.CANCELED, within_s=5)
        await w.until_tidy(task_id)


async def test_a_kill_that_missed_is_repeated() -> None:
    async with world() as w:
        w.pulsar.scripts = [LONG]
        driver = w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)

        async def miss(name: str, after: bool) -> None:
            if name == "kill" and after and w.pulsar.gate.calls.count("kill") == 1:
                w.pulsar.jobs[w.pulsar.runs[0]].killed = None

        w.pulsar.gate.hook = miss
        await w.cancel(task_id, driver)
        await w.until_state(task_id, State.CANCELED, within_s=40)
        assert w.pulsar.gate.calls.count("kill") == 2


async def test_what_the_runner_told_before_it_was_killed_is_kept() -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(run_s=1)]
        w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        await w.cancel(task_id)  # nobody tells the driver before the job has ended
        await w.pass_(1.2)
        task = await w.until_state(task_id, State.CANCELED, within_s=20)
        assert task.attempts[0].executors[0].exit_code == 0


# --- clean-up ---


@pytest.mark.parametrize("failures", [0, 1, 3])
async def test_containers_without_a_watchdog_are_reaped_before_the_task_is_canceled(
    failures: int,
) -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(run_s=600, watchdog=False)]
        w.pulsar.broken_reapers = failures
        driver = w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        await w.cancel(task_id, driver)
        task = await w.until_state(task_id, State.CANCELED, within_s=20 + 30 * failures**2)
        assert not w.pulsar.living(task_id)
        assert len([job for job in task.jobs if job.purpose is Purpose.REAP]) == failures + 1
        await w.until_tidy(task_id)


async def test_a_canceled_job_that_had_lost_its_directory_while_it_ran_is_reaped() -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(run_s=600, watchdog=False)]
        driver = w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        w.pulsar.gut(w.pulsar.runs[0])
        await w.cancel(task_id, driver)
        await w.until_state(task_id, State.CANCELED, within_s=60)
        assert not w.pulsar.living(task_id)
        await w.until_tidy(task_id)


async def test_a_job_that_pulsar_took_and_never_started_is_submitted_again() -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(forgotten=True)]
        w.begin()
        task = await w.until_state(await w.post(), State.COMPLETE, within_s=60)
        assert len(task.attempts) == 1
        assert w.pulsar.runs == [task.jobs[0].id] * 2


async def test_a_short_job_that_ran_unseen_and_lost_its_directory_is_not_run_again() -> None:
    async with world() as w:
        w.begin()

        async def look_away(name: str, done: bool) -> None:
            if name == "start" and done and len(w.pulsar.jobs) == 1:
                w.pulsar.gut(w.pulsar.runs[0])
                w.pulsar.gate.down = {"look"}

        w.pulsar.gate.hook = look_away
        task_id = await w.post()
        await w.pass_(20)
        w.pulsar.gate.down = set()
        task = await w.until_state(task_id, State.SYSTEM_ERROR, within_s=120)
        assert len(w.pulsar.runs) == 1
        assert "Nobody can tell whether an executor had started" in logs(task)


async def test_each_attempt_has_a_reaper_of_its_own() -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(run_s=20, outcome=None, watchdog=False)] * 3
        w.begin(policy=patient(rerun_started=True, max_attempts=3))
        task = await w.until_state(await w.post(), State.SYSTEM_ERROR)
        assert w.pulsar.reaped[0] != w.pulsar.reaped[-1]
        assert set(w.pulsar.reaped) == set(w.pulsar.runs)
        assert not w.pulsar.living(task.id)


async def test_a_directory_that_cannot_yet_be_deleted_is_tried_again() -> None:
    async with world() as w:
        w.pulsar.sticky_deletes = 3
        w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.COMPLETE)
        await w.until_tidy(task_id, within_s=30)
        assert w.pulsar.jobs == {}


async def test_a_stranger_finds_the_clean_up_that_was_left() -> None:
    async with world() as w:
        w.pulsar.gate.down = {"forget"}
        w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.COMPLETE)
        await w.crash()
        w.pulsar.gate.down = set()
        w.begin()
        await w.until_tidy(task_id, within_s=QUARANTINE_S + 10)


# --- restarts ---


async def test_a_new_driver_goes_on_at_once_where_the_store_is_its_own() -> None:
    async with world() as w:
        w.pulsar.scripts = [LONG]
        w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        await w.crash()
        w.begin()
        await w.pass_(1)
        task = await w.task(task_id)
        assert task.driver == "driver-1"
        await w.until_state(task_id, State.COMPLETE)
        assert len(w.pulsar.runs) == 1


async def test_stop_lets_steps_end_and_hands_over() -> None:
    async with world() as w:
        w.store.sole = False
        w.pulsar.scripts = [LONG]
        first = w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        stopping = asyncio.create_task(first.stop(w.running.pop(first)))
        await w.pass_(1)
        await stopping
        w.begin()
        await w.pass_(1)
        assert (await w.task(task_id)).driver == "driver-1"


CANCEL = "cancel"
OUTPUTS = [{"path": "/out", "url": "s3://bucket/out", "type": "DIRECTORY"}]
LEFT = (
    Left(output=0, path="/out/a", below="a", size_bytes=1),
    Left(output=0, path="/out/b", below="b", size_bytes=FakeStorage.LARGE),
)
STORAGE_CALLS = ("list", "begin", "complete", "abort")
MOST_CRASHES = int(os.environ.get("TESP_TEST_CRASHES", "14"))
"""How many moments of each story are tried; the property test below tries others each time."""
STORIES: dict[str, tuple[list[Script], str | None, frozenset[State]]] = {
    "success": ([Script()], None, frozenset({State.COMPLETE})),
    "failure": ([Script(outcome="executor_error")], None, frozenset({State.EXECUTOR_ERROR})),
    "lost": (
        [Script(queue_s=60, vanishes_s=1)],
        None,
        frozenset({State.COMPLETE, State.SYSTEM_ERROR}),  # who was away did not see it waiting
    ),
    "early death": ([DIES_EARLY], None, frozenset({State.COMPLETE})),
    "late death": ([Script(run_s=2, outcome=None)], None, frozenset({State.SYSTEM_ERROR})),
    "orphaned containers": (
        [Script(run_s=2, outcome=None, watchdog=False)],
        None,
        frozenset({State.SYSTEM_ERROR}),
    ),
    "cancel": ([LONG], CANCEL, frozenset({State.CANCELED})),
    "cancel without watchdog": (
        [Script(run_s=600, watchdog=False)],
        CANCEL,
        frozenset({State.CANCELED}),
    ),
    "cancel of what vanished": (
        [Script(run_s=600, vanishes_s=1.5)],
        CANCEL,
        frozenset({State.CANCELED}),
    ),
    "outputs left": ([Script(left=LEFT)], None, frozenset({State.COMPLETE})),
    "outputs of a failure left": (
        [Script(outcome="executor_error", left=LEFT)],
        None,
        frozenset({State.EXECUTOR_ERROR}),
    ),
    "stale inputs": ([Script(outcome="stale", begins=False)], None, frozenset({State.COMPLETE})),
    "stale outputs": (
        [Script(left=LEFT), Script(outcome="stale")],
        None,
        frozenset({State.COMPLETE}),
    ),
    "death while outputs are sent": (
        [Script(left=LEFT), Script(run_s=1, outcome=None)],
        None,
        frozenset({State.COMPLETE, State.SYSTEM_ERROR}),
    ),
    "cancel while outputs are sent": (
        [Script(left=LEFT), LONG],
        CANCEL,
        frozenset({State.CANCELED}),
    ),
}


async def tell(story: str, crash_at: Callable[[int], bool]) -> tuple[Task, int]:
    """Play the story with a crash before or after each call that `crash_at` names by its number.

    Returns how it ended, and how many such moments there were.
    """
    scripts, cancel, ends = STORIES[story]
    policy = patient(quarantine_s=3.0)
    async with world() as w:
        w.pulsar.scripts = list(scripts)
        task_id, numbers = await w.post(outputs=OUTPUTS), itertools.count()
        drivers = [w.begin(policy=policy)]

        async def maybe_crash(name: str, _after: bool) -> None:
            if name in (*PULSAR_CALLS, *STORAGE_CALLS, "get", "save") and crash_at(next(numbers)):
                for running in w.running.values():
                    running.cancel()
                await asyncio.get_running_loop().create_future()

        w.pulsar.gate.hook = w.store.gate.hook = w.storage.gate.hook = maybe_crash
        asked = cancel is None
        while (task := await w.task(task_id)).state not in TERMINAL or task.untidy:
            assert w.time.elapsed < 900, task
            if all(running.done() for running in w.running.values()):
                await w.crash()
                drivers.append(w.begin(policy=policy))
            elif not asked and w.time.elapsed > 1.7:
                asked = True
                await w.cancel(task_id, drivers[-1])
            await w.pass_(0.25)
        assert task.state in ends, task
        assert not w.pulsar.living(TaskId("a"))
        assert w.pulsar.jobs == {}
        assert w.storage.open == w.storage.of_others
        assert len(w.pulsar.runs) <= len(scripts) + 1
        return task, next(numbers)


@pytest.mark.parametrize("story", STORIES)
async def test_a_crash_before_or_after_any_call_changes_nothing(story: str) -> None:
    undisturbed, moments = await tell(story, lambda _number: False)
    for at in range(moments)[:: moments // MOST_CRASHES + 1]:
        task, _ = await tell(story, at.__eq__)
        if story == "lost" and "Nobody can tell" in logs(task):
            continue
        assert task.state is undisturbed.state
        assert len(task.attempts) == len(undisturbed.attempts)


@settings(max_examples=25)
@given(
    story=st.sampled_from(sorted(STORIES)),
    crashes=st.frozensets(st.integers(min_value=0, max_value=150), max_size=12),
)
def test_any_number_of_crashes_changes_nothing(story: str, crashes: frozenset[int]) -> None:
    task, _ = asyncio.run(tell(story, crashes.__contains__))
    assert task.state in STORIES[story][2]


# --- several drivers ---


async def test_two_drivers_share_the_slots_and_never_one_task() -> None:
    async with world() as w:
        w.store.sole = False
        for number in range(30):
            await w.post(f"t{number}")
        drivers = [w.begin(), w.begin()]
        most, who = 0, set()
        while len(w.pulsar.runs) < 30 or w.pulsar.jobs:
            await w.pass_(0.05)
            most = max(most, len(w.pulsar.jobs))
            held = await w.store._real.driven(None, frozenset({State.INITIALIZING, State.RUNNING}))
            assert len(held) <= LIMITS.max_jobs
            who |= {glance.driver for glance in held}
            assert w.time.elapsed < 120
        assert most <= LIMITS.max_jobs + 2  # ended jobs on their way out hold no slot
        assert len(w.pulsar.runs) == len(set(w.pulsar.runs)) == 30
        assert all(not w.running[driver].done() for driver in drivers)


async def test_a_cancel_written_by_another_process_is_heard_within_seconds() -> None:
    async with world() as w:
        w.store.sole = False
        w.pulsar.scripts = [LONG]
        w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        stranger = w.begin()
        await w.pass_(100)
        await w.cancel(task_id, stranger)
        await w.until_state(task_id, State.CANCELED, within_s=15)


@pytest.mark.parametrize("wrong_s", [-3600.0, 3600.0])
async def test_the_tasks_of_a_dead_driver_are_adopted_whatever_the_clocks_say(
    wrong_s: float,
) -> None:
    async with world() as w:
        w.store.sole = False
        w.pulsar.scripts = [LONG]
        first = w.begin()
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        w.begin(clock=StillClock(w.time, wrong_s=wrong_s, since_boot_s=7.0))
        await w.pass_(200)
        assert (await w.task(task_id)).driver == "driver-0"
        await w.crash(first)
        died = w.time.elapsed
        await w.until_state(task_id, State.COMPLETE)
        task = await w.task(task_id)
        assert task.driver == "driver-1"
        assert len(w.pulsar.runs) == 1
        assert task.jobs[0].unsure
        assert died < w.time.elapsed
        ended = w.time.elapsed
        await w.until_tidy(task_id)
        assert QUARANTINE_S - 1 < w.time.elapsed - ended < QUARANTINE_S + 10


async def test_a_driver_cut_off_from_the_store_is_replaced_and_does_no_harm_when_it_returns() -> (
    None
):
    async with world() as w:
        w.store.sole = False
        link = WeatherStore(w.store)
        link.sole = False
        w.pulsar.scripts = [LONG]
        w.begin(store=link)
        task_id = await w.post()
        await w.until_state(task_id, State.RUNNING)
        w.begin()
        await w.pass_(60)
        assert (await w.task(task_id)).driver == "driver-0"
        link.gate.down = set(STORE_CALLS)
        await w.pass_(60)
        assert (await w.task(task_id)).driver == "driver-1"
        link.gate.down = set()
        await w.pass_(60)
        assert (await w.task(task_id)).driver == "driver-1"
        await w.until_state(task_id, State.COMPLETE)
        assert len(w.pulsar.runs) == 1
