"""What has to be done for a task in each state, one step at a time.

A duty returns the task as it should be saved next, or None when there is nothing new: look again
later. It raises Unreachable when the other side did not answer: the same step again.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from tesp_api.domain import lifecycle
from tesp_api.domain.errors import OutOfReach
from tesp_api.domain.lifecycle import TERMINAL, Broke, Killed, Outcome, Started, Submitted
from tesp_api.domain.report import Report, Verdict, unframe
from tesp_api.domain.task import JobId, Purpose, Task
from tesp_api.domain.tes import State
from tesp_api.drive import Drive
from tesp_api.orders import Orders
from tesp_api.ports import UNSTARTED, Clock, JobRunner, Phase, Sighting, Traces
from tesp_api.tidier import Tidier
from tesp_api.undertaker import Undertaker
from tesp_api.verdict import Death, Policy, died, epitaph, reported, waited_for

CONFIRM_LOST_S: Final = 2.0
"""Pulsar may say `lost` for a moment; it has to say so for this long."""
RESUBMIT_S: Final = 30.0
QUIET: Final = frozenset({Phase.WAITING, Phase.RUNNING})
"""Phases in which there is nothing to do but wait."""
PULSE_SHARE: Final = 0.1
"""The runner's own word is read first after this share of the silence that is borne, then more
seldom, at last as often as the silence lasts."""


Handler = Callable[[Task, Drive, Sighting], Awaitable[Task | None]]


class Duties:
    """The steps. Stateless beside its neighbours: everything it knows comes with the call."""

    def __init__(self, runner: JobRunner, orders: Orders, policy: Policy, clock: Clock) -> None:
        self.place = runner.name
        self._runner = runner
        self._orders = orders
        self._policy = policy
        self._clock = clock
        self._undertaker = Undertaker(runner, orders, clock)
        self._tidier = Tidier(runner, orders, clock, policy.quarantine_s)
        self._on_phase: Mapping[Phase, Handler] = {
            Phase.SET_UP: self._on_set_up,
            Phase.WAITING: self._on_waiting,
            Phase.RUNNING: self._on_running,
            Phase.ENDED: self._on_end,
            Phase.FAILED: self._on_end,
            Phase.KILLED: self._on_end,
            Phase.UNKNOWN: self._on_lost,
        }

    async def step(self, task: Task, drive: Drive) -> Task | None:
        """Do what the task's state asks for; no step reaches what the storage cannot."""
        try:
            return await self._duty(task, drive)
        except OutOfReach as error:
            return lifecycle.advance(
                task, Broke(at=self._clock.now(), reason=f"{error} {error.turn}")
            )

    async def _duty(self, task: Task, drive: Drive) -> Task | None:
        match task.state:
            case State.INITIALIZING | State.RUNNING if not waited_for(task).submitted:
                return await self._start(task, drive)
            case State.INITIALIZING | State.RUNNING:
                return await self._watch(task, drive)
            case State.CANCELING:
                return await self._kill(task, drive)
            case state if state in TERMINAL:
                return await self._tidier.tidy(task, drive)
            case _:
                return None

    async def undo(self, kept: Task | None, lost: Task) -> None:
        """Take back what was done for the task that could not be saved, and the kept one lacks.

        Whoever saved that one has perhaps cleaned up by now: before we did what is undone here.
        """
        job, known = lost.job, kept.jobs if kept else ()
        if job and (kept is None or any(one.id == job.id and one.forgotten for one in known)):
            await self._runner.forget(job.id)
        uploads = kept.uploads if kept else ()
        begun = [one for one in lost.uploads if one.id is not None and one not in uploads]
        with contextlib.suppress(OutOfReach):
            await self._orders.abort_uploads(lost, begun)

    async def nothing_new(self, drive: Drive) -> bool:
        """Whether Pulsar says of the watched job what it said last time, and no pulse is due.

        One call to Pulsar and none to the store: the common case of a running task. What is new
        is kept for the step that follows.
        """
        if drive.job is None or drive.phase not in QUIET or self._pulse_due(drive):
            return False
        seen = await self._runner.look(drive.job)
        drive.seen = None if seen.phase is drive.phase else seen
        if drive.seen is None:
            drive.saw(seen.phase, self._clock.monotonic())
        return drive.seen is None

    async def _start(self, task: Task, drive: Drive) -> Task:
        if planned := await self._orders.plan_uploads(task):
            return lifecycle.upload(task, *planned)
        if begun := await self._orders.begin_uploads(task, again=drive.doubt):
            return lifecycle.upload(task, *begun)
        job = waited_for(task)
        if not (drive.doubt and await self._is_under_way(job.id)):
            order = await self._orders.of(task, job)
            await self._runner.start(job.id, order, again=drive.doubt)
        return lifecycle.advance(task, Submitted(at=self._clock.now()))

    async def _is_under_way(self, job: JobId) -> bool:
        return (await self._runner.look(job)).phase not in UNSTARTED

    async def _watch(self, task: Task, drive: Drive) -> Task | None:
        job = waited_for(task)
        fresh = drive.seen if drive.job == job.id else None
        seen = fresh or await self._runner.look(job.id)
        drive.job, drive.seen = job.id, None
        drive.saw(seen.phase, self._clock.monotonic())
        return await self._on_phase[seen.phase](task, drive, seen)

    async def _on_set_up(self, task: Task, drive: Drive, _seen: Sighting) -> Task | None:
        """Pulsar has the files but not the submit; it is safe to repeat, unless the job ran.

        Pulsar says so too of a job whose directory was removed: it made a new one for the end.
        """
        job = waited_for(task)
        if not job.ran:
            if self._clock.monotonic() - drive.phase_since < RESUBMIT_S:
                return None
            if job.purpose is Purpose.STAGE_OUT or await self._runner.has_unbegun(job.id):
                order = await self._orders.of(task, job)
                await self._runner.start(job.id, order)
                drive.phase_since = self._clock.monotonic()
                return None
        drive.files_lost = True
        return await self._mourn(task, drive, "Pulsar has lost its files")

    async def _on_waiting(self, _task: Task, _drive: Drive, _seen: Sighting) -> None:
        return None

    async def _on_running(self, task: Task, drive: Drive, _seen: Sighting) -> Task | None:
        if task.state is State.INITIALIZING:
            return lifecycle.advance(task, Started(at=self._clock.now()))
        return await self._feel_pulse(task, drive) if self._pulse_due(drive) else None

    def _pulse_due(self, drive: Drive) -> bool:
        if drive.phase is not Phase.RUNNING:
            return False
        now = self._clock.monotonic()
        silence_s = self._policy.silence_s
        pause = min(max((now - drive.phase_since) / 4, silence_s * PULSE_SHARE), silence_s)
        return now - max(drive.pulse_checked, drive.phase_since) > pause

    async def _feel_pulse(self, task: Task, drive: Drive) -> Task | None:
        """Read the runner's own word: after a restart Pulsar says `running` for ever."""
        now = drive.pulse_checked = self._clock.monotonic()
        job = waited_for(task)
        traces = await self._runner.settle(job.id)
        if report := unframe(traces.report or "", job.id):
            return await self._judge(task, report)
        if traces.heartbeat != drive.pulse or drive.pulse_since is None:
            drive.pulse, drive.pulse_since = traces.heartbeat, now
        if drive.killed_at is None and now - drive.pulse_since < self._policy.silence_s:
            return None
        return await self._mourn(
            task, drive, "its heartbeat stopped while Pulsar said it was running"
        )

    async def _on_end(self, task: Task, drive: Drive, seen: Sighting) -> Task | None:
        job = waited_for(task)
        if report := unframe(seen.output, job.id):
            return await self._judge(task, report)
        return await self._mourn(task, drive, epitaph(seen))

    async def _on_lost(self, task: Task, drive: Drive, _seen: Sighting) -> Task | None:
        if self._clock.monotonic() - drive.phase_since < CONFIRM_LOST_S:
            return None
        return await self._mourn(task, drive, "Pulsar no longer knows it")

    async def _judge(self, task: Task, report: Report) -> Task:
        """Do what the runner's word asks for before the event that follows from it."""
        sent = waited_for(task).purpose is Purpose.STAGE_OUT
        if sent and report.outcome is Verdict.COMPLETE:
            await self._orders.complete_uploads(task, report.etags)
        return lifecycle.advance(task, reported(task, report, self._clock.now()))

    async def _mourn(self, task: Task, drive: Drive, why: str) -> Task | None:
        """End a job that died without a report, once nothing of it can come any more."""
        drive.why = drive.why or why
        buried = await self._undertaker.bury(task, drive)
        if not isinstance(buried, Traces):
            return buried
        report = unframe(buried.report or "", waited_for(task).id)
        if report and not (report.outcome is Verdict.EXECUTOR_ERROR and task.reapers):
            return await self._judge(task, report)
        # No report; or the program was ended by our own reaper, which is no fault of its own.
        death = Death(
            where=self.place,
            why=drive.why,
            traces=buried,
            files_lost=drive.files_lost,
            never_ran=drive.never_ran,
        )
        return lifecycle.advance(task, died(task, death, self._policy, self._clock.now()))

    async def _kill(self, task: Task, drive: Drive) -> Task | None:
        if task.job is None:
            return lifecycle.advance(task, Killed(at=self._clock.now()))
        buried = await self._undertaker.bury(task, drive)
        if not isinstance(buried, Traces):
            return buried
        report = unframe(buried.report or "", task.job.id)
        told = report.told() if report else Outcome()
        return lifecycle.advance(task, Killed(at=self._clock.now(), outcome=told))
