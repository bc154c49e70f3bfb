"""What messages told of jobs, and a store keeps although nobody will ask for it or remove it."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import pymongo


def kept_news(environ: Mapping[str, str]) -> list[str]:
    """Name all jobs of which the MongoDB of these settings keeps anything."""
    return [str(one["_id"]) for one in _found(environ, {})]


def stale_news(environ: Mapping[str, str]) -> list[str]:
    """Name the jobs; the servers with these settings have ended, as have all their tasks.

    What is marked as doomed is not meant: the next server removes it.
    """
    if environ.get("TESP_DB__MONGODB_URI"):
        return [f"news of {one['_id']}" for one in _found(environ, {"doomed": {"$ne": True}})]
    with closing(sqlite3.connect(environ["TESP_DB__SQLITE_PATH"])) as db:
        return [f"news of {job}" for (job,) in db.execute("SELECT job FROM news WHERE NOT doomed")]


def _found(environ: Mapping[str, str], what: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    with pymongo.MongoClient(environ["TESP_DB__MONGODB_URI"]) as client:
        return list(client.get_default_database()["news"].find(what))
