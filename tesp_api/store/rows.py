"""A task as both stores keep it: what indexes are made of, beside bytes given out as they are."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pydantic import TypeAdapter

from tesp_api.domain.lifecycle import ACTIVE, TERMINAL
from tesp_api.domain.task import Task
from tesp_api.domain.tes import View
from tesp_api.domain.views import basic_differs, render

_TASK: Final = TypeAdapter(Task)
_LARGE_BYTES: Final = 64 * 1024
"""Above it a record is compressed: log tails come twice (record, view), MongoDB ends at 16 MB."""
_LAST_CODE_POINT: Final = 0x10FFFF
_SURROGATES: Final = range(0xD800, 0xE000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task, ready to be stored. Everything but `task` can be made anew from it."""

    id: str
    state: str
    revision: int
    owner: str | None
    name: str | None
    tags: Mapping[str, str]
    driver: str | None
    slot: int | None
    """Held only while the task is unfinished."""
    claimed: bool
    """Unfinished, and some driver has or had it."""
    untidy: bool
    """Ended, and something of it is still to be removed."""
    minimal: bytes
    basic: bytes | None
    """None where it is the same as `full`."""
    full: bytes
    task: bytes
    """The record itself, for `decode`."""
    done_at: datetime | None = None
    """When it ended, once nothing of it is left anywhere; None before."""


def row_of(task: Task) -> Row:
    """Return what is stored of `task`."""
    active = task.state in ACTIVE
    return Row(
        id=task.id,
        state=task.state.value,
        revision=task.revision,
        owner=task.owner,
        name=task.request.name,
        tags=task.request.tags or {},
        driver=task.driver,
        slot=task.slot if active else None,
        claimed=active and task.driver is not None,
        untidy=task.state in TERMINAL and task.untidy,
        minimal=render(task, View.MINIMAL),
        basic=render(task, View.BASIC) if basic_differs(task) else None,
        full=render(task, View.FULL),
        task=encode(task),
        done_at=done_at(task),
    )


def done_at(task: Task) -> datetime | None:
    """Return when the task ended, or None as long as there is anything to do or to remove."""
    ended = task.state in TERMINAL and not task.untidy and task.attempts
    return task.attempts[-1].ended_at if ended else None


def encode(task: Task) -> bytes:
    """Return the record of `task`."""
    return squeeze(_TASK.dump_json(task, exclude_none=True))


def decode(record: bytes) -> Task:
    """Return the task that `encode` was given."""
    return _TASK.validate_json(unsqueeze(record))


def squeeze(document: bytes) -> bytes:
    """Return a JSON object's text, compressed if it is large."""
    return document if len(document) <= _LARGE_BYTES else zlib.compress(document, 1)


def unsqueeze(document: bytes) -> bytes:
    """Return what `squeeze` was given."""
    return document if document.startswith(b"{") else zlib.decompress(document)


def beyond(prefix: str) -> str | None:
    """Return the least string after all that begin with `prefix`; None if there is none.

    By code points, as both stores compare.
    """
    kept = prefix.rstrip(chr(_LAST_CODE_POINT))
    if not kept:
        return None
    after = ord(kept[-1]) + 1
    return kept[:-1] + chr(_SURROGATES.stop if after in _SURROGATES else after)
