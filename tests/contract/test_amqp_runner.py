"""What AMQP does to a JobRunner, and Pulsar's traps there: a real Pulsar and a real RabbitMQ.

What holds over both transports is in `test_job_runner`.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tesp_api.domain.errors import OutOfReach, RunnerUnreachable
from tesp_api.domain.report import Verdict, unframe
from tesp_api.domain.task import JobId
from tesp_api.ports import Phase
from tesp_api.pulsar import hearsay, messages, wire
from tesp_api.pulsar.amqp_runner import AmqpRunner
from tesp_api.pulsar.messages import Queue, queue_name
from tesp_api.pulsar.tls import client_context
from tesp_api.store.mongo import MongoStore
from tesp_api.store.sqlite import SqliteStore
from tests.amqp_pulsars import AmqpPulsar
from tests.brokers import Broker
from tests.contract.test_job_runner import (
    OVER,
    counted,
    ended,
    eventually,
    gone,
    journal_of,
    new_job,
    order,
    restart,
    seen,
    watched,
)
from tests.e2e.web import Web, serving
from tests.needs import need
from tests.pulsars import processes_of

SOON: Final = {"silent_s": 0.5, "sweep_s": 1.0}
"""Patience of runners whose tests are about silence."""


@pytest.fixture(scope="module")
def pulsar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AmqpPulsar]:
    need("rabbitmq")
    with running(tmp_path_factory.mktemp("pulsar"), os.environ["TESP_TEST_AMQP_URL"]) as live:
        yield live


@pytest.fixture(scope="module")
def shared_mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AmqpPulsar]:
    need("rabbitmq")
    with running(tmp_path_factory.mktemp("mortal"), os.environ["TESP_TEST_AMQP_URL"]) as live:
        yield live


@pytest.fixture
def mortal(shared_mortal: AmqpPulsar) -> Iterator[AmqpPulsar]:
    """A Pulsar to be killed: a test may leave it dead."""
    yield shared_mortal
    if not shared_mortal.is_up():
        restart(shared_mortal)


@contextmanager
def running(directory: Path, url: str, **options: Any) -> Iterator[AmqpPulsar]:
    need("pulsar")
    need("userns")
    live = AmqpPulsar(directory, url, **options)
    live.begin()
    try:
        live.wait_until_up()
        yield live
    finally:
        live.stop()


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "news.db")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def runner(pulsar: AmqpPulsar, store: SqliteStore) -> AsyncIterator[AmqpRunner]:
    async with listening(pulsar.runner(store)) as runner:
        yield runner


@asynccontextmanager
async def listening(
    runner: AmqpRunner, told: Callable[[JobId], None] = lambda _: None
) -> AsyncIterator[AmqpRunner]:
    runner.listen(told)
    try:
        yield runner
    finally:
        await runner.close()


async def holds(claim: Callable[[], bool]) -> None:
    """Wait until it is so."""

    async def held() -> bool | None:
        return claim() or None

    await eventually(held)


async def unreachable(call: Callable[[], Awaitable[Any]]) -> str:
    with pytest.raises(RunnerUnreachable) as caught:
        await call()
    return str(caught.value)


def status(job: JobId, word: str) -> dict[str, Any]:
    """Return an update as Pulsar sends it."""
    return {"job_id": job, "status": word, "complete": "false"}


def end(job: JobId, word: str = "complete") -> dict[str, Any]:
    return {**status(job, word), "complete": "true", "returncode": 0}


# --- news ---


async def test_the_end_of_a_job_is_told_without_a_look(
    pulsar: AmqpPulsar, store: SqliteStore
) -> None:
    job, told = new_job(), asyncio.Event()
    async with listening(pulsar.runner(store), lambda one: one == job and told.set()) as runner:
        await runner.start(job, order(job, "true"))
        await asyncio.wait_for(told.wait(), 30)
        assert (await ended(runner, job)).outcome is Verdict.COMPLETE


async def test_an_update_that_comes_twice_or_late_changes_nothing(
    runner: AmqpRunner, pulsar: AmqpPulsar
) -> None:
    job = new_job()
    await runner.start(job, order(job, "true"))
    before = await seen(runner, job, Phase.ENDED)

    for late in (end(job), status(job, "running"), end(job, "lost"), status(job, "queued")):
        pulsar.tell(Queue.UPDATE, late)
        pulsar.tell(Queue.UPDATE, late)
    await holds(lambda: pulsar.depth(Queue.UPDATE) == 0)
    marker = new_job()
    await runner.start(marker, order(marker, "true"))
    await ended(runner, marker)

    assert await runner.look(job) == before


POISON: Final = [
    (b"", {}),
    (b"no json", {"content_type": "application/json"}),
    (b"[1]", {"content_type": "application/json"}),
    (b"\xff\xfe", {"content_type": "text/plain"}),
    (b"[" * 100_000, {"content_type": "application/json"}),
    (b"\x80\x04N.", {"content_type": "application/x-python-serialize"}),
    (json.dumps({"job_id": "../../etc", "status": "complete"}).encode(), {}),
    (json.dumps({"job_id": 7, "status": "complete"}).encode(), {}),
    (json.dumps({"job_id": "tes-of-another-server-0", "status": "complete"}).encode(), {}),
    (json.dumps({"job_id": "tes-a-0"}).encode(), {}),
]


async def test_messages_of_others_are_dropped_and_stop_nothing(
    runner: AmqpRunner, pulsar: AmqpPulsar, store: SqliteStore
) -> None:
    for body, properties in POISON:
        pulsar.publish(Queue.UPDATE, body, **properties)
    job = new_job()

    await runner.start(job, order(job, "true"))

    assert (await ended(runner, job)).outcome is Verdict.COMPLETE
    await holds(lambda: pulsar.depth(Queue.UPDATE) == 0)
    assert await store.news(JobId("tes-of-another-server-0")) is None


async def test_a_job_of_one_process_may_be_heard_of_by_another(
    pulsar: AmqpPulsar, store: SqliteStore
) -> None:
    """All take from one queue: whoever gets a message keeps it for all."""
    async with (
        listening(pulsar.runner(store)) as one,
        listening(pulsar.runner(store)) as two,
    ):
        jobs = [new_job() for _ in range(6)]
        await asyncio.gather(*(one.start(job, order(job, "true")) for job in jobs))
        for job in jobs:
            assert (await ended(one, job)).outcome is Verdict.COMPLETE
            assert (await ended(two, job)).outcome is Verdict.COMPLETE
        assert (await two.settle(jobs[0])).report is not None
        assert await two.ping() == "0.16.0"


async def test_two_processes_that_share_a_database_hear_for_each_other(
    pulsar: AmqpPulsar, mongodb: str
) -> None:
    stores = MongoStore(mongodb), MongoStore(mongodb)
    for store in stores:
        await store.open()
    jobs = [new_job() for _ in range(6)]
    async with (
        listening(pulsar.runner(stores[0])) as one,
        listening(pulsar.runner(stores[1])) as two,
    ):
        await asyncio.gather(*(one.start(job, order(job, "true")) for job in jobs))
        for job in jobs:
            assert (await ended(two, job)).outcome is Verdict.COMPLETE
            await one.forget(job)
        await gone(pulsar, *jobs)
    for store in stores:
        await store.close()


async def test_what_is_heard_outlives_the_process_that_heard_it(
    pulsar: AmqpPulsar, store: SqliteStore
) -> None:
    job = new_job()
    async with listening(pulsar.runner(store)) as first:
        await first.start(job, order(job, "true"))
        await ended(first, job)
    async with listening(pulsar.runner(store)) as second:
        assert (await second.look(job)).phase is Phase.ENDED


async def test_what_comes_while_nobody_listens_is_heard_later(
    pulsar: AmqpPulsar, store: SqliteStore
) -> None:
    job = new_job()
    async with listening(pulsar.runner(store)) as first:
        await first.start(job, order(job, "sleep", "1"))
    await holds(lambda: pulsar.depth(Queue.UPDATE) == 1 or None)
    async with listening(pulsar.runner(store)) as second:
        assert (await ended(second, job)).outcome is Verdict.COMPLETE


# --- kill ---


async def test_a_late_copy_of_the_job_behind_its_kill_runs_nothing(
    runner: AmqpRunner, pulsar: AmqpPulsar, web: Web
) -> None:
    job = new_job()
    await runner.kill(job)

    parcel = {"late.pyz": wire.Parcels(small=True).pack(counted(web, job, "true"))}
    pulsar.tell(Queue.SETUP, messages.setup(job, messages.command("late.pyz"), parcel))

    await seen(runner, job, *OVER)
    assert (await runner.settle(job)).watch is None
    assert web.count("GET", f"/{job}") == 0


async def test_a_kill_that_pulsar_reads_before_the_job_is_repeated(
    runner: AmqpRunner, pulsar: AmqpPulsar, store: SqliteStore
) -> None:
    """Pulsar forgets such a kill, and the job runs."""
    late = new_job()
    await store.keep_news(late, hearsay.encode(hearsay.killed(None)), 1)

    parcel = {"late.pyz": wire.Parcels(small=True).pack(order(late, "sleep", "300"))}
    pulsar.tell(Queue.SETUP, messages.setup(late, messages.command("late.pyz"), parcel))

    await seen(runner, late, Phase.KILLED)
    await holds(lambda: processes_of(late) == [])


async def test_a_job_killed_while_pulsar_is_away_does_not_outlive_its_return(
    mortal: AmqpPulsar, store: SqliteStore, web: Web
) -> None:
    job = new_job()
    async with listening(mortal.runner(store, timeout_s=1)) as impatient:
        mortal.kill()
        await impatient.start(job, counted(web, job, "sleep", "300"))
        assert "did not answer within 1 s" in await unreachable(lambda: impatient.kill(job))
    await asyncio.to_thread(restart, mortal)
    async with listening(mortal.runner(store)) as runner:
        await runner.kill(job)
        await seen(runner, job, *OVER)
        await holds(lambda: processes_of(job) == [])
        assert web.count("PUT", f"/{job}") == 0


async def test_two_copies_of_a_job_that_wait_in_a_row_are_one_run(
    mortal: AmqpPulsar, store: SqliteStore, web: Web
) -> None:
    """As after a broken connection: it was unknown whether the first had arrived."""
    job = new_job()
    async with listening(mortal.runner(store)) as runner:
        mortal.kill()
        await runner.start(job, counted(web, job, "true"))
        for name in ("b.pyz", "c.pyz"):
            parcel = {name: wire.Parcels(small=True).pack(counted(web, job, "true"))}
            mortal.tell(Queue.SETUP, messages.setup(job, messages.command(name), parcel))
        await asyncio.to_thread(restart, mortal)

        assert (await ended(runner, job)).outcome is Verdict.COMPLETE
        await runner.settle(job)
    assert (web.count("GET", f"/{job}"), web.count("PUT", f"/{job}")) == (1, 1)


# --- lost ---


async def test_a_running_job_that_a_restarted_pulsar_calls_lost_still_runs(
    mortal: AmqpPulsar, store: SqliteStore
) -> None:
    job = new_job()
    async with listening(mortal.runner(store)) as runner:
        await runner.start(job, order(job, "sleep", "8"))
        await eventually(lambda: journal_of(runner, job))
        mortal.kill()
        await asyncio.to_thread(restart, mortal)
        await runner.settle(job)  # whatever Pulsar says at its start has come
        assert (await runner.look(job)).phase is Phase.RUNNING

        async def reported() -> Any:
            return unframe((await runner.settle(job)).report or "", job)

        assert (await eventually(reported)).outcome is Verdict.COMPLETE


async def test_a_job_that_waits_in_the_queue_is_not_lost_whatever_pulsar_answers(
    mortal: AmqpPulsar, store: SqliteStore
) -> None:
    job = new_job()
    async with listening(mortal.runner(store, **SOON)) as runner:
        await runner.start(job, order(job, "true"))
        for _ in range(3):
            mortal.tell(Queue.UPDATE, end(job, "lost"))
        phases = {(await runner.look(job)).phase for _ in range(50)}
        assert Phase.UNKNOWN not in phases
        assert (await ended(runner, job)).outcome is Verdict.COMPLETE


async def test_a_job_whose_message_was_purged_is_found_missing(
    mortal: AmqpPulsar, store: SqliteStore
) -> None:
    """An operator's cure for a message that has ended Pulsar's consumer."""
    job = new_job()
    async with listening(mortal.runner(store, **SOON)) as runner:
        mortal.kill()
        await runner.start(job, order(job, "true"))
        with mortal.channel() as channel:
            channel.queue_purge(queue_name(mortal.managers[0], Queue.SETUP))
        assert (await runner.look(job)).phase is Phase.WAITING
        await asyncio.to_thread(restart, mortal)

        await seen(runner, job, Phase.UNKNOWN)


async def test_a_job_whose_directory_vanished_is_unknown(
    mortal: AmqpPulsar, store: SqliteStore
) -> None:
    job = new_job()
    async with listening(mortal.runner(store, **SOON)) as runner:
        await runner.start(job, order(job, "sleep", "300"))
        await watched(runner, job, "watching")
        await runner.kill(job)
        await seen(runner, job, Phase.KILLED)
        await runner.forget(job)
        await gone(mortal, job)
        assert (await runner.look(job)).phase is Phase.UNKNOWN


async def test_a_pulsar_that_answers_nothing_is_told(
    mortal: AmqpPulsar, store: SqliteStore
) -> None:
    job = new_job()
    async with listening(mortal.runner(store, timeout_s=1, **SOON)) as runner:
        mortal.kill()
        await runner.start(job, order(job, "true"))

        told = await eventually(lambda: complaint_of(runner, job))
        assert re.search(r"The Pulsar behind amqp://\S+ \(manager \w+\) has answered nothing", told)
        assert "tesp:tesp" not in told

        await asyncio.to_thread(restart, mortal)
        assert (await ended_at_last(runner, job)).outcome is Verdict.COMPLETE


async def test_a_message_that_stops_pulsar_is_told_and_after_the_cure_the_job_is_missing(
    mortal: AmqpPulsar, store: SqliteStore
) -> None:
    """Pulsar 0.16.0 reads no more set-ups after one that it cannot decode, nor after a restart."""
    job = new_job()
    mortal.publish(Queue.SETUP, b"no json", content_type="application/json")
    async with listening(mortal.runner(store, timeout_s=2, **SOON)) as runner:
        await runner.start(job, order(job, "true"))

        told = await eventually(lambda: complaint_of(runner, job))
        assert "answers, but has taken no job for" in told
        assert "purge its queue of set-ups" in told

        mortal.kill()
        with mortal.channel() as channel:
            channel.queue_purge(queue_name(mortal.managers[0], Queue.SETUP))
        await asyncio.to_thread(restart, mortal)
        await eventually(lambda: is_missing(runner, job))


async def complaint_of(runner: AmqpRunner, job: JobId) -> str | None:
    try:
        await runner.look(job)
    except RunnerUnreachable as error:
        return str(error)
    return None


async def is_missing(runner: AmqpRunner, job: JobId) -> bool | None:
    try:
        return (await runner.look(job)).phase is Phase.UNKNOWN or None
    except RunnerUnreachable:
        return None


async def ended_at_last(runner: AmqpRunner, job: JobId) -> Any:
    async def report() -> Any:
        try:
            return unframe((await runner.look(job)).output, job)
        except RunnerUnreachable:
            return None

    return await eventually(report)


# --- what is left ---


async def test_nothing_is_left_at_pulsar_nor_in_the_store(
    secured: AmqpPulsar, store: SqliteStore
) -> None:
    jobs = [new_job() for _ in range(12)]
    async with listening(secured.runner(store)) as runner:
        await asyncio.gather(*(runner.start(job, order(job, "true")) for job in jobs))
        for job in jobs:
            await ended(runner, job)
            await runner.settle(job)
        await asyncio.gather(*map(runner.forget, jobs))
        await gone(secured, *jobs)
        await holds(lambda: list(secured.staging.iterdir()) == [])
        assert [await store.news(job) for job in jobs] == [None] * len(jobs)
    persisted = secured.staging.parent / "persisted_data"
    assert [path for path in persisted.rglob("*") if path.is_file()] == []
    errands = secured.log.read_text(errors="replace").count("chore.py remove")
    assert errands < len(jobs) / 2, "they are removed together"


async def test_what_a_process_wanted_gone_is_removed_by_the_next(
    mortal: AmqpPulsar, store: SqliteStore
) -> None:
    job = new_job()
    async with listening(mortal.runner(store)) as runner:
        await runner.start(job, order(job, "true"))
        await ended(runner, job)
    kept = await store.news(job)
    assert kept is not None
    doomed = hearsay.encode(hearsay.doomed(None))
    await store.keep_news(job, doomed, kept.revision + 1, doomed=True)
    async with listening(mortal.runner(store, **SOON)):
        await gone(mortal, job)
        await eventually(lambda: nothing_of(store, job))


async def nothing_of(store: SqliteStore, job: JobId) -> bool | None:
    return await store.news(job) is None or None


async def test_what_a_task_made_unwritable_is_removed_too(
    runner: AmqpRunner, pulsar: AmqpPulsar
) -> None:
    job = new_job()
    await runner.start(job, order(job, "true"))
    await ended(runner, job)
    sealed = pulsar.staging / job / "working" / "sealed"
    (sealed / "deep").mkdir(parents=True)
    for path in (sealed / "deep", sealed):
        path.chmod(0)

    await runner.forget(job)

    await gone(pulsar, job)


async def test_the_order_does_not_stay_on_the_node(runner: AmqpRunner, pulsar: AmqpPulsar) -> None:
    job = new_job()
    await runner.start(job, order(job, "sleep", "60"))
    await watched(runner, job, "watching")

    large = [
        path
        for path in (pulsar.staging / job).rglob("*")
        if path.is_file() and b"UEsDB" in path.read_bytes()
    ]

    assert large == [], "base64 of a zip file begins so"
    assert not (pulsar.staging / job / "command.sh").exists()
    await runner.kill(job)


# --- much at once ---


async def test_an_order_and_a_report_of_10000_outputs_go_through(
    runner: AmqpRunner, web: Web
) -> None:
    job = new_job()
    outputs = [{"path": f"/out/{number}", "url": f"{web.url}/none"} for number in range(10_000)]

    await runner.start(job, order(job, "false", outputs=outputs))

    report = await ended(runner, job)
    assert report.outcome is Verdict.EXECUTOR_ERROR


async def test_a_report_as_long_as_it_may_be_comes_whole(runner: AmqpRunner) -> None:
    job = new_job()
    line = "head -c 900000 /dev/urandom | base64 -w 0"

    await runner.start(job, order(job, "sh", "-c", line, tail_bytes=2**20))

    sighting = await seen(runner, job, Phase.ENDED)
    report = unframe(sighting.output, job)
    assert report is not None
    assert len(sighting.output) <= 700 * 1024
    assert unframe((await runner.settle(job)).report or "", job) == report


# --- the broker ---


@pytest.fixture(scope="module")
def node() -> Iterator[Broker]:
    """A broker of the module's own, with TLS, which takes messages of at most 1 MB."""
    broker = Broker("max_message_size = 1000000", tls=True)
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@pytest.fixture(scope="module")
def secured(node: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AmqpPulsar]:
    """A Pulsar with the default manager, which talks to that broker by TLS."""
    app = {
        "amqp_connect_ssl_ca_certs": f"{node.tls}/ca.pem",
        "amqp_connect_ssl_certfile": f"{node.tls}/client.pem",
        "amqp_connect_ssl_keyfile": f"{node.tls}/client.key",
        "amqp_connect_ssl_cert_reqs": "cert_required",
        "message_queue_url": node.tls_url(),
    }
    directory = tmp_path_factory.mktemp("secured")
    with running(directory, node.url(), managers=["_default_"], **app) as live:
        yield live


async def test_a_broker_that_is_restarted_in_mid_flight_loses_nothing(
    node: Broker, secured: AmqpPulsar, store: SqliteStore, web: Web
) -> None:
    jobs = [new_job() for _ in range(4)]
    async with listening(secured.runner(store, timeout_s=5)) as runner:
        for job in jobs[:2]:
            await runner.start(job, counted(web, job, "sleep", "3"))
            await seen(runner, job, Phase.RUNNING)
        await asyncio.to_thread(node.stop)
        told = await unreachable(lambda: runner.start(jobs[2], counted(web, jobs[2], "true")))
        assert told.startswith(f"amqp://127.0.0.1:{node.port}// ")
        await asyncio.to_thread(node.start)

        for job in jobs[2:]:
            await eventually(lambda job=job: started(runner, job, counted(web, job, "true")))
        for job in jobs:
            report = await asyncio.wait_for(ended(runner, job), 60)
            assert report.outcome is Verdict.COMPLETE
    assert [web.count("PUT", f"/{job}") for job in jobs] == [1] * len(jobs)


async def started(runner: AmqpRunner, job: JobId, wanted: dict[str, Any]) -> bool | None:
    try:
        await runner.start(job, wanted)
    except RunnerUnreachable:
        return None
    return True


async def test_a_broker_that_is_not_there_is_unreachable_at_once(store: SqliteStore) -> None:
    runner = AmqpRunner("amqp://me:secret@127.0.0.1:9/", store, timeout_s=5)
    async with listening(runner):
        told = await unreachable(runner.ping)
    assert told.startswith("amqp://127.0.0.1:9// cannot be reached: ")
    assert "secret" not in told


async def test_the_default_manager_has_two_underscores(
    secured: AmqpPulsar, node: Broker, store: SqliteStore
) -> None:
    job = new_job()
    async with listening(AmqpRunner(node.url(), store)) as runner:
        await runner.start(job, order(job, "true"))
        assert (await ended(runner, job)).outcome is Verdict.COMPLETE
        await runner.forget(job)
        await gone(secured, job)


async def test_another_virtual_host_and_user_work_and_others_are_refused_in_clear_words(
    node: Broker, tmp_path: Path, store: SqliteStore
) -> None:
    node.ctl("add_vhost", "a b/c")
    node.ctl("add_user", "pulsar user", "p@ss/word")
    node.ctl("set_permissions", "-p", "a b/c", "pulsar user", "^pulsar.*", "^pulsar.*", "^pulsar.*")
    url = node.url("pulsar%20user", "p%40ss%2Fword", "a%20b%2Fc")
    with running(tmp_path / "pulsar", url) as live:
        async with listening(live.runner(store)) as runner:
            assert await runner.ping() == "0.16.0"
            assert runner.name == f"amqp://127.0.0.1:{node.port}/a b/c"
    for bad, why in (
        (node.url("pulsar%20user", "wrong"), "refuses our user or password: check pulsar.amqp_url"),
        (node.url(vhost="nowhere"), "does not let us in: check pulsar.amqp_url"),
        (node.url("pulsar%20user", "p%40ss%2Fword"), "does not let us in: check pulsar.amqp_url"),
    ):
        async with listening(AmqpRunner(bad, store, timeout_s=5)) as runner:
            told = await unreachable(runner.ping)
        assert why in told
        assert not re.search("wrong|p@ss|p%40ss", told)


@pytest.mark.parametrize("wrong", ["queue", "exchange"])
async def test_a_queue_or_exchange_declared_otherwise_is_told_in_clear_words(
    node: Broker, tmp_path: Path, store: SqliteStore, wrong: str
) -> None:
    node.ctl("add_vhost", wrong)
    node.ctl("set_permissions", "-p", wrong, "guest", ".*", ".*", ".*")
    live = AmqpPulsar(tmp_path, node.url(vhost=wrong), managers=["m"])
    with live.channel() as channel:
        if wrong == "queue":
            channel.queue_declare(queue_name("m", Queue.KILL), durable=False, auto_delete=False)
        else:
            channel.exchange_declare("pulsar", "topic", durable=True, auto_delete=False)
        async with listening(live.runner(store, timeout_s=5)) as runner:
            told = await unreachable(runner.ping)
    assert "was not declared as Pulsar does it (durable, no arguments): delete it there" in told
    assert "PRECONDITION_FAILED" in told


async def test_queues_that_are_deleted_come_back(mortal: AmqpPulsar, store: SqliteStore) -> None:
    job = new_job()
    async with listening(mortal.runner(store)) as runner:
        await runner.ping()
        with mortal.channel() as channel:
            channel.queue_delete(queue_name(mortal.managers[0], Queue.STATUS))
        told = await unreachable(runner.ping)
        assert f"had no queue {queue_name(mortal.managers[0], Queue.STATUS)}." in told
        with mortal.channel() as channel:
            channel.queue_delete(queue_name(mortal.managers[0], Queue.UPDATE))

        await eventually(lambda: started(runner, job, order(job, "true")))
        assert (await ended(runner, job)).outcome is Verdict.COMPLETE


async def test_a_job_larger_than_the_broker_takes_is_out_of_reach_and_others_go_on(
    secured: AmqpPulsar, store: SqliteStore
) -> None:
    noise = os.urandom(1_000_000).hex()
    job, next_one = new_job(), new_job()
    large = order(job, "true", inputs=[{"path": "/in/a", "content": noise}])
    async with listening(secured.runner(store)) as runner:
        with pytest.raises(OutOfReach, match=r"a message of \d\.\d MiB, more than the broker"):
            await runner.start(job, large)
        await eventually(lambda: started(runner, next_one, order(next_one, "true")))
        assert (await ended(runner, next_one)).outcome is Verdict.COMPLETE


async def test_tls_with_a_client_certificate_works_and_without_is_refused(
    secured: AmqpPulsar, node: Broker, store: SqliteStore
) -> None:
    job, tls, url = new_job(), node.tls, node.tls_url()
    shown = client_context(
        ca_file=tls / "ca.pem", cert_file=tls / "client.pem", key_file=tls / "client.key"
    )
    async with listening(AmqpRunner(url, store, tls=shown)) as runner:
        assert runner.name == f"amqps://127.0.0.1:{node.tls_port}//"
        await runner.start(job, order(job, "true"))
        assert (await ended(runner, job)).outcome is Verdict.COMPLETE
    for bad in (client_context(), client_context(ca_file=tls / "ca.pem")):
        stranger = AmqpRunner(url, store, tls=bad, timeout_s=5)
        async with listening(stranger):
            told = await unreachable(stranger.ping)
        assert told.startswith(f"amqps://127.0.0.1:{node.tls_port}// ")
