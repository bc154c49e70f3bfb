"""Tasks that have ended long ago: found in the SQLite file, and removed from all its tables.

What is heard of their jobs is not touched: it goes when the jobs' directories have gone.
"""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

_DONE: Final = (
    "SELECT json_group_array(json_array(seq, json_extract(CAST(full AS TEXT), '$.tags')))"
    " FROM (SELECT seq FROM task INDEXED BY task_done WHERE done_at < ? ORDER BY done_at LIMIT ?)"
    " CROSS JOIN document USING (seq)"
)
_DELETE_TAGS: Final = "DELETE FROM tag WHERE key = ? AND seq IN (SELECT value FROM json_each(?))"
_DELETE: Final = (
    "DELETE FROM document WHERE seq IN (SELECT value FROM json_each(?))",
    "DELETE FROM task WHERE seq IN (SELECT value FROM json_each(?))",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """Remove the tasks of these places in the order."""

    seqs: Sequence[int]
    tagged: Mapping[str, Sequence[int]]
    """Which of them have a tag, by its key: many tasks, few keys."""


def done(db: sqlite3.Connection, before: datetime, limit: int) -> Remove:
    """Return what removes at most `limit` tasks that ended before that and are tidy."""
    found = json.loads(db.execute(_DONE, (before.timestamp(), limit)).fetchone()[0])
    tagged = defaultdict[str, list[int]](list)
    for seq, tags in found:
        for key in tags or ():
            tagged[key].append(seq)
    return Remove(seqs=[seq for seq, _ in found], tagged=tagged)


def remove(db: sqlite3.Connection, what: Remove) -> None:
    """Do it, in the caller's transaction."""
    for key, seqs in what.tagged.items():
        db.execute(_DELETE_TAGS, (key, json.dumps(seqs)))
    for statement in _DELETE:
        db.execute(statement, (json.dumps(what.seqs),))
