"""What the end of a job means for its task. Pure: from a report, or a death without one, to an
event.
"""

import itertools
import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from tesp_api.domain.errors import RunnerUnreachable
from tesp_api.domain.lifecycle import (
    Broke,
    Event,
    ExecutorFailed,
    Expired,
    Lost,
    Ran,
    Succeeded,
    Unsent,
)
from tesp_api.domain.report import Report, Verdict
from tesp_api.domain.task import Job, Left, Purpose, Task
from tesp_api.ports import Phase, Sighting, Traces

TURN: Final = RunnerUnreachable.turn
MOST_SIGNINGS: Final = 5
"""How often URLs are signed anew for jobs that begin only after the signatures have ended."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How a job ended without a report, as far as can be told.

    `where` is the Pulsar, `why` is what was seen first, `traces` is what could be read afterwards.
    """

    where: str
    why: str
    traces: Traces
    files_lost: bool = False
    """Whether what the runner had left was removed under it: no journal proves nothing."""
    never_ran: bool = False
    """Whether it was seen waiting so shortly before that it cannot have run."""


def reported(task: Task, report: Report, at: datetime) -> Event:
    """Return what the runner's word means for the task that waits for the job."""
    stage_out = waited_for(task).purpose is Purpose.STAGE_OUT
    return _sent(task, report, at) if stage_out else _ran(task, report, at)


def died(task: Task, death: Death, policy: Policy, at: datetime) -> Event:
    """Return what the death of the job that the task waits for means."""
    what = f"The job at Pulsar ({death.where}) died without a report: {death.why}."
    if waited_for(task).purpose is Purpose.STAGE_OUT:
        if _signings(task) < policy.max_attempts:
            again = f"{what} The outputs are sent again under a new job id."
            return Unsent(at=at, job=task.next_job, reason=again)
        tried = f"This was attempt {_signings(task)} of {policy.max_attempts} to send the outputs."
        return Broke(at=at, reason=f"{what} {tried} {TURN}")
    begun = _executors_begun(task, death)
    if begun and not policy.rerun_started:
        rest = f"{begun}, so it is not run again (dispatch.rerun_started)."
        return Broke(at=at, reason=f"{what} {rest} {TURN}")
    if len(task.attempts) >= policy.max_attempts:
        rest = f"This was attempt {len(task.attempts)} of {policy.max_attempts}."
        return Broke(at=at, reason=f"{what} {rest} {TURN}")
    return Lost(at=at, reason=f"{what} It is tried again under a new job id.")


def epitaph(seen: Sighting) -> str:
    """Return what Pulsar says of a job that ended without a report."""
    last = seen.complaint.splitlines()[-1:] or ["nothing on its standard error"]
    match seen.phase:
        case Phase.FAILED:
            return f"Pulsar could not run it ({last[0]})"
        case Phase.KILLED:
            return "it was cancelled at Pulsar, and not by a client of this server"
        case _:
            return f"exit status {seen.exit_code}, {last[0]}"


def waited_for(task: Task) -> Job:
    """Return the job whose end is waited for; a claimed task has one."""
    assert task.job is not None, "a claimed task has a job"
    return task.job


def _ran(task: Task, report: Report, at: datetime) -> Event:
    told, failed = report.told(), report.outcome is Verdict.EXECUTOR_ERROR
    match report.outcome:
        case Verdict.COMPLETE | Verdict.EXECUTOR_ERROR if report.left:
            left = tuple(_left(*fields) for fields in report.left)
            return Ran(at=at, job=task.next_job, left=left, failed=failed, outcome=told)
        case Verdict.COMPLETE:
            return Succeeded(at=at, outcome=told)
        case Verdict.EXECUTOR_ERROR:
            return ExecutorFailed(at=at, outcome=told)
        case Verdict.STALE if _signings(task) < MOST_SIGNINGS:
            return Expired(at=at, job=task.next_job)
        case Verdict.STALE | Verdict.SYSTEM_ERROR:
            return Broke(at=at, outcome=told, reason=report.complaint())


def _sent(task: Task, report: Report, at: datetime) -> Event:
    told = report.told()
    match report.outcome:
        case Verdict.STALE if _signings(task) < MOST_SIGNINGS:
            return Unsent(at=at, job=task.next_job, reason=report.complaint())
        case Verdict.COMPLETE if not task.failed:
            return Succeeded(at=at, outcome=told)
        case _ if not task.failed:
            return Broke(at=at, outcome=told, reason=report.complaint())
        case Verdict.COMPLETE:
            return ExecutorFailed(at=at, outcome=told)
        case _:
            told = replace(told, log=(*told.log, report.complaint()))
            return ExecutorFailed(at=at, outcome=told)


def _left(output: int, path: str, below: str, size_bytes: int) -> Left:
    return Left(output=output, path=path, below=below, size_bytes=size_bytes)


def _signings(task: Task) -> int:
    """Return how many jobs of this purpose there were in a row."""
    purposes = [job.purpose for job in task.jobs if job.purpose is not Purpose.REAP]
    return sum(1 for _ in itertools.takewhile(purposes[-1].__eq__, reversed(purposes)))


def _executors_begun(task: Task, death: Death) -> str:
    """Return why an executor has started, or may have; empty where none has.

    The journal says so before one does. Where all files were lost with the job, it has not run only
    if it was seen waiting just before.
    """
    events = [_event(line) or "" for line in (death.traces.journal or "").splitlines()]
    if any(event.startswith("executor_") for event in events):
        return "An executor had started"
    # A runner that outlived its directory goes on with a new one: what is missing there proves
    # nothing.
    lost = death.files_lost or bool(task.reapers)
    if lost and (waited_for(task).ran or not death.never_ran):
        return "Nobody can tell whether an executor had started"
    return ""


def _event(line: str) -> str | None:
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return None
