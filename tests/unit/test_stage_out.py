"""Outputs that only the end of the run could name: a second job sends them, signed as late."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tesp_api.domain.errors import OutOfReach
from tesp_api.domain.task import Left, Purpose, Task
from tesp_api.domain.tes import State
from tests.unit.fakes import Script, World, world

SMALL = Left(output=0, path="/out/a.txt", below="a.txt", size_bytes=10)
LARGE = Left(output=0, path="/out/b.bin", below="b.bin", size_bytes=5000)
OUTPUTS = [{"path": "/out", "url": "s3://bucket/out", "type": "DIRECTORY"}]


async def ended(w: World, *scripts: Script, state: State = State.COMPLETE, **request: Any) -> Task:
    w.pulsar.scripts = list(scripts)
    task_id = await w.post(outputs=OUTPUTS, **request)
    return await w.until_state(task_id, state)


def purposes(task: Task) -> Sequence[Purpose]:
    return [job.purpose for job in task.jobs]


async def test_what_was_left_is_sent_by_a_second_job_and_the_task_is_one_attempt() -> None:
    async with world() as w:
        w.begin()
        task = await ended(w, Script(left=(SMALL,)))
        assert purposes(task) == [Purpose.RUN, Purpose.STAGE_OUT]
        assert len(task.attempts) == 1
        assert task.attempts[0].executors[0].exit_code == 0
        assert task.left == ()
        (order,) = w.pulsar.sends.values()
        assert (order["mode"], order["of"]) == ("send", task.jobs[0].id)
        assert [file["path"] for file in order["files"]] == ["/out/a.txt"]
        assert "s3://bucket/out/a.txt" in order["files"][0]["url"]
        await w.until_tidy(task.id)
        assert w.pulsar.jobs == {}


async def test_the_end_of_a_short_stage_out_is_noticed_at_once() -> None:
    async with world() as w:
        w.begin()
        await ended(w, Script(run_s=300, left=(SMALL,)))
        assert w.time.elapsed < 300 + 4.5 + 1, "the longest poll after the run, none after the rest"


async def test_a_large_file_goes_up_in_parts_and_is_completed_once_all_are_there() -> None:
    async with world() as w:
        w.begin()
        task = await ended(w, Script(left=(SMALL, LARGE)))
        (order,) = w.pulsar.sends.values()
        assert [len(file.get("parts", ())) for file in order["files"]] == [0, 3]
        assert w.storage.completed == ["upload-0"]
        task = await w.until_tidy(task.id)
        assert task.uploads == ()


async def test_an_upload_is_kept_in_the_store_before_it_is_used() -> None:
    async with world() as w:
        seen = []

        async def at(name: str, done: bool) -> None:
            task = await w.task(task_id)
            if name == "start" and not done and task.job and task.job.purpose is Purpose.STAGE_OUT:
                seen.append([upload.id for upload in task.uploads])

        w.pulsar.scripts = [Script(left=(LARGE,))]
        task_id = await w.post(outputs=OUTPUTS)
        w.pulsar.gate.hook = at
        w.begin()
        await w.until_state(task_id, State.COMPLETE)
        assert seen == [["upload-0"]]


async def test_a_failed_executor_stays_the_end_whatever_becomes_of_its_outputs() -> None:
    async with world() as w:
        w.begin()
        failed = Script(outcome="executor_error", left=(SMALL,))
        task = await ended(w, failed, state=State.EXECUTOR_ERROR)
        assert purposes(task) == [Purpose.RUN, Purpose.STAGE_OUT]
        w.pulsar.scripts = [failed, Script(outcome="system_error")]
        task_id = await w.post("b", outputs=OUTPUTS)
        task = await w.until_state(task_id, State.EXECUTOR_ERROR)
        assert task.attempts[0].system_logs[-1] == "it failed"


async def test_outputs_that_cannot_be_sent_end_the_task_and_abort_what_was_begun() -> None:
    async with world() as w:
        w.begin()
        scripts = Script(left=(LARGE,)), Script(outcome="system_error")
        task = await ended(w, *scripts, state=State.SYSTEM_ERROR)
        assert "it failed" in task.attempts[0].system_logs
        task = await w.until_tidy(task.id)
        assert (w.storage.completed, w.storage.aborted) == ([], ["upload-0"])


async def test_signatures_that_ended_are_made_anew_for_the_same_attempt() -> None:
    async with world() as w:
        w.begin()
        stale = Script(outcome="stale", begins=False)
        inputs = [{"path": "/in", "url": "s3://bucket/in"}]
        task = await ended(w, stale, stale, Script(), inputs=inputs)
        assert purposes(task) == [Purpose.RUN] * 3
        assert len(task.attempts) == 1
        await w.until_tidy(task.id)
        assert w.pulsar.jobs == {}


async def test_signatures_are_not_made_anew_for_ever() -> None:
    async with world() as w:
        w.begin()
        task = await ended(w, *[Script(outcome="stale")] * 9, state=State.SYSTEM_ERROR)
        assert len(task.jobs) == 5


async def test_a_stale_stage_out_is_sent_again_with_new_signatures() -> None:
    async with world() as w:
        w.begin()
        task = await ended(w, Script(left=(SMALL,)), Script(outcome="stale"), Script())
        assert purposes(task) == [Purpose.RUN, Purpose.STAGE_OUT, Purpose.STAGE_OUT]
        first, second = (order["files"][0]["url"] for order in w.pulsar.sends.values())
        assert first != second


@pytest.mark.parametrize("lost", [Script(outcome=None), Script(run_s=99, vanishes_s=1)])
async def test_a_dead_stage_out_is_tried_again_and_no_executor_is(lost: Script) -> None:
    async with world() as w:
        w.begin()
        task = await ended(w, Script(left=(SMALL,)), lost, Script())
        assert (len(w.pulsar.runs), len(w.pulsar.sends)) == (1, 2)
        assert len(task.attempts) == 1
        assert "sent again" in " ".join(task.attempts[0].system_logs)
        await w.until_tidy(task.id)
        assert w.pulsar.jobs == {}


async def test_a_stage_out_that_keeps_dying_ends_the_task() -> None:
    async with world() as w:
        w.begin()
        dead = Script(outcome=None)
        task = await ended(w, Script(left=(LARGE,)), dead, dead, state=State.SYSTEM_ERROR)
        assert "attempt 2 of 2 to send the outputs." in task.attempts[0].system_logs[-1]
        await w.until_tidy(task.id)
        assert w.storage.aborted == ["upload-0"]


async def test_a_cancel_reaches_the_second_job_too() -> None:
    async with world() as w:
        driver = w.begin()
        w.pulsar.scripts = [Script(left=(LARGE,)), Script(run_s=500)]
        task_id = await w.post(outputs=OUTPUTS)
        await w.until(lambda: bool(w.pulsar.sends))
        await w.pass_(1)
        await w.cancel(task_id, driver)
        task = await w.until_state(task_id, State.CANCELED, within_s=60)
        await w.until_tidy(task.id)
        assert w.pulsar.jobs == {}
        assert w.storage.aborted == ["upload-0"]


@pytest.mark.parametrize("name", ["begin", "complete", "abort"])
async def test_a_storage_that_does_not_answer_is_waited_for(name: str) -> None:
    async with world() as w:
        w.begin()
        w.pulsar.scripts = [Script(left=(LARGE,))]
        w.storage.gate.down = {name}
        task_id = await w.post(outputs=OUTPUTS)
        await w.until(lambda: name in w.storage.gate.calls)
        await w.pass_(40)
        task = await w.task(task_id)
        if name == "abort":
            assert task.state is State.COMPLETE
        else:
            assert task.state is State.RUNNING
            assert "Waiting: no storage" in task.attempts[0].system_logs[-1]
        w.storage.gate.down = set()
        await w.until_state(task_id, State.COMPLETE)
        assert (await w.until_tidy(task_id)).uploads == ()


async def test_an_upload_that_may_not_be_aborted_is_told_and_let_go() -> None:
    async with world() as w:
        w.storage.gate.trouble = lambda name: OutOfReach(f"{name}: access denied.")
        w.storage.gate.down = {"abort"}
        w.begin()
        task = await ended(w, Script(left=(LARGE,)))
        task = await w.until_tidy(task.id)
        line = "Parts of an upload may be left: abort: access denied."
        assert task.attempts[0].system_logs[-1] == line


async def test_what_was_begun_and_not_kept_is_let_go_of_and_nobody_else_s() -> None:
    async with world() as w:
        w.pulsar.scripts = [Script(left=(LARGE,))]
        task_id = await w.post(outputs=OUTPUTS)

        async def crash(name: str, done: bool) -> None:
            if name == "begin" and done and len(w.storage.begun) == 1:
                for running in w.running.values():
                    running.cancel()
                await asyncio.get_running_loop().create_future()

        w.storage.gate.hook = crash
        w.begin()
        await w.pass_(5)
        await w.crash()
        w.begin()
        await w.until_state(task_id, State.COMPLETE)
        await w.until_tidy(task_id)
        assert w.storage.completed == ["upload-1"]
        assert w.storage.open == w.storage.of_others


async def test_an_upload_begun_while_somebody_else_took_over_is_let_go_of() -> None:
    async with world() as w:
        driver = w.begin()
        w.pulsar.scripts = [Script(left=(LARGE,))]
        task_id = await w.post(outputs=OUTPUTS)

        async def interfere(name: str, done: bool) -> None:
            if name == "begin" and done:
                await w.cancel(task_id, driver)

        w.storage.gate.hook = interfere
        await w.until_state(task_id, State.CANCELED)
        await w.until_tidy(task_id)
        assert w.storage.open == w.storage.of_others


async def test_a_storage_that_tells_of_no_uploads_is_used_all_the_same() -> None:
    async with world() as w:
        w.storage.closed_mouth = True
        w.begin()
        await ended(w, Script(left=(LARGE,)))
        assert w.storage.completed == ["upload-0"]
