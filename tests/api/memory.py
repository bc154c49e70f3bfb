"""Fakes with the shape of ports: a store in memory, a still clock, a dispatcher that listens."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from tesp_api.domain.errors import Stale, StoreUnreachable
from tesp_api.domain.task import DriverId, Task, TaskId
from tesp_api.domain.tes import State, View
from tesp_api.domain.views import render
from tesp_api.ports import Glance, Page, Query

BEGINNING = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


class MemoryStore:
    """TaskStore with troubles to come.

    `outages`: how many calls fail; `lost_answers`: how many writes take effect and fail all the
    same; `stale`: how many saves come too late.
    """

    def __init__(self) -> None:
        self.tasks: dict[TaskId, Task] = {}
        self.outages = 0
        self.lost_answers = 0
        self.stale = 0
        self.calls: list[str] = []

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def add(self, task: Task) -> None:
        self._call("add")
        self.tasks.setdefault(task.id, task)
        self._lose()

    async def get(self, task_id: TaskId) -> Task | None:
        self._call("get")
        return self.tasks.get(task_id)

    async def save(self, task: Task) -> None:
        self._call("save")
        if self.stale:
            self.stale -= 1
            raise Stale(task.id)
        if self.tasks[task.id].revision != task.revision - 1:
            raise Stale(task.id)
        self.tasks[task.id] = task
        self._lose()

    async def document(self, task_id: TaskId, view: View, owner: str | None) -> bytes | None:
        self._call("document")
        task = self.tasks.get(task_id)
        if task is None or owner not in (None, task.owner):
            return None
        return render(task, view)

    async def page(self, query: Query) -> Page:
        self._call("page")
        found = [
            render(task, query.view)
            for task in reversed(self.tasks.values())
            if query.owner in (None, task.owner)
        ]
        return Page(documents=found[: query.limit], next_before=None)

    async def queued(self, limit: int) -> Sequence[Task]:
        return [task for task in self.tasks.values() if task.state is State.QUEUED][:limit]

    async def driven(self, driver: DriverId | None, states: frozenset[State]) -> Sequence[Glance]:
        raise NotImplementedError

    async def untidy(self, limit: int, after: int = 0) -> Sequence[tuple[int, TaskId]]:
        raise NotImplementedError

    async def count(self, states: frozenset[State], owner: str | None, most: int) -> int:
        self._call("count")
        found = [
            task
            for task in self.tasks.values()
            if task.state in states and owner in (None, task.owner)
        ]
        return min(len(found), most)

    async def remove_ended(self, before: datetime, limit: int) -> int:
        raise NotImplementedError

    async def slots(self) -> frozenset[int]:
        raise NotImplementedError

    async def beat(self, driver: DriverId) -> Mapping[DriverId, int]:
        raise NotImplementedError

    async def retire(self, driver: DriverId) -> None:
        raise NotImplementedError

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.outages:
            self.outages -= 1
            raise StoreUnreachable("outage")

    def _lose(self) -> None:
        if self.lost_answers:
            self.lost_answers -= 1
            raise StoreUnreachable("answer lost")


class StillClock:
    """Clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        return self.passed_s

    async def sleep(self, seconds: float) -> None:
        self.passed_s += seconds


class Listener:
    """Dispatch that writes down what it is told."""

    def __init__(self) -> None:
        self.news = 0
        self.changes: list[TaskId] = []

    def new_task(self) -> None:
        self.news += 1

    def changed(self, task_id: TaskId) -> None:
        self.changes.append(task_id)
