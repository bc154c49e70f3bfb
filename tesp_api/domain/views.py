"""A task as TES JSON, in bytes: built once when a task is saved, given out as they are ever after.

Unset fields are left out, there are no nulls and no fields of our own: real clients refuse a whole
answer for either. Each document begins with `{"id":"…","state":"…"`, so that an answer can be cut
by position (`restated`).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic_core import to_json

from tesp_api.domain.task import Attempt, Task
from tesp_api.domain.tes import ExecutorLog, View

_BEFORE_STATE = b'"state":"'


def render(task: Task, view: View) -> bytes:
    """Return `task` as JSON in that view.

    The views are those of TES 1.1: BASIC leaves out log texts, contents and system logs.
    """
    head: dict[str, Any] = {"id": task.id, "state": task.state}
    if view is View.MINIMAL:
        return to_json(head)
    full = view is View.FULL
    document = head | task.request.model_dump(mode="json", exclude_none=True)
    if not full and task.request.inputs:
        document["inputs"] = [
            item.model_dump(mode="json", exclude_none=True, exclude={"content"})
            for item in task.request.inputs
        ]
    if task.attempts:
        document["logs"] = [_attempt(attempt, full=full) for attempt in task.attempts]
    document["creation_time"] = _moment(task.created_at)
    return to_json(document)


def basic_differs(task: Task) -> bool:
    """Tell whether BASIC leaves out anything of this task."""
    contents = any(item.content is not None for item in task.request.inputs or ())
    return contents or any(attempt.system_logs or _texts(attempt) for attempt in task.attempts)


def restated(document: bytes, shown: Mapping[bytes, bytes]) -> bytes:
    """Return a rendered task with its state shown as another, where `shown` has one for it."""
    start = document.index(_BEFORE_STATE) + len(_BEFORE_STATE)
    end = document.index(b'"', start)
    other = shown.get(document[start:end])
    return document if other is None else document[:start] + other + document[end:]


def _texts(attempt: Attempt) -> bool:
    return any(text is not None for log in attempt.executors for text in (log.stdout, log.stderr))


def _attempt(attempt: Attempt, *, full: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "logs": [_executor(log, full=full) for log in attempt.executors],
        "outputs": [output.model_dump() for output in attempt.outputs],
        "start_time": _moment(attempt.started_at),
    }
    if attempt.ended_at is not None:
        document["end_time"] = _moment(attempt.ended_at)
    if attempt.metadata:
        document["metadata"] = dict(attempt.metadata)
    if full and attempt.system_logs:
        document["system_logs"] = list(attempt.system_logs)
    return document


def _executor(log: ExecutorLog, *, full: bool) -> dict[str, Any]:
    return log.model_dump(exclude_none=True, exclude=None if full else {"stdout", "stderr"})


def _moment(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
