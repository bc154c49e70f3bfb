"""What Pulsar told of our jobs, kept in the store, and whoever waits for it woken."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from loguru import logger

from tesp_api.domain.errors import Stale, StoreUnreachable
from tesp_api.domain.task import JobId
from tesp_api.ports import JobNews, News
from tesp_api.pulsar.chores import is_passing
from tesp_api.pulsar.hearsay import FINAL, Heard, Update, decode, encode, merge, update_of

RETRY_S: Final = 1.0
OVERTAKEN_S: Final = 0.5
"""An update may come before the process that started the job has said so in the store."""
GLANCE_S: Final = 1.0
"""How often somebody who waits looks into the store: another process may have got the message."""


class Mailbox:
    """Takes in updates. `told` is called with each job of which one changed something."""

    def __init__(self, news: JobNews) -> None:
        self.told: Callable[[JobId], None] = lambda _: None
        self._news = news
        self._expected: set[JobId] = set()
        self._waiting: dict[JobId, asyncio.Event] = {}
        self._recent: dict[JobId, tuple[float, Heard]] = {}

    async def hear(self, body: bytes) -> None:
        """Return when the update is kept, or is nobody's: it need not come again."""
        update = update_of(body)
        if update is None:
            logger.debug("a message that is no update of a job was dropped", size=len(body))
            return
        while True:
            with contextlib.suppress(StoreUnreachable):
                await self._keep(update)
                return
            await asyncio.sleep(RETRY_S)

    async def heard(self, job: JobId) -> Heard | None:
        """Return what is known of the job; None if it is not ours, or forgotten."""
        kept = await self._news.news(job)
        return None if kept is None else self._noted(job, decode(kept.record))

    async def glance(self, job: JobId) -> Heard | None:
        """Return the same, as it was a moment ago: what comes to this process is never late."""
        known = self._recent.get(job)
        if known is not None and time.monotonic() - known[0] < GLANCE_S:
            return known[1]
        return await self.heard(job)

    async def change(self, job: JobId, how: Callable[[Heard | None], Heard]) -> Heard:
        """Keep what `how` makes of what is known."""
        while True:
            kept = await self._news.news(job)
            with contextlib.suppress(Stale):
                return await self._put(job, kept, how(_known(kept)))

    def expect(self, job: JobId) -> None:
        """Take in what comes of a job that is just being sent."""
        self._expected.add(job)

    def expect_no_more(self, job: JobId) -> None:
        """Take in what comes of the job only if something is kept of it."""
        self._expected.discard(job)

    async def drop(self, *jobs: JobId) -> None:
        """Take in no more of these jobs."""
        self._expected.difference_update(jobs)
        for job in jobs:
            self._recent.pop(job, None)
        await self._news.drop_news(jobs)

    async def doomed(self, limit: int) -> Sequence[JobId]:
        """Return jobs that are to be removed from Pulsar, of this process and others.

        Also errands: what is kept of one outlives only a process that died before it ended.
        """
        return await self._news.doomed(limit)

    @asynccontextmanager
    async def waiting(self, job: JobId) -> AsyncIterator[asyncio.Event]:
        """Give an event that is set at each update of the job."""
        event = self._waiting.setdefault(job, asyncio.Event())
        try:
            yield event
        finally:
            self._waiting.pop(job, None)

    async def wait(self, job: JobId, enough: Callable[[Heard], bool], seconds: float) -> Heard:
        """Return what is known as soon as it is enough. Raises TimeoutError."""
        async with asyncio.timeout(seconds), self.waiting(job) as event:
            while True:
                event.clear()
                heard = await self.heard(job)
                if heard is not None and enough(heard):
                    return heard
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), GLANCE_S)

    async def _keep(self, update: Update) -> None:
        """Keep what the update adds; of a job that is forgotten meanwhile nothing is kept anew."""
        job = update.job
        while True:
            kept = await self._kept(job)
            if kept is None and job not in self._expected:
                logger.debug("an update of a job that is not ours was dropped", job=job)
                return
            before = _known(kept) or Heard()
            with contextlib.suppress(Stale):
                self._tell(job, before, await self._put(job, kept, merge(before, update)))
                return

    def _tell(self, job: JobId, before: Heard, after: Heard) -> None:
        """Wake who waits for the job, or else who looks after it."""
        if event := self._waiting.get(job):
            event.set()
        elif after.phase is not before.phase or after.known is not before.known:
            self.told(job)

    async def _put(self, job: JobId, kept: News | None, new: Heard) -> Heard:
        """Keep what is known now in the place of what was kept. Raises Stale."""
        if new != _known(kept):
            doomed = new.doomed or is_passing(job)
            revision = kept.revision + 1 if kept else 1
            await self._news.keep_news(job, encode(new), revision, doomed=doomed)
            self._expected.discard(job)
        return self._noted(job, new)

    def _noted(self, job: JobId, heard: Heard) -> Heard:
        """Remember for `glance` what may still change, which is short."""
        if heard.doomed or heard.phase in FINAL:
            self._recent.pop(job, None)
        else:
            self._recent[job] = time.monotonic(), heard
        return heard

    async def _kept(self, job: JobId) -> News | None:
        kept = await self._news.news(job)
        if kept is None and job not in self._expected:
            await asyncio.sleep(OVERTAKEN_S)
            kept = await self._news.news(job)
        return kept


def _known(kept: News | None) -> Heard | None:
    return decode(kept.record) if kept else None
