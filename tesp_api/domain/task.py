"""A task as the server keeps it: what was asked, where it stands, and every Pulsar job it ever
claimed.

Frozen: a change is a new value, made by `lifecycle`. All moments are aware UTC.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NewType

from tesp_api.domain.tes import ExecutorLog, OutputFileLog, State, TaskRequest

TaskId = NewType("TaskId", str)
"""Lower-case letters and digits, without order: lists follow the store's `seq`."""
JobId = NewType("JobId", str)
"""Name of a Pulsar job and of its directory there: `[A-Za-z0-9-]`, used once."""
DriverId = NewType("DriverId", str)
"""One run of one API process; a restart is another driver."""


class Purpose(StrEnum):
    """What a Pulsar job is for."""

    RUN = "run"
    STAGE_OUT = "stage-out"
    """Sends what the run job left on the node, since only then its names and sizes were known."""
    REAP = "reap"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job at Pulsar.

    Kept for good, so that a cancel or a clean-up can reach every job the task ever had.
    """

    id: JobId
    purpose: Purpose
    claimed_at: datetime
    submitted: bool = False
    """Pulsar has taken it; from then on "unknown to Pulsar" means "lost", not "never sent"."""
    ran: bool = False
    """It was seen running: from then on missing traces are lost ones."""
    unsure: bool = False
    """A call about it timed out or two drivers touched it:

    a late copy of the call may still arrive.
    """
    forgotten: bool = False
    """Nothing of it is left at Pulsar or on the node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One tesTaskLog:

    one try to run the executors. `system_logs` lines are for the user, oldest first.
    """

    started_at: datetime
    ended_at: datetime | None = None
    executors: tuple[ExecutorLog, ...] = ()
    outputs: tuple[OutputFileLog, ...] = ()
    system_logs: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A file that the run job left on the node, for a job of its own to send."""

    output: int
    """Index in the request's outputs."""
    path: str
    """Where it is in the task's file system."""
    below: str
    """Its name below the output's URL; empty where that URL is its own."""
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload in parts at the storage, to be completed or aborted."""

    left: Left
    id: str | None = None
    """None before it is known to be begun."""
    others: tuple[str, ...] | None = ()
    """What was under way to the same place before, and so is not of this task.

    None where the storage does not tell.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The record.

    `revision` grows by one with each saved change; the store refuses a save that skips one.
    """

    id: TaskId
    request: TaskRequest
    state: State
    created_at: datetime
    revision: int = 0
    owner: str | None = None
    """Issuer and subject of whoever posted it; None where there was no authentication."""
    driver: DriverId | None = None
    """The process that drives it now."""
    slot: int | None = None
    """Which of the Pulsar's places it holds while it has a job there."""
    attempts: tuple[Attempt, ...] = ()
    jobs: tuple[Job, ...] = ()
    fingerprint: str | None = None
    """Of the body it was made from, where the client gave an Idempotency-Key."""
    warnings: tuple[str, ...] = ()
    """What the client should know of the request: the first lines of each attempt's system log."""

    left: tuple[Left, ...] = ()
    """What is still to be sent from the node, once the executors have ended."""
    failed: bool = False
    """Whether an executor had failed; outputs are sent all the same."""
    uploads: tuple[Upload, ...] = ()

    @property
    def job(self) -> Job | None:
        """The job whose end is waited for, or None before the first claim."""
        return next((job for job in reversed(self.jobs) if job.purpose is not Purpose.REAP), None)

    @property
    def run(self) -> Job | None:
        """The job that runs, or ran, the executors of the last attempt."""
        return next((job for job in reversed(self.jobs) if job.purpose is Purpose.RUN), None)

    @property
    def reapers(self) -> tuple[Job, ...]:
        """The jobs that were claimed to clean up after `job`."""
        after = itertools.takewhile(lambda job: job.purpose is Purpose.REAP, reversed(self.jobs))
        return tuple(after)[::-1]

    @property
    def next_job(self) -> JobId:
        """A name that no job of any task ever had: ours are unique, and `jobs` only grows."""
        return JobId(f"tes-{self.id}-{len(self.jobs)}")

    @property
    def leftovers(self) -> tuple[Job, ...]:
        """Jobs that may still have something at Pulsar."""
        return tuple(job for job in self.jobs if not job.forgotten)

    @property
    def untidy(self) -> bool:
        """Whether anything of it may still be somewhere."""
        return bool(self.leftovers or self.uploads)


def task_of(job: JobId) -> TaskId | None:
    """Return the task that claimed a job of that name; None for other jobs of ours."""
    prefix, _, rest = job.partition("-")
    task_id, _, number = rest.rpartition("-")
    return TaskId(task_id) if prefix == "tes" and number.isdecimal() else None
