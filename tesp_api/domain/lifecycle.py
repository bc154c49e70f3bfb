"""The life of a task: one table, and `advance`, the only maker of states.

Two rules. Whatever changes a task's state is an event and has a row in `TRANSITIONS`; a branch is
two events, not an `if`. This file knows neither clock nor store: events carry their moment and
everything they tell.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Final

from tesp_api.domain.errors import IllegalTransition
from tesp_api.domain.task import Attempt, DriverId, Job, JobId, Left, Purpose, Task, Upload
from tesp_api.domain.tes import ExecutorLog, OutputFileLog, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a task at a moment."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the runner on the node told of an attempt; empty where it could tell nothing."""

    executors: tuple[ExecutorLog, ...] = ()
    outputs: tuple[OutputFileLog, ...] = ()
    log: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed(Event):
    """A driver took the task and the Pulsar job's name is decided, before the job exists."""

    job: JobId
    slot: int
    driver: DriverId
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted(Event):
    """Pulsar has taken the job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The job runs at Pulsar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired(Event):
    """The inputs' signed URLs had ended before an executor began: the same again as `job`."""

    job: JobId


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran(Event):
    """The executors have ended, and `left` waits on the node to be sent by `job`."""

    job: JobId
    left: tuple[Left, ...]
    failed: bool
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsent(Event):
    """The job that was to send what is left did not; `job` tries again."""

    job: JobId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended(Event):
    """Base of the events that end an attempt with whatever the runner told."""

    outcome: Outcome = field(default_factory=Outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class Succeeded(Ended):
    """All executors ended well and the outputs are where they should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorFailed(Ended):
    """The user's program failed; its true exit code is in the outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broke(Ended):
    """The system failed: `reason` says what, where, what was tried and whose turn it is."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Ended):
    """The job is proven dead before an executor started, and another attempt is allowed."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelAsked(Event):
    """The client wants it ended, and it may have a job somewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn(Event):
    """The client wants it ended before any job was ever claimed: nothing can be left of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed(Ended):
    """Nothing of it runs any more, nor can."""


# fmt: off
TRANSITIONS: Final[Mapping[tuple[State, type[Event]], State]] = MappingProxyType({
    # in                   on               go to
    (State.QUEUED,         Claimed       ): State.INITIALIZING,
    (State.QUEUED,         Withdrawn     ): State.CANCELED,        # never had a job
    (State.QUEUED,         CancelAsked   ): State.CANCELING,       # an earlier attempt had one
    (State.QUEUED,         Broke         ): State.SYSTEM_ERROR,    # nobody can run it
    (State.INITIALIZING,   Submitted     ): State.INITIALIZING,
    (State.INITIALIZING,   Expired       ): State.INITIALIZING,    # signed anew
    (State.INITIALIZING,   Started       ): State.RUNNING,
    (State.INITIALIZING,   Ran           ): State.RUNNING,
    (State.INITIALIZING,   Succeeded     ): State.COMPLETE,        # short jobs skip RUNNING
    (State.INITIALIZING,   ExecutorFailed): State.EXECUTOR_ERROR,
    (State.INITIALIZING,   Lost          ): State.QUEUED,          # proven dead: a new attempt
    (State.INITIALIZING,   CancelAsked   ): State.CANCELING,
    (State.INITIALIZING,   Broke         ): State.SYSTEM_ERROR,
    (State.RUNNING,        Expired       ): State.INITIALIZING,
    (State.RUNNING,        Ran           ): State.RUNNING,         # a second job sends outputs
    (State.RUNNING,        Submitted     ): State.RUNNING,
    (State.RUNNING,        Unsent        ): State.RUNNING,
    (State.RUNNING,        Succeeded     ): State.COMPLETE,
    (State.RUNNING,        ExecutorFailed): State.EXECUTOR_ERROR,
    (State.RUNNING,        Lost          ): State.QUEUED,
    (State.RUNNING,        CancelAsked   ): State.CANCELING,
    (State.RUNNING,        Broke         ): State.SYSTEM_ERROR,
    (State.CANCELING,      Killed        ): State.CANCELED,        # its report stays in the logs
})
# fmt: on
ACTIVE: Final = frozenset(state for state, _ in TRANSITIONS)
TERMINAL: Final = frozenset(TRANSITIONS.values()) - ACTIVE


def advance(task: Task, event: Event) -> Task:
    """Return `task` as it stands after `event`, one revision later.

    Raises IllegalTransition if the table has no row for it; the caller read an old task, or it is a
    bug.
    """
    state = TRANSITIONS.get((task.state, type(event)))
    if state is None:
        what = type(event).__name__
        raise IllegalTransition(f"{what} cannot happen to a task that is {task.state}.")
    told = _TELL.get(type(event), _nothing)(task, event)
    slot = told.slot if state in ACTIVE and state is not State.QUEUED else None
    return replace(told, state=state, slot=slot, revision=task.revision + 1)


def note(task: Task, line: str) -> Task:
    """Return `task` with one more line in the system log of its last attempt; the state stays.

    Told when something went wrong under way: a late copy of a call may still reach Pulsar.
    """
    *earlier, last = task.attempts
    last = replace(last, system_logs=(*last.system_logs, line))
    return doubt(replace(task, attempts=(*earlier, last), revision=task.revision + 1))


def adopt(task: Task, driver: DriverId) -> Task:
    """Return `task` with another driver, after its old one was found dead."""
    return doubt(replace(task, driver=driver, revision=task.revision + 1))


def doubt(task: Task) -> Task:
    """Return `task` with a word on each job that late copies of calls may still reach it.

    No change of its own, hence no revision: it is saved along with one.
    """
    jobs = (job if job.forgotten else replace(job, unsure=True) for job in task.jobs)
    return replace(task, jobs=tuple(jobs))


def forget(task: Task, *gone: JobId) -> Task:
    """Return `task` with the jobs `gone` marked as removed from Pulsar and node."""
    jobs = tuple(replace(job, forgotten=True) if job.id in gone else job for job in task.jobs)
    return replace(task, jobs=jobs, revision=task.revision + 1)


def reap(task: Task, at: datetime) -> Task:
    """Return `task` with a job claimed that will clean up after the others."""
    reaper = Job(id=task.next_job, purpose=Purpose.REAP, claimed_at=at)
    return replace(task, jobs=(*task.jobs, reaper), revision=task.revision + 1)


def upload(task: Task, *uploads: Upload) -> Task:
    """Return `task` with these uploads planned or begun, in the place of earlier ones of a file."""
    kept = {one.left: one for one in (*task.uploads, *uploads)}
    return replace(_next(task), uploads=tuple(kept.values()))


def abort(task: Task, complaint: str | None = None) -> Task:
    """Return `task` with its uploads done with; a `complaint` says what may be left of them."""
    return replace(note(task, complaint) if complaint else _next(task), uploads=())


def mermaid() -> str:
    """Print the table as a Mermaid state diagram; the README holds this very text."""
    edges: dict[tuple[State, State], list[str]] = {}
    for (state, event), target in TRANSITIONS.items():
        edges.setdefault((state, target), []).append(event.__name__)
    lines = ["stateDiagram-v2", "    [*] --> QUEUED: POST /tasks"]
    lines += [f"    {a} --> {b}: {', '.join(events)}" for (a, b), events in edges.items()]
    lines += [f"    {state} --> [*]" for state in sorted(TERMINAL)]
    return "\n".join(lines)


def _next(task: Task) -> Task:
    return replace(task, revision=task.revision + 1)


def _nothing(task: Task, _event: Event) -> Task:
    return task


def _claim(task: Task, event: Event) -> Task:
    assert isinstance(event, Claimed)
    job = _job(event.job, Purpose.RUN, event)
    attempt = Attempt(started_at=event.at, metadata=event.metadata, system_logs=task.warnings)
    return replace(
        task,
        driver=event.driver,
        slot=event.slot,
        jobs=(*task.jobs, job),
        attempts=(*task.attempts, attempt),
    )


def _submit(task: Task, _event: Event) -> Task:
    current = task.job
    jobs = tuple(replace(job, submitted=True) if job is current else job for job in task.jobs)
    return replace(task, jobs=jobs)


def _start(task: Task, _event: Event) -> Task:
    current = task.job
    jobs = tuple(replace(job, ran=True) if job is current else job for job in task.jobs)
    return replace(task, jobs=jobs)


def _expire(task: Task, event: Event) -> Task:
    assert isinstance(event, Expired)
    return replace(task, jobs=(*task.jobs, _job(event.job, Purpose.RUN, event)))


def _run(task: Task, event: Event) -> Task:
    assert isinstance(event, Ran)
    job = _job(event.job, Purpose.STAGE_OUT, event)
    told = _told(task, event.outcome, at=event.at)
    return replace(told, jobs=(*task.jobs, job), left=event.left, failed=event.failed)


def _send_again(task: Task, event: Event) -> Task:
    assert isinstance(event, Unsent)
    told = _told(task, Outcome(log=(event.reason,)), at=event.at)
    return replace(told, jobs=(*task.jobs, _job(event.job, Purpose.STAGE_OUT, event)))


def _job(job: JobId, purpose: Purpose, event: Event) -> Job:
    return Job(id=job, purpose=purpose, claimed_at=event.at)


def _told(task: Task, outcome: Outcome, *, at: datetime) -> Task:
    """Return `task` with what the runner told added to its last attempt."""
    *earlier, last = task.attempts or (Attempt(started_at=at),)
    last = replace(
        last,
        executors=outcome.executors or last.executors,
        outputs=(*last.outputs, *outcome.outputs),
        system_logs=(*last.system_logs, *outcome.log),
        metadata={**last.metadata, **outcome.metadata},
    )
    return replace(task, attempts=(*earlier, last))


def _end(task: Task, event: Event) -> Task:
    assert isinstance(event, Ended)
    reason = (event.reason,) if isinstance(event, Broke | Lost) else ()
    outcome = replace(event.outcome, log=(*event.outcome.log, *reason))
    *earlier, last = _told(task, outcome, at=event.at).attempts
    return replace(task, attempts=(*earlier, replace(last, ended_at=event.at)), left=())


def _withdraw(task: Task, event: Event) -> Task:
    return replace(task, attempts=(*task.attempts, Attempt(started_at=event.at, ended_at=event.at)))


_TELL: Final[Mapping[type[Event], Callable[[Task, Event], Task]]] = MappingProxyType(
    {
        Claimed: _claim,
        Submitted: _submit,
        Started: _start,
        Expired: _expire,
        Ran: _run,
        Unsent: _send_again,
        Succeeded: _end,
        ExecutorFailed: _end,
        Broke: _end,
        Lost: _end,
        Killed: _end,
        Withdrawn: _withdraw,
    }
)
