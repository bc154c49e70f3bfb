"""Whether one more task may be taken: the queue, and one owner's unfinished tasks, have limits.

The store is counted now and then, and what was taken since is added: one process never takes more
than a limit allows. Of what other processes take it hears with the next count, so that each may
exceed a limit by what the others took within `FRESH_S`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final

from tesp_api.domain.errors import Overloaded, Refused, TooManyTasks
from tesp_api.domain.lifecycle import ACTIVE
from tesp_api.domain.tes import State
from tesp_api.ports import Clock, TaskStore

FRESH_S: Final = 0.5
MOST_OWNERS: Final = 10_000
WAITING: Final = frozenset({State.QUEUED})


class Tally:
    """How many tasks there are of a kind, at most: those counted, and ours since then."""

    def __init__(self, count: Callable[[], Awaitable[int]], limit: int, refusal: Refused) -> None:
        self._count = count
        self._limit = limit
        self._refusal = refusal
        self._counting = asyncio.Lock()
        self._counted_at = float("-inf")
        self._counted = 0
        self._added = 0
        self.pending = 0
        """Being written just now: a count may find them or not."""

    async def check(self, clock: Clock) -> None:
        """Raise the refusal if there is no place left."""
        async with self._counting:
            if clock.monotonic() - self._counted_at >= FRESH_S:
                at, before = clock.monotonic(), self._added
                self._counted = await self._count()
                self._counted_at = at
                self._added -= before
        if self._counted + self._added + self.pending >= self._limit:
            raise self._refusal

    def written(self) -> None:
        """Take one from the pending to the added."""
        self.pending -= 1
        self._added += 1


class Place:
    """Room for one more task: a context manager around the writing of it."""

    def __init__(self, *tallies: Tally) -> None:
        self._tallies = tallies

    def __enter__(self) -> None:
        """Hold it."""
        for tally in self._tallies:
            tally.pending += 1

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Take it as filled, also where the write failed: it may be there; the next count tells."""
        for tally in self._tallies:
            tally.written()


class Admission:
    """At most `queue` tasks wait, and at most `per_owner` of one owner are unfinished.

    None is no limit. Tasks without an owner are limited by the queue alone.
    """

    def __init__(
        self, store: TaskStore, clock: Clock, *, queue: int | None, per_owner: int | None
    ) -> None:
        self._store = store
        self._clock = clock
        self._per_owner = per_owner
        self._all = () if queue is None else (self._of_all(queue),)
        self._owners: dict[str, Tally] = {}

    async def place(self, owner: str | None) -> Place:
        """Return a place for one more task of `owner`, to be entered before anything is awaited.

        Raises Overloaded, TooManyTasks; StoreUnreachable where there can be no count.
        """
        tallies = (*self._all, *self._of(owner))
        for tally in tallies:
            await tally.check(self._clock)
        return Place(*tallies)

    def _of(self, owner: str | None) -> tuple[Tally, ...]:
        if owner is None or self._per_owner is None:
            return ()
        if len(self._owners) >= MOST_OWNERS:
            self._owners = {name: tally for name, tally in self._owners.items() if tally.pending}
        if owner not in self._owners:
            self._owners[owner] = self._of_one(owner, self._per_owner)
        return (self._owners[owner],)

    def _of_all(self, limit: int) -> Tally:
        sentence = f"The queue is full: {limit} tasks wait already. Try again later."
        return Tally(lambda: self._store.count(WAITING, None, limit), limit, Overloaded(sentence))

    def _of_one(self, owner: str, limit: int) -> Tally:
        sentence = f"You have {limit} unfinished tasks, and no more are allowed. Try again later."
        return Tally(lambda: self._store.count(ACTIVE, owner, limit), limit, TooManyTasks(sentence))
