"""What has to be done for a task in each state, one step at a time.

A duty returns the task as it should be saved next, or None when there is nothing new: look again
later. It raises Unreachable when the other side did not answer: the same step again.
"""

import itertools
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tesp_api.domain import lifecycle
from tesp_api.domain.errors import OutOfReach, RunnerUnreachable
from tesp_api.domain.lifecycle import (
    TERMINAL,
    Broke,
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
)
from tesp_api.domain.report import Report, Verdict, unframe
from tesp_api.domain.task import Job, JobId, Left, Purpose, Task, TaskId
from tesp_api.domain.tes import State
from tesp_api.orders import Orders
from tesp_api.ports import Clock, JobRunner, Phase, Sighting, Traces

OVER: Final = frozenset({Phase.ENDED, Phase.FAILED, Phase.KILLED, Phase.UNKNOWN})
"""Phases from which Pulsar itself starts nothing more."""
CONFIRM_LOST_S: Final = 2.0
"""Pulsar may say `lost` for a moment; it has to say so for this long."""
RESUBMIT_S: Final = 30.0
KILL_AGAIN_S: Final = 15.0
"""A kill may meet a job that is just being started, and miss it."""
QUIET: Final = frozenset({Phase.WAITING, Phase.RUNNING})
"""Phases in which there is nothing to do but wait."""
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
MOST_SIGNINGS: Final = 5
"""How often URLs are signed anew for jobs that begin only after the signatures have ended."""
BLINK_SHARE: Final = 0.25
"""A job that was seen waiting, and was lost with all its files within this share of the time it had
waited so far, has not run: looks are that near together unless nobody could look."""
PULSE_SHARE: Final = 0.1
"""The runner's own word is read first after this share of the silence that is borne, then more
seldom, at last as often as the silence lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The operator's choices.

    `silence_s`: a running job whose heartbeat stays unchanged for so long is taken for dead.
    `quarantine_s`: how long after the end a late copy of a call may still arrive at Pulsar.
    """

    max_attempts: int
    rerun_started: bool
    silence_s: float
    quarantine_s: float


@dataclass(slots=True, kw_only=True)
class Drive:
    """What is remembered of a task between two steps. All of it can be lost: it only saves calls.

    Moments are the clock's monotonic seconds.
    """

    task_id: TaskId
    state: State | None = None
    subject: JobId | None = None
    """The job that all that follows is about."""
    since: float = 0.0
    """When this driver first saw the task in `state` with this job."""
    doubt: bool = True
    """Whether a call of unknown outcome, or an unknown past, lies behind."""
    job: JobId | None = None
    """The job to look at without asking the store, while Pulsar says the same of it as `phase`."""
    seen: Sighting | None = None
    """A look that no step has acted on yet."""
    phase: Phase | None = None
    phase_since: float = 0.0
    waiting: tuple[float, float] | None = None
    """When the job was first and last seen waiting at Pulsar."""
    never_ran: bool = False
    """Whether Pulsar lost it so soon after it was seen waiting that it cannot have run."""
    files_lost: bool = False
    """Whether what the runner had left was removed under it: no journal proves nothing."""
    pulse: str | None = None
    pulse_since: float | None = None
    pulse_checked: float = 0.0
    killed_at: float | None = None
    why: str | None = None
    """What the job died of, as first seen: after our own kill Pulsar tells only of that."""
    reaping: JobId | None = None
    failures: int = 0
    troubled_since: float | None = None
    noted: bool = False
    busy: bool = False
    again: bool = False

    def entered(self, task: Task, now: float) -> None:
        """Remember state and job and since when; nothing known of one job holds for the next."""
        subject = task.job.id if task.job else None
        if subject != self.subject:
            self.subject, self.state = subject, None
            self.job = self.seen = self.phase = self.pulse = self.pulse_since = None
            self.killed_at = self.why = self.reaping = None
            self.waiting, self.never_ran, self.files_lost = None, False, False
        if task.state is not self.state:
            self.state, self.since = task.state, now

    def saw(self, phase: Phase, now: float) -> None:
        """Remember what Pulsar says and since when."""
        if phase is Phase.WAITING:
            self.waiting = (self.waiting or (now, now))[0], now
        elif phase is Phase.UNKNOWN and phase is not self.phase and self.killed_at is None:
            first, last = self.waiting or (now, now)
            self.never_ran = now - last < BLINK_SHARE * (last - first)
        if phase is not self.phase:
            self.phase, self.phase_since = phase, now


Handler = Callable[[Task, Drive, Sighting], Awaitable[Task | None]]


class Duties:
    """The steps. Stateless beside its neighbours: everything it knows comes with the call."""

    def __init__(self, runner: JobRunner, orders: Orders, policy: Policy, clock: Clock) -> None:
        self.place = runner.name
        self._runner = runner
        self._orders = orders
        self._policy = policy
        self._clock = clock
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
            return lifecycle.advance(task, Broke(at=self._clock.now(), reason=str(error)))

    async def _duty(self, task: Task, drive: Drive) -> Task | None:
        match task.state:
            case State.INITIALIZING | State.RUNNING if not _job(task).submitted:
                return await self._start(task, drive)
            case State.INITIALIZING | State.RUNNING:
                return await self._watch(task, drive)
            case State.CANCELING:
                return await self._kill(task, drive)
            case state if state in TERMINAL:
                return await self._tidy(task, drive)
            case _:
                return None

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
        if uploads := await self._orders.begin_uploads(task):
            return lifecycle.begin(task, *uploads)
        job = _job(task)
        if not (drive.doubt and await self._is_under_way(job.id)):
            await self._runner.start(job.id, await self._orders.of(task, job))
        return lifecycle.advance(task, Submitted(at=self._clock.now()))

    async def _is_under_way(self, job: JobId) -> bool:
        return (await self._runner.look(job)).phase not in (Phase.UNKNOWN, Phase.SET_UP)

    async def _watch(self, task: Task, drive: Drive) -> Task | None:
        job = _job(task)
        fresh = drive.seen if drive.job == job.id else None
        seen = fresh or await self._runner.look(job.id)
        drive.job, drive.seen = job.id, None
        drive.saw(seen.phase, self._clock.monotonic())
        return await self._on_phase[seen.phase](task, drive, seen)

    async def _on_set_up(self, task: Task, drive: Drive, _seen: Sighting) -> Task | None:
        """Pulsar has the files but not the submit; it is safe to repeat, unless the job ran.

        Pulsar says so too of a job whose directory was removed: it made a new one for the end.
        """
        if task.state is State.RUNNING and _job(task).purpose is Purpose.RUN:
            drive.files_lost = True
            return await self._mourn(task, drive, "Pulsar has lost its files")
        if self._clock.monotonic() - drive.phase_since > RESUBMIT_S:
            job = _job(task)
            await self._runner.start(job.id, await self._orders.of(task, job))
            drive.phase_since = self._clock.monotonic()
        return None

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
        job = _job(task)
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
        job = _job(task)
        if report := unframe(seen.output, job.id):
            return await self._judge(task, report)
        return await self._mourn(task, drive, _epitaph(seen))

    async def _on_lost(self, task: Task, drive: Drive, _seen: Sighting) -> Task | None:
        if self._clock.monotonic() - drive.phase_since < CONFIRM_LOST_S:
            return None
        return await self._mourn(task, drive, "Pulsar no longer knows it")

    async def _judge(self, task: Task, report: Report) -> Task:
        """Turn the runner's word into the event that follows."""
        if _job(task).purpose is Purpose.STAGE_OUT:
            if report.outcome is Verdict.COMPLETE:
                await self._orders.complete_uploads(task, report.etags)
            return lifecycle.advance(task, self._sent(task, report))
        return lifecycle.advance(task, self._ran(task, report))

    def _ran(self, task: Task, report: Report) -> Event:
        """Return what the end of a run job means for its task."""
        at, told = self._clock.now(), report.told()
        failed = report.outcome is Verdict.EXECUTOR_ERROR
        match report.outcome:
            case Verdict.COMPLETE | Verdict.EXECUTOR_ERROR if report.left:
                left = tuple(_left(*fields) for fields in report.left)
                job = next_job_id(task)
                return Ran(at=at, job=job, left=left, failed=failed, outcome=told)
            case Verdict.COMPLETE:
                return Succeeded(at=at, outcome=told)
            case Verdict.EXECUTOR_ERROR:
                return ExecutorFailed(at=at, outcome=told)
            case Verdict.STALE if _signings(task) < MOST_SIGNINGS:
                return Expired(at=at, job=next_job_id(task))
            case Verdict.STALE | Verdict.SYSTEM_ERROR:
                return Broke(at=at, outcome=told, reason=_reason(report))

    def _sent(self, task: Task, report: Report) -> Event:
        """Return what the end of a stage-out job means for its task."""
        at, told = self._clock.now(), report.told()
        match report.outcome:
            case Verdict.STALE if _signings(task) < MOST_SIGNINGS:
                return Unsent(at=at, job=next_job_id(task), reason=_reason(report))
            case Verdict.COMPLETE if not task.failed:
                return Succeeded(at=at, outcome=told)
            case _ if not task.failed:
                return Broke(at=at, outcome=told, reason=_reason(report))
            case Verdict.COMPLETE:
                return ExecutorFailed(at=at, outcome=told)
            case _:
                told = replace(told, log=(*told.log, _reason(report)))
                return ExecutorFailed(at=at, outcome=told)

    async def _mourn(self, task: Task, drive: Drive, why: str) -> Task | None:
        """End a job that died without a report, once nothing of it can come any more."""
        drive.why = drive.why or why
        buried = await self._bury(task, drive)
        if not isinstance(buried, Traces):
            return buried
        report = unframe(buried.report or "", _job(task).id)
        if report and not (report.outcome is Verdict.EXECUTOR_ERROR and _reapers(task)):
            return await self._judge(task, report)
        # No report; or the program was ended by our own reaper, which is no fault of its own.
        return lifecycle.advance(task, self._obituary(task, drive, buried))

    def _obituary(self, task: Task, drive: Drive, traces: Traces) -> Event:
        at, host = self._clock.now(), self._runner.name
        what = f"The job at Pulsar ({host}) died without a report: {drive.why}."
        if _job(task).purpose is Purpose.STAGE_OUT:
            if _signings(task) < self._policy.max_attempts:
                again = f"{what} The outputs are sent again under a new job id."
                return Unsent(at=at, job=next_job_id(task), reason=again)
            return Broke(at=at, reason=f"{what} It was sending the outputs.")
        begun = _executors_begun(task, drive, traces)
        if begun and not self._policy.rerun_started:
            rest = f"{begun}, so it is not run again (dispatch.rerun_started)."
            return Broke(at=at, reason=f"{what} {rest}")
        if len(task.attempts) >= self._policy.max_attempts:
            rest = f"This was attempt {len(task.attempts)} of {self._policy.max_attempts}."
            return Broke(at=at, reason=f"{what} {rest} It is the Pulsar operator's turn.")
        return Lost(at=at, reason=f"{what} It is tried again under a new job id.")

    async def _kill(self, task: Task, drive: Drive) -> Task | None:
        at, job = self._clock.now(), task.job
        if job is None:
            return lifecycle.advance(task, Killed(at=at))
        buried = await self._bury(task, drive)
        if not isinstance(buried, Traces):
            return buried
        report = unframe(buried.report or "", job.id)
        told = report.told() if report else Outcome()
        return lifecycle.advance(task, Killed(at=self._clock.now(), outcome=told))

    async def _bury(self, task: Task, drive: Drive) -> Traces | Task | None:
        """Make sure that nothing of the job can come any more.

        Returns what can be read of it once that is so; a task to be saved first; or None: look
        again. The proof is the runner's report, or its watchdog's word, or that it never had one,
        or a reaper.
        """
        job = _job(task)
        if drive.killed_at is None:
            if job.submitted and not _reapers(task) and not await self._is_under_way(job.id):
                # Lost. Kept before the kill, which makes the id known to Pulsar again.
                return lifecycle.reap(task, next_job_id(task), self._clock.now())
            await self._runner.kill(job.id)
            drive.killed_at = self._clock.monotonic()
        for_s = self._clock.monotonic() - drive.killed_at
        phase = (await self._runner.look(job.id)).phase
        if phase not in OVER and not (phase is Phase.SET_UP and for_s > STAYS_SET_UP_S):
            if for_s > KILL_AGAIN_S:
                drive.killed_at = None
            return None
        traces = await self._runner.settle(job.id)
        if traces.watch is None and for_s < LATE_START_S:
            return None
        lost = phase is Phase.UNKNOWN and not _reapers(task)  # after the kill, traces and all
        if unframe(traces.report or "", job.id) or (not lost and _is_at_rest(task, traces)):
            return traces
        return await self._reap(task, drive, traces) if for_s >= _patience_s(task) else None

    async def _reap(self, task: Task, drive: Drive, traces: Traces) -> Traces | Task | None:
        """Have a job of ours clean up after the run job; `traces` comes back when it has."""
        reaper = next((job for job in _reapers(task) if not job.forgotten), None)
        if reaper is None:
            return lifecycle.reap(task, next_job_id(task), self._clock.now())
        if drive.reaping != reaper.id:
            if not await self._is_under_way(reaper.id):
                order = self._orders.reap(task, reaper.id, _job(task).id)
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

    async def _tidy(self, task: Task, drive: Drive) -> Task | None:
        """Remove an ended task from Pulsar; a job whose calls were unsure only later."""
        if task.uploads:
            return await self._abort(task)
        age = self._clock.monotonic() - drive.since
        gone: list[JobId] = []
        for job in task.leftovers:
            if job.unsure and age < self._policy.quarantine_s:
                continue
            await self._remove(job, drive)
            gone.append(job.id)
        return lifecycle.forget(task, *gone) if gone else None

    async def _abort(self, task: Task) -> Task:
        try:
            await self._orders.abort_uploads(task)
        except OutOfReach as error:
            return lifecycle.abort(task, f"Parts of an upload may be left: {error}")
        return lifecycle.abort(task)

    async def _remove(self, job: Job, drive: Drive) -> None:
        """Delete the job at Pulsar; what a deletion left half done looks like a job set up."""
        ended = job.id == drive.job and drive.phase is Phase.ENDED
        if not ended and await self._moves(job.id):
            await self._runner.kill(job.id)
            if await self._moves(job.id):
                raise RunnerUnreachable(f"Pulsar could not yet end {job.id}.")
        await self._runner.forget(job.id)
        if (await self._runner.look(job.id)).phase is not Phase.UNKNOWN:
            raise RunnerUnreachable(f"Pulsar could not yet remove the directory of {job.id}.")

    async def _moves(self, job: JobId) -> bool:
        return (await self._runner.look(job)).phase not in OVER | {Phase.SET_UP}


def next_job_id(task: Task) -> JobId:
    """Return a name that no job of any task ever had: ours are unique, and `jobs` only grows."""
    return JobId(f"tes-{task.id}-{len(task.jobs)}")


def task_of(job: JobId) -> TaskId | None:
    """Return the task that claimed a job of that name; None for other jobs of ours."""
    prefix, _, rest = job.partition("-")
    task_id, _, number = rest.rpartition("-")
    return TaskId(task_id) if prefix == "tes" and number.isdecimal() else None


def _job(task: Task) -> Job:
    job = task.job
    assert job is not None, "a claimed task has a job"
    return job


def _left(output: int, path: str, below: str, size_bytes: int) -> Left:
    return Left(output=output, path=path, below=below, size_bytes=size_bytes)


def _reason(report: Report) -> str:
    return report.reason or "The runner failed without a reason."


def _signings(task: Task) -> int:
    """Return how many jobs of this purpose there were in a row."""
    purposes = [job.purpose for job in task.jobs if job.purpose is not Purpose.REAP]
    return sum(1 for _ in itertools.takewhile(purposes[-1].__eq__, reversed(purposes)))


def _reapers(task: Task) -> Sequence[Job]:
    """Return the jobs that were claimed to clean up after the job of this attempt."""
    return task.jobs[task.jobs.index(_job(task)) + 1 :]


def _patience_s(task: Task) -> float:
    """Return how long after the kill a reaper is due: at once for a lost job, which has one."""
    reapers = _reapers(task)
    if not reapers:
        return WATCHDOG_S
    return REAP_AGAIN_S * sum(job.forgotten for job in reapers) ** 2


def _is_at_rest(task: Task, traces: Traces) -> bool:
    """Whether the runner left nothing.

    Its watchdog is up before the first container is asked for. So no trace of one is proof, unless
    the traces themselves were lost: with the job, which is when there is a reaper, or under a job
    that was seen running.
    """
    if traces.watch is None:
        return task.state is not State.RUNNING and not _reapers(task)
    return traces.watch.startswith("reaped")


def _executors_begun(task: Task, drive: Drive, traces: Traces) -> str:
    """Return why an executor has started, or may have; empty where none has.

    The journal says so before one does. Where all files were lost with the job, it has not run only
    if it was seen waiting just before.
    """
    events = [_event(line) or "" for line in (traces.journal or "").splitlines()]
    if any(event.startswith("executor_") for event in events):
        return "An executor had started"
    # A runner that outlived its directory goes on with a new one: what is missing there proves
    # nothing.
    lost = drive.files_lost or bool(_reapers(task))
    if lost and (task.state is State.RUNNING or not drive.never_ran):
        return "Nobody can tell whether an executor had started"
    return ""


def _event(line: str) -> str | None:
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return None


def _epitaph(seen: Sighting) -> str:
    last = seen.complaint.splitlines()[-1:] or ["nothing on its standard error"]
    match seen.phase:
        case Phase.FAILED:
            return f"Pulsar could not run it ({last[0]})"
        case Phase.KILLED:
            return "it was cancelled at Pulsar, and not by a client of this server"
        case _:
            return f"exit status {seen.exit_code}, {last[0]}"
