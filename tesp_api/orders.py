"""What a job on the node is told: the task as an order, with every URL made usable there.

URLs are signed when the order is made, as late as can be: just before the job goes to Pulsar.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tesp_api.domain import plan
from tesp_api.domain.errors import OutOfReach
from tesp_api.domain.task import Job, JobId, Left, Purpose, Task, Upload
from tesp_api.domain.tes import Output
from tesp_api.ports import Storage

Order = Mapping[str, Any]


class Orders:
    """Makes orders, and looks after the uploads in parts that some of them need.

    Everything that asks the storage raises OutOfReach for a no, StorageUnreachable for weather.
    """

    def __init__(self, storage: Storage, site: plan.Site) -> None:
        self._storage = storage
        self._site = site

    async def of(self, task: Task, job: Job) -> Order:
        """Return the order of the job that the task waits for."""
        if job.purpose is Purpose.STAGE_OUT:
            return await self._stage_out(task, job.id)
        storage, request, owner = self._storage, task.request, task.owner
        inputs = (storage.fetch_order(item, owner) for item in request.inputs or ())
        outputs = (storage.send_order(item, owner) for item in request.outputs or ())
        made = await asyncio.gather(*inputs), await asyncio.gather(*outputs)
        return plan.run_order(task, job.id, self._site, *made)

    def reap(self, task: Task, job: JobId, of: JobId) -> Order:
        """Return the order of a job that cleans up after the job `of`."""
        return plan.reap_order(task, job, of, self._site)

    async def _stage_out(self, task: Task, job: JobId) -> Order:
        assert task.run is not None, "only a job that ran leaves anything"
        uploads = {upload.left: upload.id for upload in task.uploads}
        files = [await self._parcel(task, left, uploads.get(left)) for left in task.left]
        return plan.stage_out_order(task, job, task.run.id, self._site, files)

    async def _parcel(self, task: Task, left: Left, upload: str | None) -> Order:
        item, place = output_of(task, left), {"path": left.path, "size_bytes": left.size_bytes}
        return {**place, **await self._storage.stage_order(item, left, task.owner, upload)}

    async def plan_uploads(self, task: Task) -> Sequence[Upload]:
        """Return what is to go up in parts and is not planned yet; to be kept before it is begun.

        So whoever goes on after a crash knows what may have been begun, and what is of others.
        """
        planned = {upload.left for upload in task.uploads}
        plans = [await self._plan(task, left) for left in task.left if left not in planned]
        return [plan for plan in plans if plan is not None]

    async def _plan(self, task: Task, left: Left) -> Upload | None:
        try:
            found = await self._storage.open_uploads(output_of(task, left), left, task.owner)
        except OutOfReach:
            return Upload(left=left, others=None)
        return None if found is None else Upload(left=left, others=tuple(found))

    async def begin_uploads(self, task: Task, *, again: bool) -> Sequence[Upload]:
        """Begin what is planned and not begun yet; to be kept before anything is sent.

        `again`: an earlier call may have begun some, unheard; they are let go of.
        """
        planned = [upload for upload in task.uploads if upload.id is None]
        if again:
            await self._let_go(task, planned)
        return [await self._begin(task, upload) for upload in planned]

    async def _begin(self, task: Task, upload: Upload) -> Upload:
        item = output_of(task, upload.left)
        return replace(upload, id=await self._storage.begin_upload(item, upload.left, task.owner))

    async def complete_uploads(
        self, task: Task, etags: Sequence[tuple[int, Sequence[str]]]
    ) -> None:
        """Make one object of each upload's parts; may be repeated."""
        uploads = {upload.left: upload.id for upload in task.uploads}
        for number, tags in etags:
            left = task.left[number]
            begun = uploads[left]
            assert begun is not None, "parts go to an upload that is kept"
            await self._storage.complete_upload(
                output_of(task, left), left, task.owner, begun, tags
            )

    async def abort_uploads(self, task: Task, uploads: Iterable[Upload]) -> None:
        """Leave nothing of these but what was completed; may be repeated.

        Raises OutOfReach when all was tried and some of them may be left.
        """
        if complaints := await self._let_go(task, uploads):
            raise OutOfReach(" ".join(complaints))

    async def _let_go(self, task: Task, uploads: Iterable[Upload]) -> Sequence[str]:
        """Abort what can be aborted; return why others cannot."""
        complaints = []
        for upload in uploads:
            item = output_of(task, upload.left)
            try:
                for begun in await self._begun(task, upload):
                    await self._storage.abort_upload(item, upload.left, task.owner, begun)
            except OutOfReach as error:
                complaints.append(str(error))
        return complaints

    async def _begun(self, task: Task, upload: Upload) -> Collection[str]:
        """Return the ids of the upload: one, or where none is known whatever came since."""
        if upload.id is not None:
            return [upload.id]
        item = output_of(task, upload.left)
        found = await self._storage.open_uploads(item, upload.left, task.owner)
        if upload.others is None:
            raise OutOfReach(f"{item.url} did not tell before which uploads were under way there.")
        return set(found or ()).difference(upload.others)


def output_of(task: Task, left: Left) -> Output:
    """Return the declared output that the file belongs to."""
    return (task.request.outputs or ())[left.output]
