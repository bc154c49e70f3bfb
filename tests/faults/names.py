"""How the points of a server's life are called: by what is done, for which job, in which state."""

import json
from collections.abc import Mapping
from typing import Any, Final

from tesp_api.domain.task import Purpose, Task
from tesp_api.pulsar import hearsay, wire
from tesp_api.pulsar.chores import SCRIPT

OURS: Final = ("chore", "ping")
"""Jobs of the server's own, by the second word of their names."""


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

    def about(self, what: str, job: str) -> str:
        """Name what is done about a job: by the job's purpose and the task's state."""
        return f"{what} {self._whose(job)}".rstrip()

    def _whose(self, job: str) -> str:
        prefix, _, rest = job.partition("-")
        word = rest.partition("-")[0]
        if prefix != "tes" or word in OURS:
            return word if word in OURS else ""
        task = self._tasks.get(word)
        if task is None:
            return ""
        purpose = next((one.purpose for one in task.jobs if one.id == job), Purpose.RUN)
        return f"{purpose} {task.state}"


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


def request(method: str, path: str, query: Mapping[str, str], known: Known) -> str:
    """Name a request to Pulsar's REST API."""
    _, _, below = path.partition("jobs/")
    job, _, what = below.partition("/")
    if method == "DELETE":
        what = "delete"
    elif what == "files":
        what = "upload" if method == "POST" else f"read {query['name']}"
    elif what == "submit" and query["command_line"] == wire.OCCUPY:
        what = "occupy"
    return known.about(what or path, job)


def message(queue: str, body: Mapping[str, Any], known: Known) -> str:
    """Name a message to Pulsar; of a chore, by what it does."""
    line = str(body.get("command_line", ""))
    what = "occupy" if line == wire.OCCUPY else f"send {queue}"
    chore = line.partition(f"{SCRIPT} ")[2].partition(" ")[0]
    return known.about(f"{what} {chore}".rstrip(), body["job_id"])


def update(body: bytes, known: Known) -> str:
    """Name a message from Pulsar."""
    told = json.loads(body)
    return known.about(f"hear {told['status']}", told["job_id"])


def news(job: str, record: bytes, known: Known) -> str:
    """Name what is kept of a job by what is known of it then."""
    heard = hearsay.decode(record)
    what = "doomed" if heard.doomed else f"{heard.phase}{'' if heard.said else ' unheard'}"
    return known.about(f"keep {what}{' killed' if heard.killed else ''}", job)


def dropped(jobs: Any) -> str:
    """Name what is kept of no more: chores' news are dropped one by one, others' together."""
    ours = {word for job in jobs for word in OURS if job.startswith(f"tes-{word}-")}
    return f"drop {' '.join(sorted(ours)) or 'jobs'}"
