"""What a job on the node is told: the task as an order, with every URL made usable there.

URLs are signed when the order is made, as late as can be: just before the job goes to Pulsar.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from tesp_api.domain import plan
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

    async def begin_uploads(self, task: Task) -> Sequence[Upload]:
        """Begin what goes up in parts and is not begun yet; to be kept before anything is sent."""
        begun = {upload.left for upload in task.uploads}
        made = []
        for left in task.left:
            if left not in begun and (upload := await self._begin(task, left)) is not None:
                made.append(Upload(left=left, id=upload))
        return made

    async def _begin(self, task: Task, left: Left) -> str | None:
        return await self._storage.begin_upload(output_of(task, left), left, task.owner)

    async def complete_uploads(
        self, task: Task, etags: Sequence[tuple[int, Sequence[str]]]
    ) -> None:
        """Make one object of each upload's parts; may be repeated."""
        uploads = {upload.left: upload.id for upload in task.uploads}
        for number, tags in etags:
            left = task.left[number]
            await self._storage.complete_upload(
                output_of(task, left), left, task.owner, uploads[left], tags
            )

    async def abort_uploads(self, task: Task) -> None:
        """Leave nothing of the uploads but what was completed; may be repeated."""
        for upload in task.uploads:
            output = output_of(task, upload.left)
            await self._storage.abort_upload(output, upload.left, task.owner, upload.id)


def output_of(task: Task, left: Left) -> Output:
    """Return the declared output that the file belongs to."""
    return (task.request.outputs or ())[left.output]
