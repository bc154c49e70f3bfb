"""Tasks of the reference implementation (CESNET/tesp-api) as ours. Pure.

It keeps them in MongoDB, database `tesp`, collection `tasks`: TES JSON with a BSON `_id` and with
`author`, the subject of whoever posted it, but not the issuer. Its ids have the form of ours.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import ValidationError

from tesp_api.domain.lifecycle import TERMINAL
from tesp_api.domain.task import Attempt, Task, TaskId
from tesp_api.domain.tes import ExecutorLog, OutputFileLog, State, TaskRequest

DATABASE: Final = "tesp"
COLLECTION: Final = "tasks"
Document = Mapping[str, Any]


def task_of(document: Document, issuer: str | None) -> Task:
    """Return the task in `document`; an author's tasks go to `issuer|author`, where one is given.

    What was under way there cannot be looked after here: it ends in SYSTEM_ERROR, which says so.
    Raises ValueError, with a sentence, for what cannot be read as a task.
    """
    name = str(document["_id"])
    try:
        request = TaskRequest.model_validate({**document, "id": None})
        state = State(document.get("state") or State.UNKNOWN)
        attempts = [_attempt(log, _created(document)) for log in document.get("logs") or ()]
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{name}: {str(error).splitlines()[0]}") from error
    task = Task(
        id=TaskId(name),
        request=request,
        state=state,
        created_at=_created(document),
        owner=_owner(document.get("author"), issuer),
        attempts=tuple(attempts),
    )
    return task if state in TERMINAL else _ended(task)


def _ended(task: Task) -> Task:
    line = (
        f"It was {task.state} when it was taken over from another server."
        " It is the user's turn: post it again."
    )
    last = Attempt(started_at=task.created_at, ended_at=task.created_at, system_logs=(line,))
    return Task(
        id=task.id,
        request=task.request,
        state=State.SYSTEM_ERROR,
        created_at=task.created_at,
        owner=task.owner,
        attempts=(*task.attempts, last),
    )


def _owner(author: str | None, issuer: str | None) -> str | None:
    return f"{issuer}|{author}" if author and issuer else None


def _created(document: Document) -> datetime:
    """Return when it was posted: a BSON id begins with the second in which it was made."""
    return _moment(document.get("creation_time")) or datetime.fromtimestamp(
        int(str(document["_id"])[:8], 16), UTC
    )


def _moment(value: object) -> datetime | None:
    """Read a moment, a text or BSON's own; without a zone it is UTC."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    if not isinstance(moment, datetime):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _attempt(log: Document, created: datetime) -> Attempt:
    return Attempt(
        started_at=_moment(log.get("start_time")) or created,
        ended_at=_moment(log.get("end_time")),
        executors=tuple(_executors(log.get("logs") or ())),
        outputs=tuple(OutputFileLog.model_validate(one) for one in log.get("outputs") or ()),
        system_logs=tuple(map(str, log.get("system_logs") or ())),
        metadata={key: str(value) for key, value in (log.get("metadata") or {}).items()},
    )


def _executors(logs: Sequence[Document]) -> Sequence[ExecutorLog]:
    """Return the logs of the executors that ended: those that have an exit code."""
    ended = (log for log in logs if log.get("exit_code") is not None)
    times = ("start_time", "end_time")
    return [
        ExecutorLog.model_validate({**log, **{name: _text(log.get(name)) for name in times}})
        for log in ended
    ]


def _text(value: object) -> str | None:
    moment = _moment(value)
    return moment.isoformat() if moment else None
