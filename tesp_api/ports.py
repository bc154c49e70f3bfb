"""What the core asks of the world: one Protocol per neighbour, satisfied by shape."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from tesp_api.domain.task import DriverId, JobId, Task, TaskId
from tesp_api.domain.tes import Input, Output, State, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which tasks a list shows. Filters are AND-ed; None filters nothing.

    `owner` None = everybody's. `states` any of these. `tags` pairs (key, value), each must match;
    an empty value matches any. `before` is the `seq` from which older tasks follow (exclusive).
    """

    view: View
    limit: int
    before: int | None = None
    owner: str | None = None
    name_prefix: str | None = None
    states: frozenset[State] | None = None
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """At most `limit` rendered tasks, newest first; `next_before` is None on the last page."""

    documents: Sequence[bytes]
    next_before: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What the dispatcher needs of a task to decide whether it is its turn."""

    id: TaskId
    state: State
    driver: DriverId | None


class TaskStore(Protocol):
    """Keeps tasks.

    Every write is durable when it returns. All methods raise StoreUnreachable (wait and ask again).
    """

    sole: bool
    """No other process can share the store: every driver but one's own is dead."""

    async def open(self) -> None:
        """Connect and make indexes.

        Idempotent. Raises Misconfigured where the store can never work.
        """

    async def close(self) -> None:
        """Finish writes under way and let go. Idempotent."""

    async def add(self, task: Task) -> None:
        """Keep a new task, as revision 0, after all earlier ones in the order of lists.

        Adding the same id again changes nothing: a caller who does not know how the first try ended
        may repeat it.
        """

    async def get(self, task_id: TaskId) -> Task | None:
        """Return the task as last saved."""

    async def save(self, task: Task) -> None:
        """Replace revision `task.revision - 1` by `task`.

        Raises Stale where the stored revision is another one (nothing was written), SlotTaken where
        an unfinished task holds the same slot.
        """

    async def document(self, task_id: TaskId, view: View, owner: str | None) -> bytes | None:
        """Return the task in that view; None if there is none or, with `owner`, another's."""

    async def page(self, query: Query) -> Page:
        """Return one page of a list.

        Pages are stable: a task that stays as it is appears once, whatever is added meanwhile.
        """

    async def queued(self, limit: int) -> Sequence[Task]:
        """Return at most `limit` QUEUED tasks, oldest first."""

    async def driven(self, driver: DriverId | None, states: frozenset[State]) -> Sequence[Glance]:
        """Return the unfinished, claimed tasks in these states:

        of that driver, or of all (None). Oldest first.
        """

    async def untidy(self, limit: int, after: int = 0) -> Sequence[tuple[int, TaskId]]:
        """Return (seq, id) of ended tasks with leftovers, oldest first, from behind `after`."""

    async def slots(self) -> frozenset[int]:
        """Return the slots held by unfinished tasks of all drivers."""

    async def beat(self, driver: DriverId) -> Mapping[DriverId, int]:
        """Say that this driver lives, and return every known driver's number of beats so far."""

    async def retire(self, driver: DriverId) -> None:
        """Take a driver off the list: it has ended, or its tasks have all been adopted."""


class Phase(StrEnum):
    """Where a job stands at Pulsar."""

    UNKNOWN = "unknown"
    """Pulsar has no such job."""
    SET_UP = "set up"
    """Its directory is there; it was not submitted."""
    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    FAILED = "failed"
    """Pulsar itself could not run it."""
    KILLED = "killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What Pulsar says of a job.

    `output` is the job's standard output, where the framed report stands, once it has ended.
    """

    phase: Phase
    output: str = ""
    complaint: str = ""
    exit_code: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What the runner left beside the job, whatever Pulsar says of it.

    Each is None where the file is not there.
    """

    report: str | None = None
    heartbeat: str | None = None
    journal: str | None = None
    watch: str | None = None


class JobRunner(Protocol):
    """Runs jobs on other machines. Every call may raise RunnerUnreachable: ask again later."""

    name: str
    """Where the jobs run, for people: no credentials in it."""

    async def start(self, job: JobId, order: Mapping[str, Any]) -> None:
        """Have the runner on the node carry out `order` as this job, once.

        May be repeated until it returns, as long as the job was neither killed nor forgotten.
        """

    async def look(self, job: JobId) -> Sighting:
        """Ask where the job stands."""

    async def kill(self, job: JobId) -> None:
        """End the job, and make sure that a late `start` of it has no effect.

        Idempotent; unknown jobs too.
        """

    async def settle(self, job: JobId) -> Traces:
        """Read what the runner left on the node. Costs several calls; for doubtful cases."""

    async def forget(self, job: JobId) -> None:
        """Remove the ended job's files. Idempotent. After it the id may never be used again."""

    async def ping(self) -> str:
        """Return the other side's version."""

    async def close(self) -> None:
        """Let go of connections."""


class Storage(Protocol):
    """What the server knows of URLs: which it serves, and how the node gets at each."""

    def refusal(self, item: Input | Output) -> str | None:
        """Return why this URL cannot be served, as a sentence, or None if it can."""

    def fetch_order(self, item: Input) -> Mapping[str, Any]:
        """Return how the node gets this input, in the runner's form (see `runner`).

        Raises OutOfReach where the server has no way there.
        """

    def send_order(self, item: Output) -> Mapping[str, Any]:
        """Return how the node sends this output. Raises OutOfReach."""

    def served(self) -> Sequence[str]:
        """Return what service-info lists as storage."""


class Clock(Protocol):
    """Time, so that tests can hold it still."""

    def now(self) -> datetime:
        """Return the moment, aware UTC."""

    def monotonic(self) -> float:
        """Return seconds that never go back and count suspension."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait until `event` is set, but no longer than `seconds`; None is for ever."""
