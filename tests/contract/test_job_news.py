"""What every store promises of what was heard of jobs (`ports.JobNews`)."""

import asyncio

import pytest

from tesp_api.domain.errors import Stale, StoreUnreachable
from tesp_api.domain.task import JobId
from tesp_api.ports import Store
from tests.contract.conftest import NewStore

JOB, OTHER = JobId("tes-a-0"), JobId("tes-b-0")
LARGE = b'{"output":"' + b"0123456789abcdef" * 50_000 + b'"}'


async def test_a_record_is_read_as_it_was_kept(store: Store) -> None:
    assert await store.news(JOB) is None

    for revision, record in enumerate((b"{}", LARGE, b'{"a":"\\u00fc"}'), start=1):
        await store.keep_news(JOB, record, revision)
        kept = await store.news(JOB)
        assert kept is not None
        assert (kept.revision, kept.record) == (revision, record)
    assert await store.news(OTHER) is None


@pytest.mark.parametrize("revision", [1, 2, 4, 5])
async def test_only_the_next_revision_is_kept(store: Store, revision: int) -> None:
    await store.keep_news(JOB, b'{"a":1}', 1)
    await store.keep_news(JOB, b'{"a":2}', 2)

    with pytest.raises(Stale):
        await store.keep_news(JOB, b"{}", revision)

    kept = await store.news(JOB)
    assert kept is not None
    assert (kept.revision, kept.record) == (2, b'{"a":2}')


async def test_what_was_never_kept_has_no_second_revision(store: Store) -> None:
    with pytest.raises(Stale):
        await store.keep_news(JOB, b"{}", 2)
    assert await store.news(JOB) is None


async def test_of_many_at_once_one_is_kept_each_time(store: Store) -> None:
    async def add_one() -> None:
        while True:
            kept = await store.news(JOB)
            count = int(kept.record[5:-1]) if kept else 0
            try:
                revision = kept.revision + 1 if kept else 1
                return await store.keep_news(JOB, b'{"a":%d}' % (count + 1), revision)
            except Stale:
                continue

    await asyncio.gather(*(add_one() for _ in range(20)))

    kept = await store.news(JOB)
    assert kept is not None
    assert (kept.revision, kept.record) == (20, b'{"a":20}')


async def test_dropped_jobs_are_unknown_and_may_be_kept_anew(store: Store) -> None:
    await store.keep_news(JOB, b"{}", 1)
    await store.keep_news(OTHER, b"{}", 1)

    await store.drop_news([JOB, JobId("tes-never-0")])
    await store.drop_news([JOB])
    await store.drop_news([])

    assert await store.news(JOB) is None
    assert await store.news(OTHER) is not None
    await store.keep_news(JOB, b"{}", 1)


async def test_the_doomed_are_listed_until_they_are_dropped(store: Store) -> None:
    names = [JobId(f"tes-{number}-0") for number in range(5)]
    for name in names:
        await store.keep_news(name, b"{}", 1)
        if name != names[0]:
            await store.keep_news(name, b"{}", 2, doomed=True)

    assert sorted(await store.doomed(10)) == names[1:]
    assert len(await store.doomed(2)) == 2
    await store.drop_news(names[1:3])
    assert sorted(await store.doomed(10)) == names[3:]


async def test_what_was_kept_outlives_the_store(new_store: NewStore) -> None:
    first, second = new_store(), new_store()
    await first.open()
    await first.keep_news(JOB, LARGE, 1, doomed=True)
    await first.close()
    await second.open()
    try:
        kept = await second.news(JOB)
        assert kept is not None
        assert kept.record == LARGE
        assert list(await second.doomed(1)) == [JOB]
    finally:
        await second.close()


async def test_a_closed_store_is_unreachable(new_store: NewStore) -> None:
    store = new_store()
    for call in (
        store.news(JOB),
        store.keep_news(JOB, b"{}", 1),
        store.drop_news([JOB]),
        store.doomed(1),
    ):
        with pytest.raises(StoreUnreachable):
            await call
