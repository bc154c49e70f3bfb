"""What comes of a job that is being forgotten by another process at the same moment."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tesp_api.domain.task import JobId
from tesp_api.ports import News
from tesp_api.pulsar.hearsay import Heard
from tesp_api.pulsar.mailbox import Mailbox
from tesp_api.store.sqlite import SqliteStore

JOB = JobId("tes-a-0")


class Shared:
    """What is kept, with a peer who forgets the job between our look and our word."""

    def __init__(self, real: SqliteStore) -> None:
        self.peer_forgets = False
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def news(self, job: JobId) -> News | None:
        found = await self._real.news(job)
        if self.peer_forgets:
            await self._real.drop_news([job])
        return found


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Shared]:
    store = SqliteStore(tmp_path / "news.db")
    await store.open()
    yield Shared(store)
    await store.close()


async def test_a_late_word_on_a_job_that_a_peer_forgot_meanwhile_is_not_kept(
    shared: Shared,
) -> None:
    mail = Mailbox(shared)
    await mail.change(JOB, lambda old: old or Heard())
    shared.peer_forgets = True

    await mail.hear(json.dumps({"job_id": JOB, "status": "running"}).encode())

    assert await shared.news(JOB) is None


async def test_a_word_on_a_job_that_is_just_being_sent_is_kept(shared: Shared) -> None:
    mail = Mailbox(shared)
    mail.expect(JOB)

    await mail.hear(json.dumps({"job_id": JOB, "status": "running"}).encode())

    assert await shared.news(JOB) is not None
