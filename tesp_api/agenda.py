"""When to look at which task: a heap of due times that can be thrown away at any moment."""

import asyncio
import heapq
from dataclasses import dataclass, field

from tesp_api.domain.task import TaskId
from tesp_api.ports import Clock


@dataclass(order=True, slots=True)
class _Entry:
    due: float
    task_id: TaskId = field(compare=False)
    live: bool = field(default=True, compare=False)


class Agenda:
    """Due times by task, on the clock's monotonic seconds. Each task stands in it at most once.

    One waiting `next` is woken when something becomes due earlier than it waits for.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[_Entry] = []
        self._entries: dict[TaskId, _Entry] = {}
        self._sooner = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, task_id: TaskId, delay_s: float) -> None:
        """Make the task due in `delay_s` seconds, whatever stood for it before."""
        self.drop(task_id)
        entry = _Entry(self._clock.monotonic() + delay_s, task_id)
        self._entries[task_id] = entry
        heapq.heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._sooner.set()

    def drop(self, task_id: TaskId) -> None:
        """Take the task off; no error if it is not there."""
        entry = self._entries.pop(task_id, None)
        if entry is not None:
            entry.live = False

    async def next(self) -> TaskId:
        """Wait for the next due task and take it off."""
        while True:
            self._sooner.clear()
            wait = self._wait()
            if wait is not None and wait <= 0:
                entry = heapq.heappop(self._heap)
                if entry.live:
                    del self._entries[entry.task_id]
                    return entry.task_id
                continue
            await self._until_sooner(wait)

    def _wait(self) -> float | None:
        """Return the seconds until the first entry, 0 for a dead one; None if there is none."""
        if not self._heap:
            return None
        first = self._heap[0]
        return first.due - self._clock.monotonic() if first.live else 0.0

    async def _until_sooner(self, wait: float | None) -> None:
        try:
            async with asyncio.timeout(wait):
                await self._sooner.wait()
        except TimeoutError:
            return
