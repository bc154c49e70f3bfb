"""What the core asks of the world: one Protocol per neighbour, satisfied by shape."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final, Protocol

from tesp_api.domain.task import DriverId, JobId, Left, Task, TaskId
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

    between: ClassVar[bytes] = b",\n"
    """What parts documents: good in a JSON array, and in no document, as none has a line feed."""

    documents: Sequence[bytes]
    """The tasks, or runs of tasks with `between` between them: a store gives what it has."""
    next_before: int | None
    lacks: frozenset[State] = frozenset()
    """States that none of the tasks is in, as far as the store knows without a look at each."""

    @property
    def joined(self) -> bytes:
        """All tasks as one run; a single run is not copied."""
        return self.between.join(self.documents)

    @property
    def each(self) -> Sequence[bytes]:
        """The tasks one by one. Reads every byte."""
        joined = self.joined
        return joined.split(self.between) if joined else []


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

    async def count(self, states: frozenset[State], owner: str | None, most: int) -> int:
        """Return how many tasks are in these states, of that owner or of all (None).

        Counting ends at `most`: more is never said.
        """

    async def remove_ended(self, before: datetime, limit: int) -> int:
        """Remove at most `limit` tasks that ended before that moment; return how many.

        Those that ended first go first; one with anything left somewhere (`Task.untidy`) stays.
        """

    async def slots(self) -> frozenset[int]:
        """Return the slots held by unfinished tasks of all drivers."""

    async def beat(self, driver: DriverId) -> Mapping[DriverId, int]:
        """Say that this driver lives, and return every known driver's number of beats so far."""

    async def retire(self, driver: DriverId) -> None:
        """Take a driver off the list: it has ended, or its tasks have all been adopted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A record of what was heard of a job; what is in it is the transport's own affair."""

    revision: int
    record: bytes
    """A JSON object."""


class JobNews(Protocol):
    """Keeps what Pulsar told of jobs by messages: any process may get them, each once.

    Every write is durable when it returns, so that a message may be taken off its queue then.
    All methods raise StoreUnreachable.
    """

    async def news(self, job: JobId) -> News | None:
        """Return the record as last kept."""

    async def keep_news(
        self, job: JobId, record: bytes, revision: int, *, doomed: bool = False
    ) -> None:
        """Keep `record` as that revision, in place of the one before; 1 is the first.

        Raises Stale where the kept revision is another one than `revision - 1`. `doomed`: the
        job is listed by that method until it is dropped.
        """

    async def drop_news(self, jobs: Collection[JobId]) -> None:
        """Forget these jobs. Idempotent; unknown ones too."""

    async def doomed(self, limit: int) -> Sequence[JobId]:
        """Return at most `limit` jobs whose records were kept as doomed."""


class Store(TaskStore, JobNews, Protocol):
    """Both in one place, as it is kept."""


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


OVER: Final = frozenset({Phase.ENDED, Phase.FAILED, Phase.KILLED, Phase.UNKNOWN})
"""Phases from which Pulsar itself starts nothing more."""
UNSTARTED: Final = frozenset({Phase.UNKNOWN, Phase.SET_UP})
"""Phases in which a job has not reached Pulsar's queue, or was lost."""


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


Permit = Callable[[], None]
"""Raises an Unreachable where this process may not act now.

A JobRunner asks right before each request: between two of them the process may have been stopped,
for so long that another has done the work and cleaned up.
"""


def always() -> None:
    """Permit everything: who does not share the work needs no leave."""


class JobRunner(Protocol):
    """Runs jobs on other machines. Every call may raise RunnerUnreachable: ask again later."""

    name: str
    """Where the jobs run, for people: no credentials in it."""

    def listen(self, told: Callable[[JobId], None]) -> None:
        """Begin to work, and have `told` called with each job of which there is news.

        A transport without news never calls it; nor is a call promised for each.
        """

    async def start(self, job: JobId, order: Mapping[str, Any], *, again: bool = True) -> None:
        """Have the runner on the node carry out `order` as this job, once.

        May be repeated until it returns, as long as the job was neither killed nor forgotten.
        `again`: an earlier call may be under way still, or have been heard.
        """

    async def has_unbegun(self, job: JobId) -> bool:
        """Whether what `start` sent still lies on the node as it was sent: the job never ran."""

    async def look(self, job: JobId) -> Sighting:
        """Return where the job stands, as far as is known: by asking, or from the last news."""

    async def kill(self, job: JobId) -> None:
        """End the job, and make sure that a late `start` of it has no effect.

        Idempotent; unknown jobs too.
        """

    async def settle(self, job: JobId) -> Traces:
        """Read what the runner left on the node. Costs several calls; for doubtful cases."""

    async def forget(self, job: JobId) -> None:
        """Have the ended job's files removed, at once or soon, whatever comes between.

        Idempotent. After it the id is unknown and may never be used again.
        """

    async def ping(self) -> str:
        """Return the other side's version."""

    async def close(self) -> None:
        """Let go of connections."""


class Storage(Protocol):
    """What the server knows of URLs: which it serves to whom, and how the node gets at each.

    Orders are in the runner's form (see `runner`). All but `refusal` and `served` raise OutOfReach
    where the server has no way there for this owner, StorageUnreachable where an object store does
    not answer (ask again).
    """

    def refusal(self, item: Input | Output, owner: str | None) -> str | None:
        """Return why this URL cannot be served to `owner`, as a sentence, or None if it can."""

    async def fetch_order(self, item: Input, owner: str | None) -> Mapping[str, Any]:
        """Return how the node gets this input."""

    async def send_order(self, item: Output, owner: str | None) -> Mapping[str, Any]:
        """Return how the run job sends this output, or that it leaves it (`deferred`)."""

    async def stage_order(
        self, item: Output, left: Left, owner: str | None, upload: str | None
    ) -> Mapping[str, Any]:
        """Return how a stage-out job sends one file of `item` that was left.

        `upload` is what `begin_upload` returned for it.
        """

    async def open_uploads(
        self, item: Output, left: Left, owner: str | None
    ) -> Collection[str] | None:
        """Return the ids of all uploads in parts under way to where this file goes.

        None where it is sent as a whole. Raises OutOfReach also where it may not be asked.
        """

    async def begin_upload(self, item: Output, left: Left, owner: str | None) -> str:
        """Return the id of a new upload in parts. Each call begins another one."""

    async def complete_upload(
        self, item: Output, left: Left, owner: str | None, upload: str, etags: Sequence[str]
    ) -> None:
        """Make the object of its parts, whose `etags` are given in order. Idempotent."""

    async def abort_upload(self, item: Output, left: Left, owner: str | None, upload: str) -> None:
        """Let go of the parts that were sent. Idempotent; an upload that was completed stays."""

    def served(self) -> Sequence[str]:
        """Return what service-info lists as storage: what everybody may name."""


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
