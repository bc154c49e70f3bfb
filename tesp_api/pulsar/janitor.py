"""Removes jobs' directories at Pulsar, many at a time, by small jobs of ours.

What is to be removed stands in the store until it is done: a crash only delays it.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Final

from loguru import logger

from tesp_api.domain.errors import Unreachable
from tesp_api.domain.task import JobId
from tesp_api.pulsar import chores
from tesp_api.pulsar.chores import is_passing
from tesp_api.pulsar.errands import Errands
from tesp_api.pulsar.mailbox import Mailbox

MOST: Final = 200
"""Jobs of one errand: they stand in its command line."""
GATHER_S: Final = 0.3
PAUSE_S: Final = 0.7
TROUBLE_S: Final = 5.0
SWEEP_S: Final = 60.0
"""How often the store is searched for what other processes have left behind."""
STUBBORN_S: Final = 600.0
"""What could not be removed is tried again after this."""
ORPHAN_SWEEPS: Final = 10
"""An errand that is seen for so many sweeps is waited for by nobody: who sent it has died."""


class Janitor:
    """One errand at a time. `passed_at` is when the last one that has ended was sent."""

    def __init__(self, errands: Errands, mail: Mailbox, sweep_s: float = SWEEP_S) -> None:
        self._errands = errands
        self._mail = mail
        self._sweep_s = sweep_s
        self._todo: dict[JobId, None] = {}
        self._stubborn: dict[JobId, float] = {}
        self._others: Mapping[JobId, float] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._probe = False
        self._work: list[asyncio.Task[None]] = []
        self.passed_at = float("-inf")
        self._stuck_since: float | None = None

    def begin(self) -> None:
        """Begin to work. Idempotent."""
        if not self._work:
            self._work = [
                asyncio.create_task(self._clean(), name="janitor"),
                asyncio.create_task(self._sweep(), name="janitor's sweep"),
            ]

    async def close(self, patience_s: float) -> None:
        """Finish what is under way, if that is soon; the rest waits in the store. Idempotent."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._idle.wait()
        for work in self._work:
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)

    def remove(self, job: JobId) -> None:
        """Remove this doomed job soon."""
        self._todo[job] = None
        self._hurry()

    def probe(self) -> None:
        """Send an errand, even if there is nothing to remove."""
        self._probe = True
        self._hurry()

    def stuck_s(self, now: float) -> float:
        """Return for how long no errand has come to its end although some were sent."""
        return 0.0 if self._stuck_since is None else now - self._stuck_since

    def _hurry(self) -> None:
        self._idle.clear()
        self._wake.set()

    async def _clean(self) -> None:
        while True:
            if not self._todo and not self._probe:
                self._idle.set()
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            pause_s = await self._attempt()
            if self._todo or self._probe:
                self._wake.set()
            await asyncio.sleep(pause_s)

    async def _attempt(self) -> float:
        """Do one batch; return how long to wait before the next."""
        begun = time.monotonic()
        try:
            await self._batch(list(self._todo)[:MOST])
        except Unreachable as error:
            logger.debug("removing at Pulsar waits: {}", error)
            self._stuck_since = self._stuck_since or begun
            return TROUBLE_S
        except Exception:  # noqa: BLE001 - the edge of a loop that must not end
            logger.exception("bug in removing at Pulsar")
            return SWEEP_S
        return PAUSE_S

    async def _batch(self, jobs: list[JobId]) -> None:
        sent_at = time.monotonic()
        output = await self._errands.run(chores.removal(jobs))
        left = chores.left(output)
        if left is None:
            raise Unreachable("Pulsar ended a removing job before it was done.")
        self._probe = False
        self.passed_at, self._stuck_since = sent_at, None
        await self._mail.drop(*(job for job in jobs if job not in left))
        for job in jobs:
            self._todo.pop(job, None)
        self._bear(left)

    def _bear(self, left: Sequence[str]) -> None:
        for job in map(JobId, left):
            if job not in self._stubborn:
                logger.warning("Pulsar's user cannot remove the directory of {}", job)
            self._stubborn[job] = time.monotonic()

    async def _sweep(self) -> None:
        """Take over what is doomed at two looks: the process that wanted it gone has ended."""
        while True:
            with contextlib.suppress(Unreachable):
                doomed = await self._mail.doomed(MOST)
                now = time.monotonic()
                for job in self._others.keys() & set(doomed) - self._todo.keys():
                    if self._is_left(job, now):
                        self.remove(job)
                self._others = {job: self._others.get(job, now) for job in doomed}
            await asyncio.sleep(self._sweep_s)

    def _is_left(self, job: JobId, now: float) -> bool:
        if is_passing(job) and now - self._others[job] < ORPHAN_SWEEPS * self._sweep_s:
            return False
        return now - self._stubborn.get(job, float("-inf")) > STUBBORN_S
