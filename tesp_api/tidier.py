"""Leaves nothing of an ended task: at Pulsar, on the node, half-sent at the storage."""

from tesp_api.domain import lifecycle
from tesp_api.domain.errors import OutOfReach, RunnerUnreachable
from tesp_api.domain.task import Job, JobId, Task
from tesp_api.drive import Drive
from tesp_api.orders import Orders
from tesp_api.ports import OVER, Clock, JobRunner, Phase


class Tidier:
    """Repeats its steps for as long as it takes."""

    def __init__(
        self, runner: JobRunner, orders: Orders, clock: Clock, quarantine_s: float
    ) -> None:
        self._runner = runner
        self._orders = orders
        self._clock = clock
        self._quarantine_s = quarantine_s

    async def tidy(self, task: Task, drive: Drive) -> Task | None:
        """Remove an ended task from Pulsar; a job whose calls were unsure only later."""
        if task.uploads:
            return await self._abort(task)
        age = self._clock.monotonic() - drive.since
        gone: list[JobId] = []
        for job in task.leftovers:
            if job.unsure and age < self._quarantine_s:
                continue
            await self._remove(job, drive)
            gone.append(job.id)
        return lifecycle.forget(task, *gone) if gone else None

    async def _abort(self, task: Task) -> Task:
        try:
            await self._orders.abort_uploads(task, task.uploads)
        except OutOfReach as error:
            return lifecycle.abort(task, f"Parts of an upload may be left: {error}")
        return lifecycle.abort(task)

    async def _remove(self, job: Job, drive: Drive) -> None:
        """Delete the job at Pulsar; what a deletion left half done looks like a job set up."""
        ended = job.id == drive.job and drive.phase is Phase.ENDED
        if not ended and await self._moves(job.id):
            await self._runner.kill(job.id)
            if await self._moves(job.id):
                raise RunnerUnreachable(f"Pulsar could not yet end {job.id}.")
        await self._runner.forget(job.id)
        if (await self._runner.look(job.id)).phase is not Phase.UNKNOWN:
            raise RunnerUnreachable(f"Pulsar could not yet remove the directory of {job.id}.")

    async def _moves(self, job: JobId) -> bool:
        return (await self._runner.look(job)).phase not in OVER | {Phase.SET_UP}
