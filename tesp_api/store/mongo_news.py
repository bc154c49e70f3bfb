"""What Pulsar's messages told of jobs, in MongoDB: one document a job. Pure, but for the calls."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from tesp_api.domain.errors import Stale
from tesp_api.domain.task import JobId
from tesp_api.ports import News
from tesp_api.store.rows import squeeze, unsqueeze

if TYPE_CHECKING:
    from tesp_api.store.mongo import Collection as Documents

INDEXES: Final = (
    IndexModel([("doomed", ASCENDING)], name="doomed", partialFilterExpression={"doomed": True}),
)


async def news(kept: "Documents", job: JobId) -> News | None:
    """Return what is kept of a job."""
    found = await kept.find_one({"_id": job}, {"revision": 1, "record": 1})
    if found is None:
        return None
    return News(revision=found["revision"], record=unsqueeze(found["record"]))


async def keep(
    kept: "Documents", job: JobId, record: bytes, revision: int, *, doomed: bool
) -> None:
    """Keep a record as that revision. Raises Stale."""
    document = {"revision": revision, "record": squeeze(record), **_mark(doomed)}
    if revision > 1:
        before = {"_id": job, "revision": revision - 1}
        done = bool((await kept.replace_one(before, document)).matched_count)
    else:
        done = await _inserted(kept, {"_id": job, **document})
    if not done:
        raise Stale(f"What is kept of {job} is not revision {revision - 1}.")


async def drop(kept: "Documents", jobs: Collection[JobId]) -> None:
    """Forget these jobs."""
    await kept.delete_many({"_id": {"$in": sorted(jobs)}})


async def doomed(kept: "Documents", limit: int) -> Sequence[JobId]:
    """Return jobs that nobody asks for any more."""
    found = await kept.find({"doomed": True}, {"_id": 1}).limit(limit).to_list(limit)
    return [JobId(one["_id"]) for one in found]


async def _inserted(kept: "Documents", document: Mapping[str, Any]) -> bool:
    try:
        await kept.insert_one(dict(document))
    except DuplicateKeyError:
        return False
    return True


def _mark(doomed: bool) -> Mapping[str, Any]:
    return {"doomed": True} if doomed else {}
