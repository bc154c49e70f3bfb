"""Leave is asked right before each request to Pulsar, and without it nothing goes out."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tesp_api.domain.errors import LeaseLapsed, RunnerUnreachable
from tesp_api.domain.task import JobId
from tesp_api.pulsar import chores, hearsay
from tesp_api.pulsar.amqp_runner import AmqpRunner
from tesp_api.pulsar.messages import Queue, queue_name
from tesp_api.pulsar.rest import RestRunner
from tesp_api.store.sqlite import SqliteStore
from tests.amqp_pulsars import AmqpPulsar
from tests.faults.ledger import ledger
from tests.needs import need
from tests.pulsars import until

JOB = JobId("tes-a-0")
SEEN = {"job_id": JOB, "status": "running", "complete": "false"}


def lapsed() -> None:
    raise LeaseLapsed("too late")


@pytest.mark.parametrize("call", ["look", "kill", "settle", "forget", "start"])
async def test_without_leave_nothing_reaches_pulsar(call: str) -> None:
    with ledger() as pulsar:
        runner = RestRunner(pulsar.url(""), permit=lapsed)
        more = [{}] if call == "start" else []
        with pytest.raises(LeaseLapsed):
            await getattr(runner, call)(JOB, *more)
        assert not pulsar.counts
        await runner.close()


async def test_leave_is_asked_for_each_request_anew() -> None:
    asked: list[int] = []
    with ledger() as pulsar:
        runner = RestRunner(pulsar.url(""), permit=lambda: asked.append(pulsar.counts.total()))
        for _ in range(3):
            with pytest.raises(RunnerUnreachable):  # the ledger gives no status
                await runner.look(JOB)
        assert asked == [0, 1, 2], "before each one, not at the beginning"
        await runner.close()


# --- over AMQP: queues that nobody reads ---


@pytest.fixture
def queues(tmp_path: Path) -> Iterator[AmqpPulsar]:
    need("rabbitmq")
    made = AmqpPulsar(tmp_path, os.environ["TESP_TEST_AMQP_URL"])
    names = [queue_name(made.managers[0], queue) for queue in Queue]
    with made.channel() as channel:
        for name in names:
            channel.queue_declare(name, durable=True, auto_delete=False)
    yield made
    with made.channel() as channel:
        for name in names:
            channel.queue_delete(name)


def command_of_next(queues: AmqpPulsar) -> str:
    """Return what the next job is to do."""
    with queues.channel() as channel:
        body = channel.basic_get(queue_name(queues.managers[0], Queue.SETUP)).body
    return str(json.loads(body)["command_line"])


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "news.db")
    await store.open()
    yield store
    await store.close()


@asynccontextmanager
async def listening(
    queues: AmqpPulsar, store: SqliteStore, permit: Callable[[], None], **more: float
) -> AsyncIterator[AmqpRunner]:
    runner = queues.runner(store, permit=permit, timeout_s=2.0, **more)
    runner.listen(lambda _: None)
    try:
        yield runner
    finally:
        await runner.close()


@pytest.mark.parametrize("call", ["kill", "settle", "start"])
async def test_without_leave_no_message_goes_out_and_nothing_is_kept(
    call: str, queues: AmqpPulsar, store: SqliteStore
) -> None:
    async with listening(queues, store, lapsed) as runner:
        more = [{}] if call == "start" else []
        with pytest.raises(LeaseLapsed):
            await getattr(runner, call)(JOB, *more)
        assert [queues.depth(queue) for queue in Queue] == [0] * len(Queue)
        assert await store.news(JOB) is None


async def test_who_lost_leave_while_a_message_went_out_keeps_nothing_of_its_job(
    queues: AmqpPulsar, store: SqliteStore
) -> None:
    """A peer may have ended the job by then, and forgotten it: nobody would do so again."""
    leaves = [None]

    def once() -> None:
        if not leaves:
            lapsed()
        leaves.pop()

    async with listening(queues, store, once) as runner:
        with pytest.raises(LeaseLapsed):
            await runner.start(JOB, {})
        assert queues.depth(Queue.SETUP) == 1
        queues.tell(Queue.UPDATE, SEEN)
        await asyncio.to_thread(until, lambda: not queues.depth(Queue.UPDATE), 10, str)
    assert await store.news(JOB) is None


async def test_what_is_kept_of_an_errand_is_marked_for_removal_while_it_is_waited_for(
    queues: AmqpPulsar, store: SqliteStore
) -> None:
    async with listening(queues, store, lambda: None) as runner:
        asking = asyncio.create_task(runner.settle(JOB))
        await asyncio.to_thread(until, lambda: queues.depth(Queue.SETUP) == 1, 10, str)
        (errand,) = await store.doomed(2)
        assert chores.is_passing(errand)
        with pytest.raises(RunnerUnreachable):
            await asking
        assert not await store.doomed(1)


async def test_what_is_kept_of_a_dead_process_s_errand_is_removed_by_the_next(
    queues: AmqpPulsar, store: SqliteStore
) -> None:
    errand = chores.new_chore()
    await store.keep_news(errand, hearsay.encode(hearsay.Heard()), 1, doomed=True)
    async with listening(queues, store, lambda: None, sweep_s=0.1):
        await asyncio.to_thread(until, lambda: queues.depth(Queue.SETUP) == 1, 10, str)
        assert f"remove {errand}" in command_of_next(queues)
