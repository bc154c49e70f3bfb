"""How a task lies in MongoDB and how it is asked for there: pure, nothing of the driver.

Nothing a client wrote is ever a key or an operator here: names and tags are values, tags as JSON
texts of their own, `["key"]` and `["key","value"]`, so that one index serves both questions.
"""

import json
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from tesp_api.domain.tes import View
from tesp_api.ports import Query
from tesp_api.store.rows import Row, beyond, squeeze, unsqueeze

Document: TypeAlias = Mapping[str, Any]
"""One of MongoDB's."""
BEFORE_ALL: Final = 2**63 - 1
_SHOWN: Final = {
    View.MINIMAL: "$minimal",
    View.BASIC: {"$ifNull": ["$basic", "$full"]},
    View.FULL: "$full",
}


def new(row: Row, seq: int) -> dict[str, Any]:
    """Return the document of a new task in place `seq`."""
    tags = [_token(*tag) for tag in row.tags.items()] + [_token(key) for key in row.tags]
    kept = {"owner": row.owner, "name": row.name, "tags": tags}
    return {"_id": row.id, "seq": seq, **_present(kept), **_present(_changing(row))}


def change(row: Row) -> Document:
    """Return the update that makes a task's document that of its next revision."""
    changing = _changing(row)
    gone = {name: "" for name, value in changing.items() if value is None}
    return {"$set": _present(changing), **({"$unset": gone} if gone else {})}


def size_of(row: Row) -> int:
    """Return about how many bytes the document takes."""
    documents = (squeeze(part) for part in (row.full, row.basic or b"{"))
    return len(row.task) + sum(map(len, documents)) + 3 * sum(map(len, (row.name or "", *row.tags)))


def choice(query: Query) -> Document:
    """Return the filter that finds the tasks of `query`."""
    wanted: dict[str, Any] = {"seq": {"$lt": BEFORE_ALL if query.before is None else query.before}}
    if query.owner is not None:
        wanted["owner"] = query.owner
    if query.states is not None:
        wanted["state"] = {"$in": sorted(query.states)}
    if query.name_prefix:
        wanted["name"] = _span(query.name_prefix)
    if query.tags:
        wanted["tags"] = {
            "$all": [_token(key, value) if value else _token(key) for key, value in query.tags]
        }
    return wanted


def projection(view: View) -> Document:
    """Return what to ask of each document for `shown`."""
    return {"_id": 0, "seq": 1, "shown": _SHOWN[view]}


def shown(found: Document) -> bytes:
    """Return the rendered task of a document got by `projection`."""
    return unsqueeze(found["shown"])


def _changing(row: Row) -> Document:
    return {
        "state": row.state,
        "revision": row.revision,
        "driver": row.driver,
        "slot": row.slot,
        "claimed": row.claimed or None,
        "untidy": row.untidy or None,
        "done_at": row.done_at,
        "minimal": row.minimal,
        "basic": None if row.basic is None else squeeze(row.basic),
        "full": squeeze(row.full),
        "task": row.task,
    }


def _present(values: Document) -> Document:
    """Leave out what is None: the partial indexes hold what has a value."""
    return {name: value for name, value in values.items() if value is not None}


def _span(prefix: str) -> Document:
    end = beyond(prefix)
    return {"$gte": prefix} if end is None else {"$gte": prefix, "$lt": end}


def _token(*tag: str) -> str:
    return json.dumps(tag, ensure_ascii=False, separators=(",", ":"))
