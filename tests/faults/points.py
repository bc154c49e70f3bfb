"""The named points of a server's life, as the server under test passes them.

Before and after each write to the store, and before and after each request to Pulsar, the process
comes by here. A plan says at which point, and at which time of passing it, it is to be killed (by
itself, with SIGKILL: no cleaning up, no flushing) or stopped.
"""

import json
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from tesp_api.domain.task import Purpose, Task
from tesp_api.pulsar import wire

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


class Known:
    """The tasks as the process last saw them, so that points can be named after their states."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}

    def learn(self, *tasks: Task | None) -> None:
        self._tasks.update({task.id: task for task in tasks if task is not None})

    def save(self, after: Task) -> str:
        """Name a save by what it changes."""
        before = self._tasks.get(after.id)
        return f"save {_change(before, after)}" if before else f"save {after.state}"

    def request(self, what: str, job: str) -> str:
        """Name a request to Pulsar by the job's purpose and the task's state."""
        task = self._tasks.get(job.split("-")[1]) if job.startswith("tes-") else None
        if task is None:
            return what
        purpose = next((one.purpose for one in task.jobs if one.id == job), Purpose.RUN)
        return f"{what} {purpose} {task.state}"


def _change(before: Task, after: Task) -> str:
    if before.state is not after.state:
        return f"{before.state} to {after.state}"
    submitted = after.job and after.job.submitted and not (before.job and before.job.submitted)
    what = {
        "adopted": before.driver != after.driver,
        f"next job {after.jobs[-1].purpose}": len(after.jobs) > len(before.jobs),
        "forgotten": any(one.forgotten for one in set(after.jobs) - set(before.jobs)),
        f"submitted {after.jobs[-1].purpose}": submitted,
        "uploads": before.uploads != after.uploads,
    }
    return f"{after.state} {next((name for name, so in what.items() if so), 'noted')}"


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

    async def keep_news(self, *news: Any, **more: Any) -> None:
        await self._points.around("keep news", lambda: self._real.keep_news(*news, **more))

    async def drop_news(self, jobs: Any) -> None:
        await self._points.around("drop news", lambda: self._real.drop_news(jobs))

    async def retire(self, driver: str) -> None:
        await self._points.around("retire", lambda: self._real.retire(driver))


Ask = Callable[..., Awaitable[Any]]


def pointed_rest(ask: Ask, points: Points, known: Known) -> Ask:
    """Return RestRunner's one way out with points around it."""

    async def asked(method: str, path: str, query: Mapping[str, str], *body: Any) -> Any:
        name = _rest_name(method, path, query, known)
        return await points.around(name, lambda: ask(method, path, query, *body))

    return asked


def pointed_amqp(send: Ask, points: Points, known: Known) -> Ask:
    """Return the broker's one way out with points around it."""

    async def sent(queue: str, body: Mapping[str, Any], **more: Any) -> Any:
        occupies = body.get("command_line") == wire.OCCUPY
        name = known.request("occupy" if occupies else f"send {queue}", body["job_id"])
        return await points.around(name, lambda: send(queue, body, **more))

    return sent


def _rest_name(method: str, path: str, query: Mapping[str, str], known: Known) -> str:
    _, _, below = path.partition("jobs/")
    job, _, what = below.partition("/")
    if method == "DELETE":
        what = "delete"
    elif what == "files":
        what = "upload" if method == "POST" else f"read {query['name']}"
    elif what == "submit" and query["command_line"] == wire.OCCUPY:
        what = "occupy"
    return known.request(what or path, job)
