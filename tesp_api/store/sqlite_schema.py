"""The tables of the SQLite file.

`task` is narrow, so that a walk along it touches few pages; what is given out whole lies in
`document`. Lists are walked by `seq` from the newest end: each index that serves one ends in `seq`.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

APPLICATION_ID: Final = 0x54455350
"""Marks the file as ours."""
VERSION: Final = 2

_DONE: Final = "CREATE INDEX task_done ON task (done_at) WHERE done_at IS NOT NULL"

SCHEMA: Final = (
    """CREATE TABLE task (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL,
        state TEXT NOT NULL,
        revision INTEGER NOT NULL,
        owner TEXT,
        name TEXT,
        driver TEXT,
        slot INTEGER,
        claimed INTEGER NOT NULL,
        untidy INTEGER NOT NULL,
        minimal BLOB NOT NULL,
        done_at REAL
    )""",
    "CREATE UNIQUE INDEX task_by_id ON task (id)",
    "CREATE INDEX task_by_state ON task (state, seq)",
    # With what a MINIMAL list gives out: most lists are an owner's own, by clients that poll.
    "CREATE INDEX task_by_owner ON task (owner, seq, minimal) WHERE owner IS NOT NULL",
    "CREATE INDEX task_by_owner_and_state ON task (owner, state, seq) WHERE owner IS NOT NULL",
    "CREATE INDEX task_by_name ON task (name, seq) WHERE name IS NOT NULL",
    "CREATE UNIQUE INDEX task_by_slot ON task (slot) WHERE slot IS NOT NULL",
    "CREATE INDEX task_claimed ON task (seq) WHERE claimed",
    "CREATE INDEX task_untidy ON task (seq) WHERE untidy",
    _DONE,
    """CREATE TABLE document (
        seq INTEGER PRIMARY KEY,
        basic BLOB,
        full BLOB NOT NULL,
        task BLOB NOT NULL
    )""",
    """CREATE TABLE tag (
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (key, value, seq)
    ) WITHOUT ROWID""",
    "CREATE INDEX tag_by_key ON tag (key, seq)",
    """CREATE TABLE driver (
        id TEXT PRIMARY KEY,
        beats INTEGER NOT NULL
    ) WITHOUT ROWID""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)

STEPS: Final[Mapping[int, Sequence[str]]] = MappingProxyType(
    {
        1: (
            "ALTER TABLE task ADD COLUMN done_at REAL",
            # The end stood nowhere but in the documents. 2440587.5 is the Julian day of 1970.
            "UPDATE task SET done_at = ("
            " SELECT (julianday(json_extract(CAST(full AS TEXT), '$.logs[#-1].end_time'))"
            " - 2440587.5) * 86400 FROM document WHERE document.seq = task.seq)"
            " WHERE NOT untidy"
            " AND state IN ('COMPLETE', 'EXECUTOR_ERROR', 'SYSTEM_ERROR', 'CANCELED')",
            _DONE,
            "PRAGMA user_version = 2",
        ),
    }
)
"""What makes a file of each earlier version one of the next."""
