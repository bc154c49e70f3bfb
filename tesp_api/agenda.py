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

    Of those who wait in `next` one at a time watches the clock: it is woken when something becomes
    due earlier than it waits for, and the others sleep on.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[_Entry] = []
        self._entries: dict[TaskId, _Entry] = {}
        self._sooner = asyncio.Event()
        self._turn = asyncio.Lock()

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
        async with self._turn:
            while (task_id := self._take_due()) is None:
                self._sooner.clear()
                await self._clock.wait(self._sooner, self._until_first())
            return task_id

    def _take_due(self) -> TaskId | None:
        """Take the first task off, if it is due, and dropped ones before it."""
        now = self._clock.monotonic()
        while self._heap and (not self._heap[0].live or self._heap[0].due <= now):
            entry = heapq.heappop(self._heap)
            if entry.live:
                del self._entries[entry.task_id]
                return entry.task_id
        return None

    def _until_first(self) -> float | None:
        return self._heap[0].due - self._clock.monotonic() if self._heap else None
