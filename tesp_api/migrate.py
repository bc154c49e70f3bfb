"""`tesp-api migrate`: bring over the tasks that the reference implementation has kept."""

from tesp_api.domain.errors import Misconfigured, StoreUnreachable
from tesp_api.ports import TaskStore
from tesp_api.store import reference
from tesp_api.store.mongo import documents


async def migrate(uri: str, store: TaskStore, issuer: str | None) -> int:
    """Copy all tasks from the MongoDB at `uri` into `store`, oldest first; return the exit status.

    The old tasks stay as they are. May be repeated: a task that is there already is left alone.
    Raises Misconfigured where either side cannot be reached.
    """
    copied, unreadable = 0, 0
    try:
        async for document in documents(uri, reference.DATABASE, reference.COLLECTION):
            try:
                task = reference.task_of(document, issuer)
            except ValueError as error:
                unreadable += 1
                print(f"not copied: {error}")
            else:
                await store.add(task)
                copied += 1
    except StoreUnreachable as error:
        raise Misconfigured(f"{copied} tasks are copied, then: {error} Begin again.") from error
    print(f"{copied} tasks copied, {unreadable} could not be read.")
    return 1 if unreadable else 0
