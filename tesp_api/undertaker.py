"""Sees to it that nothing of a job can come any more, whatever Pulsar says of it."""

from typing import Final

from tesp_api.domain import lifecycle
from tesp_api.domain.report import Verdict, unframe
from tesp_api.domain.task import Task
from tesp_api.drive import Drive
from tesp_api.orders import Orders
from tesp_api.ports import OVER, UNSTARTED, Clock, JobRunner, Phase, Traces
from tesp_api.verdict import waited_for

KILL_AGAIN_S: Final = 15.0
"""A kill may meet a job that is just being started, and miss it."""
STAYS_SET_UP_S: Final = 5.0
"""A job that Pulsar calls set up for so long after its id was taken and killed has lost its files:
Pulsar has known its id all along, and starts nothing under it."""
REAP_AGAIN_S: Final = 30.0
"""After the first failed reaper; after the second four times that, and so on in squares."""
WATCHDOG_S: Final = 15.0
"""The runner's watchdog is gone ten seconds after the runner; after this it is not waited for."""
LATE_START_S: Final = 3.0
"""Pulsar calls a job cancelled whose process it is just starting, and does not kill that one: only
after this does no trace of a runner mean that there is none."""


class Undertaker:
    """Kills jobs, and has what outlives them cleaned up by jobs of ours: reapers."""

    def __init__(self, runner: JobRunner, orders: Orders, clock: Clock) -> None:
        self._runner = runner
        self._orders = orders
        self._clock = clock

    async def bury(self, task: Task, drive: Drive) -> Traces | Task | None:
        """Make sure that nothing of the job that the task waits for can come any more.

        Returns what can be read of it once that is so; a task to be saved first; or None: look
        again. The proof is the runner's report, or its watchdog's word, or that it never had one,
        or a reaper.
        """
        job = waited_for(task)
        if drive.killed_at is None:
            if job.submitted and not task.reapers and not await self._is_under_way(task):
                # Lost. Kept before the kill, which makes the id known to Pulsar again.
                return lifecycle.reap(task, self._clock.now())
            await self._runner.kill(job.id)
            drive.killed_at = self._clock.monotonic()
        phase = (await self._runner.look(job.id)).phase
        return await self._after_kill(task, drive, phase)

    async def _is_under_way(self, task: Task) -> bool:
        return (await self._runner.look(waited_for(task).id)).phase not in UNSTARTED

    async def _after_kill(self, task: Task, drive: Drive, phase: Phase) -> Traces | Task | None:
        assert drive.killed_at is not None
        for_s = self._clock.monotonic() - drive.killed_at
        if phase not in OVER and not (phase is Phase.SET_UP and for_s > STAYS_SET_UP_S):
            if for_s > KILL_AGAIN_S:
                drive.killed_at = None
            return None
        job = waited_for(task)
        traces = await self._runner.settle(job.id)
        if traces.watch is None and for_s < LATE_START_S:
            return None
        lost = phase in UNSTARTED and not task.reapers  # after the kill, traces and all
        if unframe(traces.report or "", job.id) or (not lost and _is_at_rest(task, traces)):
            return traces
        return await self._reap(task, drive, traces) if for_s >= _patience_s(task) else None

    async def _reap(self, task: Task, drive: Drive, traces: Traces) -> Traces | Task | None:
        """Have a job of ours clean up after the run job; `traces` comes back when it has."""
        reaper = next((job for job in task.reapers if not job.forgotten), None)
        if reaper is None:
            return lifecycle.reap(task, self._clock.now())
        if drive.reaping != reaper.id:
            if (await self._runner.look(reaper.id)).phase in UNSTARTED:
                order = self._orders.reap(task, reaper.id, waited_for(task).id)
                await self._runner.start(reaper.id, order)
            drive.reaping = reaper.id
        seen = await self._runner.look(reaper.id)
        if seen.phase not in OVER:
            return None
        report = unframe(seen.output, reaper.id)
        if report is not None and report.outcome is Verdict.COMPLETE:
            return traces
        await self._runner.forget(reaper.id)
        return lifecycle.forget(task, reaper.id)


def _patience_s(task: Task) -> float:
    """Return how long after the kill a reaper is due: at once for a lost job, which has one."""
    if not task.reapers:
        return WATCHDOG_S
    return REAP_AGAIN_S * sum(job.forgotten for job in task.reapers) ** 2


def _is_at_rest(task: Task, traces: Traces) -> bool:
    """Whether the runner left nothing.

    Its watchdog is up before the first container is asked for. So no trace of one is proof, unless
    the traces themselves were lost: with the job, which is when there is a reaper, or under a job
    that was seen running.
    """
    if traces.watch is None:
        return not waited_for(task).ran and not task.reapers
    return traces.watch.startswith("reaped")
