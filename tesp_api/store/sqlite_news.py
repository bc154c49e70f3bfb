"""What Pulsar's messages told of jobs, in the SQLite file: one row a job."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from tesp_api.domain.errors import Stale
from tesp_api.domain.task import JobId
from tesp_api.ports import News
from tesp_api.store.rows import squeeze, unsqueeze

SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS news (
        job TEXT NOT NULL,
        revision INTEGER NOT NULL,
        doomed INTEGER NOT NULL,
        record BLOB NOT NULL
    )""",
    "CREATE UNIQUE INDEX IF NOT EXISTS news_by_job ON news (job)",
    "CREATE INDEX IF NOT EXISTS news_doomed ON news (job) WHERE doomed",
)
_INSERT: Final = (
    "INSERT INTO news (record, doomed, job, revision) VALUES (?, ?, ?, ? + 1)"
    " ON CONFLICT (job) DO NOTHING"
)
_UPDATE: Final = (
    "UPDATE news SET record = ?, doomed = ?, revision = revision + 1 WHERE job = ? AND revision = ?"
)


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep a record as that revision."""

    job: str
    record: bytes
    revision: int
    doomed: bool


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget these jobs."""

    jobs: Sequence[str]


NewsWrite: TypeAlias = Keep | Drop


def write(db: sqlite3.Connection, what: NewsWrite) -> None:
    """Do it, in the caller's transaction. Raises Stale; then nothing has changed."""
    match what:
        case Keep(job, record, revision, doomed):
            statement = _INSERT if revision == 1 else _UPDATE
            values = (squeeze(record), doomed, job, revision - 1)
            if not db.execute(statement, values).rowcount:
                raise Stale(f"What is kept of {job} is not revision {revision - 1}.")
        case Drop(jobs):
            names = json.dumps(list(jobs))
            db.execute("DELETE FROM news WHERE job IN (SELECT value FROM json_each(?))", (names,))


def news(db: sqlite3.Connection, job: JobId) -> News | None:
    """Return what is kept of a job."""
    row = db.execute("SELECT revision, record FROM news WHERE job = ?", (job,)).fetchone()
    return None if row is None else News(revision=row[0], record=unsqueeze(row[1]))


def doomed(db: sqlite3.Connection, limit: int) -> Sequence[JobId]:
    """Return jobs that nobody asks for any more."""
    row = db.execute(
        "SELECT json_group_array(job) FROM (SELECT job FROM news INDEXED BY news_doomed"
        " WHERE doomed LIMIT ?)",
        (limit,),
    ).fetchone()
    return [JobId(job) for job in json.loads(row[0])]
