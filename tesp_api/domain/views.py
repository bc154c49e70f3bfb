"""A task as TES JSON, in bytes: built once when a task is saved, given out as they are ever after.

Unset fields are left out, there are no nulls and no fields of our own: real clients refuse a whole
answer for either. Each document begins with `{"id":"…","state":"…"`, so that an answer can be cut
by position (`for_1_0`).
"""

from datetime import datetime
from typing import Any

from pydantic_core import to_json

from tesp_api.domain.task import Attempt, Task
from tesp_api.domain.tes import ExecutorLog, State, View

_CANCELING = f'"state":"{State.CANCELING}"'.encode()
_CANCELED = f'"state":"{State.CANCELED}"'.encode()
_HEAD_BYTES = 96
"""More than `{"id":"…","state":"…"` ever takes."""


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


def for_1_0(document: bytes) -> bytes:
    """Return a rendered task with only the states that TES 1.0 has:

    CANCELING is shown as CANCELED.
    """
    head = document[:_HEAD_BYTES]
    if _CANCELING not in head:
        return document
    return head.replace(_CANCELING, _CANCELED, 1) + document[_HEAD_BYTES:]


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
