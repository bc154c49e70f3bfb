"""The named points of a server's life, as the server under test passes them.

Before and after each write to the store, each request or message to Pulsar, and each message from
it, the process comes by here. A plan says at which point, and at which time of passing it, it is to
be killed (by itself, with SIGKILL: no cleaning up, no flushing) or stopped.
"""

import json
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from tesp_api.domain.task import Task
from tests.faults import names
from tests.faults.names import Known

T = TypeVar("T")
SIGNALS: Final[Mapping[str, int]] = {"die": signal.SIGKILL, "stop": signal.SIGSTOP}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do to oneself, where, and when; an empty `point` is never passed."""

    point: str = ""
    nth: int = 1
    act: str = "die"

    def text(self) -> str:
        return json.dumps(asdict(self))


class Points:
    """Writes down what is passed first, and carries out the plan."""

    def __init__(self, plan: Plan, book: Path) -> None:
        self._plan = plan
        self._passed: Counter[str] = Counter()
        self._book = os.open(book, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def come_by(self, point: str) -> None:
        self._passed[point] += 1
        if self._passed[point] == 1:
            self._note("passed", point)
        if (point, self._passed[point]) == (self._plan.point, self._plan.nth):
            self._note(self._plan.act, point)
            os.kill(os.getpid(), SIGNALS[self._plan.act])

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        self.come_by(f"before {name}")
        answer = await call()
        self.come_by(f"after {name}")
        return answer

    def _note(self, what: str, point: str) -> None:
        os.write(self._book, f"{what}\t{point}\n".encode())


class PointedStore:
    """A TaskStore whose writes are points."""

    def __init__(self, real: Any, points: Points, known: Known) -> None:
        self._real, self._points, self._known = real, points, known

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def add(self, task: Task) -> None:
        await self._points.around("add", lambda: self._real.add(task))

    async def save(self, task: Task) -> None:
        await self._points.around(self._known.save(task), lambda: self._real.save(task))
        self._known.learn(task)

    async def get(self, task_id: str) -> Task | None:
        task: Task | None = await self._real.get(task_id)
        self._known.learn(task)
        return task

    async def queued(self, limit: int) -> Any:
        tasks = await self._real.queued(limit)
        self._known.learn(*tasks)
        return tasks

    async def beat(self, driver: str) -> Any:
        return await self._points.around("beat", lambda: self._real.beat(driver))

    async def keep_news(self, job: str, record: bytes, *more: Any, **named: Any) -> None:
        name = names.news(job, record, self._known)
        await self._points.around(name, lambda: self._real.keep_news(job, record, *more, **named))

    async def drop_news(self, jobs: Collection[str]) -> None:
        if jobs:
            await self._points.around(names.dropped(jobs), lambda: self._real.drop_news(jobs))

    async def retire(self, driver: str) -> None:
        await self._points.around("retire", lambda: self._real.retire(driver))


Ask = Callable[..., Awaitable[Any]]


def pointed_rest(ask: Ask, points: Points, known: Known) -> Ask:
    """Return RestRunner's one way out with points around it."""

    async def asked(method: str, path: str, query: Mapping[str, str], *body: Any) -> Any:
        name = names.request(method, path, query, known)
        return await points.around(name, lambda: ask(method, path, query, *body))

    return asked


def point_broker(broker: Any, points: Points, known: Known) -> None:
    """Put points around the broker's ways out and in."""
    send, declare, hear, take = broker.send, broker._declare, broker._hear, broker._take

    async def sent(queue: str, body: Mapping[str, Any], **more: Any) -> Any:
        name = names.message(queue, body, known)
        return await points.around(name, lambda: send(queue, body, **more))

    async def heard(body: bytes) -> Any:
        return await points.around(names.update(body, known), lambda: hear(body))

    async def taken(message: Any) -> None:
        name = names.update(message.body, known)
        await take(message)
        points.come_by(f"after taking off {name}")

    async def declared(channel: Any) -> Any:
        return await points.around("declare", lambda: declare(channel))

    broker.send, broker._declare, broker._hear, broker._take = sent, declared, heard, taken
