"""What the core may rely on in any JobRunner, and what Pulsar would break it by: the real Pulsar.

The tests ask for `runner` or `pulsar` and run over both transports. Those about REST alone (its
errors, its time-outs) stand at the end, against servers that misbehave; those about AMQP alone are
in `test_amqp_runner`.
"""

import asyncio
import contextlib
import itertools
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest

from tesp_api.domain.errors import LeaseLapsed, RunnerUnreachable
from tesp_api.domain.report import Report, Verdict, unframe
from tesp_api.domain.task import JobId
from tesp_api.ports import OVER, JobRunner, Phase, Sighting, Traces
from tesp_api.pulsar import rest, wire
from tesp_api.store.sqlite import SqliteStore
from tests.amqp_pulsars import AmqpPulsar
from tests.e2e.web import Web, serving
from tests.needs import need
from tests.pulsars import SECOND_MANAGER, LivePulsar, processes_of

CANARY: Final = "canary-7f3a9c1e"
Order = dict[str, Any]
Found = TypeVar("Found")


@pytest.fixture(scope="module", params=["rest", "amqp"])
def pulsar(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LivePulsar]:
    with running(request.param, tmp_path_factory.mktemp("pulsar")) as live:
        yield live


@contextmanager
def running(transport: str, directory: Path) -> Iterator[LivePulsar]:
    """Give a Pulsar that is reached in one way or the other."""
    need("pulsar")
    need("userns")
    if transport == "amqp":
        need("rabbitmq")
        live: LivePulsar = AmqpPulsar(directory, os.environ["TESP_TEST_AMQP_URL"])
    else:
        live = LivePulsar(directory)
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
async def runner(pulsar: LivePulsar, tmp_path: Path) -> AsyncIterator[JobRunner]:
    async with connected(pulsar, tmp_path) as runner:
        yield runner


@asynccontextmanager
async def connected(
    pulsar: LivePulsar, directory: Path, **options: Any
) -> AsyncIterator[JobRunner]:
    """Give the adapter for this Pulsar; what is heard is kept in a store in `directory`."""
    store = SqliteStore(directory / "news.db")
    await store.open()
    runner = pulsar.runner(store, **options)
    runner.listen(lambda _: None)
    try:
        yield runner
    finally:
        await runner.close()
        await store.close()


rest_alone = pytest.mark.parametrize("pulsar", ["rest"], indirect=True)


_numbers = iter(range(1_000_000))


def new_job() -> JobId:
    return JobId(f"tes-contract{next(_numbers)}-0")


def order(job: JobId, *command: str, **more: Any) -> Order:
    """Return what the server would order for one executor on engine `host`."""
    executor = {"image": "none", "command": list(command), **more.pop("executor", {})}
    return {
        "version": 1,
        "task": job.split("-")[1],
        "job": job,
        "instance": "test",
        "engine": {"kind": "host", "program": "host"},
        "executors": [executor],
        **more,
    }


def counted(web: Web, job: JobId, *command: str) -> Order:
    """Return an order that leaves one GET in the ledger when it begins, one PUT when it ends."""
    url = web.offer(f"/{job}", b"")
    return order(
        job,
        *command,
        inputs=[{"path": "/in/mark", "url": url}],
        outputs=[{"path": "/in/mark", "url": url}],
    )


async def eventually(find: Callable[[], Awaitable[Found | None]], patience_s: float = 30) -> Found:
    """Call `find` until it finds something."""
    async with asyncio.timeout(patience_s):
        while (found := await find()) is None:  # noqa: ASYNC110 - Pulsar has no event for it
            await asyncio.sleep(0.05)
    return found


async def seen(runner: JobRunner, job: JobId, *phases: Phase, patience_s: float = 30) -> Sighting:
    """Look until the job is in one of `phases`."""

    async def found() -> Sighting | None:
        sighting = await runner.look(job)
        return sighting if sighting.phase in phases else None

    return await eventually(found, patience_s)


async def ended(runner: JobRunner, job: JobId) -> Report:
    """Return the report of a job that is expected to end by itself."""
    sighting = await seen(runner, job, *OVER)
    report = unframe(sighting.output, job)
    assert report is not None, sighting
    return report


# --- start and look ---


async def test_a_started_job_ends_with_its_report_on_standard_output(runner: JobRunner) -> None:
    job = new_job()

    await runner.start(job, order(job, "echo", "done"))

    report = await ended(runner, job)
    assert report.outcome is Verdict.COMPLETE
    assert [log.stdout for log in report.executors] == ["done\n"]


async def test_a_job_is_seen_running_while_it_runs(runner: JobRunner) -> None:
    job = new_job()

    await runner.start(job, order(job, "sleep", "60"))

    assert (await seen(runner, job, Phase.RUNNING)).output == ""
    await runner.kill(job)


async def test_a_job_that_was_never_started_is_unknown(runner: JobRunner) -> None:
    assert (await runner.look(new_job())).phase is Phase.UNKNOWN


async def test_what_ran_or_never_was_is_not_waiting_to_begin(runner: JobRunner) -> None:
    job = new_job()
    assert not await runner.has_unbegun(new_job())

    await runner.start(job, order(job, "true"), again=False)
    await ended(runner, job)

    assert not await runner.has_unbegun(job)


@rest_alone
@pytest.mark.parametrize("again", [False, True])
async def test_what_was_sent_and_not_submitted_waits_to_begin(
    again: bool, pulsar: LivePulsar, tmp_path: Path
) -> None:
    job, calls = new_job(), itertools.count()

    def cut_off_before_the_submit() -> None:
        if next(calls) == (2 if again else 1):
            raise LeaseLapsed("too late")

    async with connected(pulsar, tmp_path, permit=cut_off_before_the_submit) as runner:
        with pytest.raises(LeaseLapsed):
            await runner.start(job, order(job, "true"), again=again)
        assert (await runner.look(job)).phase is Phase.SET_UP
        assert await runner.has_unbegun(job)

        await runner.start(job, order(job, "true"))
        await ended(runner, job)


async def test_a_start_that_is_repeated_is_one_run(runner: JobRunner, web: Web) -> None:
    job = new_job()
    wanted = counted(web, job, "true")

    for _ in range(3):
        await runner.start(job, wanted)
    await ended(runner, job)
    await runner.start(job, wanted)
    await seen(runner, job, Phase.ENDED)

    assert (web.count("GET", f"/{job}"), web.count("PUT", f"/{job}")) == (1, 1)


async def test_bytes_that_are_not_utf8_on_any_stream_do_not_break_the_status(
    runner: JobRunner,
) -> None:
    job = new_job()

    await runner.start(job, order(job, "sh", "-c", r"printf '\377\376'; printf '\377' >&2"))

    report = await ended(runner, job)
    assert report.outcome is Verdict.COMPLETE
    assert [(log.stdout, log.stderr) for log in report.executors] == [("��", "�")]


async def test_a_runner_that_cannot_even_begin_ends_with_its_words_and_no_report(
    runner: JobRunner,
) -> None:
    job = new_job()

    await runner.start(job, {"engine": "\udcff no order"})

    sighting = await seen(runner, job, *OVER)
    report = unframe(sighting.output, job)
    assert report is None
    assert "the order cannot be carried out" in str(unframe(sighting.output, "None"))


async def test_an_order_of_4_mib_goes_through(runner: JobRunner) -> None:
    job = new_job()
    content = "0123456789abcde\n" * (4 * 2**20 // 16)
    inputs = [{"path": "/in/big", "content": content}]

    await runner.start(job, order(job, "wc", "-c", "/in/big", inputs=inputs))

    report = await ended(runner, job)
    assert [log.stdout for log in report.executors] == [f"{4 * 2**20} /in/big\n"]


# --- kill ---


async def test_a_killed_job_is_over_and_its_program_dead(runner: JobRunner, web: Web) -> None:
    job = new_job()
    await runner.start(job, counted(web, job, "sleep", "300"))
    await watched(runner, job, "watching")

    await runner.kill(job)

    await seen(runner, job, *OVER)
    await watched(runner, job, "reaped")
    assert processes_of(job) == []
    assert web.count("PUT", f"/{job}") == 0


async def watched(runner: JobRunner, job: JobId, word: str) -> None:
    """Wait until the runner's watchdog says `word`."""

    async def said() -> bool | None:
        return ((await runner.settle(job)).watch or "").strip() == word or None

    await eventually(said)


async def test_a_start_after_a_kill_has_no_effect(runner: JobRunner, web: Web) -> None:
    """A late copy of a submit must find the id occupied: Pulsar does not remember cancels."""
    job = new_job()
    await runner.kill(job)

    await runner.start(job, counted(web, job, "true"))

    await seen(runner, job, *OVER)
    await asyncio.sleep(1)
    assert web.count("GET", f"/{job}") == 0
    assert (await runner.settle(job)).watch is None


async def test_a_kill_of_an_unknown_job_is_no_error_and_may_be_repeated(runner: JobRunner) -> None:
    job = new_job()

    await runner.kill(job)
    await runner.kill(job)

    await seen(runner, job, Phase.KILLED, Phase.ENDED)


async def test_a_kill_of_an_ended_job_leaves_its_report(runner: JobRunner) -> None:
    job = new_job()
    await runner.start(job, order(job, "echo", "before"))
    await ended(runner, job)

    await runner.kill(job)

    traces = await runner.settle(job)
    report = unframe(traces.report or "", job)
    assert report is not None
    assert report.executors[0].stdout == "before\n"


# --- settle and forget ---


async def test_settle_reads_report_heartbeat_journal_and_watch_also_while_it_runs(
    runner: JobRunner,
) -> None:
    job = new_job()
    await runner.start(job, order(job, "sleep", "2"))
    await watched(runner, job, "watching")

    async def begun() -> Traces | None:
        traces = await runner.settle(job)
        return traces if "executor_start" in (traces.journal or "") else None

    traces = await eventually(begun)
    assert traces.heartbeat is not None
    assert traces.report is None

    await ended(runner, job)
    assert unframe((await runner.settle(job)).report or "", job) is not None


async def test_settle_of_an_unknown_job_finds_nothing(runner: JobRunner) -> None:
    traces = await runner.settle(new_job())

    assert (traces.report, traces.heartbeat, traces.journal, traces.watch) == (None,) * 4


async def test_forget_removes_the_directory_and_may_be_repeated(
    runner: JobRunner, pulsar: LivePulsar
) -> None:
    job = new_job()
    await runner.start(job, order(job, "true"))
    await ended(runner, job)
    assert pulsar.directories(job)

    await runner.forget(job)
    await runner.forget(job)

    assert (await runner.look(job)).phase is Phase.UNKNOWN
    await gone(pulsar, job)


async def gone(pulsar: LivePulsar, *jobs: JobId) -> None:
    """Wait until nothing is left of these jobs, nor of what removed them."""

    async def nothing() -> bool | None:
        names = [*jobs, "tes-chore-"]
        return not any(pulsar.directories(name) for name in names) or None

    await eventually(nothing)


# --- Pulsar restarted ---


@pytest.fixture(params=["rest", "amqp"])
def mortal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LivePulsar]:
    """A Pulsar of the test's own, to be killed."""
    with running(request.param, tmp_path) as live:
        yield live


async def test_a_kill_after_pulsar_was_restarted_leaves_what_the_job_wrote(
    mortal: LivePulsar, tmp_path: Path
) -> None:
    """There Pulsar takes a second submit of a job that was running for a new one."""
    done, cut = new_job(), new_job()
    async with connected(mortal, tmp_path) as runner:
        await runner.start(done, order(done, "echo", "kept"))
        await runner.start(cut, order(cut, "sleep", "300"))
        await watched(runner, cut, "watching")
        await eventually(lambda: journal_of(runner, cut))
        mortal.kill()
        await asyncio.to_thread(restart, mortal)

        for job in (done, cut):
            await runner.kill(job)
            await seen(runner, job, *OVER)

        assert unframe((await runner.settle(done)).report or "", done) is not None
        await watched(runner, cut, "reaped")
        assert await journal_of(runner, cut) is not None


async def test_an_id_stays_occupied_by_a_kill_when_pulsar_is_restarted(
    mortal: LivePulsar, web: Web, tmp_path: Path
) -> None:
    job = new_job()
    async with connected(mortal, tmp_path) as runner:
        await runner.kill(job)
        await seen(runner, job, *OVER)
        mortal.kill()
        await asyncio.to_thread(restart, mortal)

        await runner.start(job, counted(web, job, "true"))
        await seen(runner, job, *OVER)
        await asyncio.sleep(1)
    assert web.count("GET", f"/{job}") == 0


def restart(live: LivePulsar) -> None:
    live.begin()
    live.wait_until_up()


async def journal_of(runner: JobRunner, job: JobId) -> str | None:
    """Return the journal if an executor has started."""
    journal = (await runner.settle(job)).journal or ""
    return journal if "executor_start" in journal else None


# --- what Pulsar tells others ---


async def test_nothing_of_an_order_is_in_a_command_line_or_in_pulsars_log(
    runner: JobRunner, pulsar: LivePulsar
) -> None:
    job = new_job()
    secret = {"executor": {"env": {"SECRET": CANARY}}}
    inputs = [{"path": "/in/secret", "content": CANARY}]
    command = ("sh", "-c", 'sleep 2; test "$SECRET" = "$(cat /in/secret)"')

    await runner.start(job, order(job, *command, inputs=inputs, **secret))
    await watched(runner, job, "watching")

    lines = [line for pid in pulsar.processes() for line in command_lines(pid)]
    assert any(wire.PARCEL in line for line in lines)
    assert not any(CANARY in line for line in lines)
    assert (await ended(runner, job)).outcome is Verdict.COMPLETE
    assert CANARY not in pulsar.log.read_text(errors="replace")


def command_lines(pid: int) -> list[str]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
        return [file.read()]
    return []


@rest_alone
async def test_the_token_is_in_no_command_line_and_in_pulsars_log_only_where_it_fails(
    runner: JobRunner, pulsar: LivePulsar
) -> None:
    """Pulsar reads it from the URL alone, and its web server logs the URL of what ends by a 500.

    So does a look for a file that is not there, which `settle` cannot avoid. An access log, which
    Pulsar does not write by itself, would have the token of every call.
    """
    job = new_job()
    await runner.start(job, order(job, "sleep", "2"))
    await seen(runner, job, Phase.RUNNING)

    lines = [line for pid in pulsar.processes() for line in command_lines(pid)]

    await runner.kill(job)
    assert not any(pulsar.token in line for line in lines)
    told = [
        line for line in pulsar.log.read_text(errors="replace").splitlines() if pulsar.token in line
    ]
    assert [line for line in told if "Error handling request GET /jobs/" not in line] == []


async def test_the_order_is_gone_from_the_node_as_soon_as_it_was_read(
    runner: JobRunner, pulsar: LivePulsar
) -> None:
    job = new_job()
    await runner.start(job, order(job, "sleep", "2"))

    await watched(runner, job, "watching")

    assert list((pulsar.staging / job / "inputs").iterdir()) == []
    await runner.kill(job)


# --- REST alone ---


@rest_alone
async def test_another_manager_than_the_default_runs_jobs(pulsar: LivePulsar) -> None:
    runner = pulsar.runner(manager=SECOND_MANAGER)
    job = new_job()
    try:
        await runner.start(job, order(job, "true"))
        assert (await ended(runner, job)).outcome is Verdict.COMPLETE
        await runner.forget(job)
        assert pulsar.directories(job) == []
    finally:
        await runner.close()


async def test_ping_tells_pulsars_version(runner: JobRunner) -> None:
    assert await runner.ping() == "0.16.0"


@rest_alone
async def test_a_wrong_token_is_told_without_the_token(pulsar: LivePulsar) -> None:
    runner = pulsar.runner(token="wrong-" + CANARY)
    try:
        with pytest.raises(RunnerUnreachable) as caught:
            await runner.look(new_job())
    finally:
        await runner.close()
    assert str(caught.value) == f"{pulsar.url} refuses our token: check pulsar.private_token."


@rest_alone
async def test_a_manager_that_does_not_exist_is_unreachable(pulsar: LivePulsar) -> None:
    runner = pulsar.runner(manager="nobody")
    try:
        with pytest.raises(RunnerUnreachable, match="answered 500 to GET /managers/nobody/jobs"):
            await runner.look(new_job())
    finally:
        await runner.close()


Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Behaviour = Callable[[Reader, Writer], Awaitable[None]]


async def closes_at_once(_reader: Reader, _writer: Writer) -> None: ...


async def closes_after_the_request(reader: Reader, _writer: Writer) -> None:
    await reader.read(100)


async def answers_500(reader: Reader, writer: Writer) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\nno")


async def answers_nonsense(reader: Reader, writer: Writer) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<p>hi")


async def answers_another_kind_of_json(reader: Reader, writer: Writer) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[[]]")


async def speaks_no_http(reader: Reader, writer: Writer) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"220 smtp.example.org ready\r\n")


async def never_answers(_reader: Reader, _writer: Writer) -> None:
    await asyncio.sleep(3600)


async def answers_a_byte_at_a_time(reader: Reader, writer: Writer) -> None:
    await reader.readuntil(b"\r\n\r\n")
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b" " * 100:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.1)


async def redirects(reader: Reader, writer: Writer) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
    )


@asynccontextmanager
async def listening(behaviour: Behaviour) -> AsyncIterator[str]:
    """Serve `behaviour` on a loopback port; gives the address."""
    at_work: set[asyncio.Task[Any]] = set()

    async def serve(reader: Reader, writer: Writer) -> None:
        at_work.add(task := asyncio.current_task())  # type: ignore[arg-type]
        try:
            await behaviour(reader, writer)
        except (asyncio.CancelledError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            at_work.discard(task)  # type: ignore[arg-type]

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(at_work):
            task.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)
        await server.wait_closed()


@pytest.mark.parametrize(
    "behaviour",
    [
        closes_at_once,
        closes_after_the_request,
        answers_500,
        answers_nonsense,
        answers_another_kind_of_json,
        speaks_no_http,
        never_answers,
        answers_a_byte_at_a_time,
        redirects,
    ],
)
async def test_a_server_that_misbehaves_is_unreachable_within_the_timeout(
    behaviour: Behaviour,
) -> None:
    async with listening(behaviour) as url:
        runner = rest.RestRunner(url, token=CANARY, timeout_s=0.5)
        begun = time.monotonic()
        try:
            with pytest.raises(RunnerUnreachable) as caught:
                await runner.look(new_job())
        finally:
            await runner.close()
    assert time.monotonic() - begun < 2
    assert str(caught.value).startswith(url)
    assert CANARY not in str(caught.value)


@rest_alone
async def test_a_start_whose_answer_was_lost_may_be_repeated(pulsar: LivePulsar, web: Web) -> None:
    lost: list[bytes] = []

    async def loses_the_first_submit(reader: Reader, writer: Writer) -> None:
        """Pass one request on to Pulsar, and its answer back but for that of the first submit."""
        request = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", request)
        request += await reader.readexactly(int(length[1]) if length else 0)
        behind = await asyncio.open_connection("127.0.0.1", pulsar.port)
        behind[1].write(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        answer = await behind[0].read()
        behind[1].close()
        if b"/submit?" in request and not lost:
            lost.append(answer)
        else:
            writer.write(answer)
            await writer.drain()

    job = new_job()
    wanted = counted(web, job, "true")
    async with listening(loses_the_first_submit) as url:
        runner = rest.RestRunner(url, token=pulsar.token, timeout_s=10)
        with pytest.raises(RunnerUnreachable):
            await runner.start(job, wanted)
        await runner.start(job, wanted)
        assert (await ended(runner, job)).outcome is Verdict.COMPLETE
        await runner.close()

    assert lost[0].startswith(b"HTTP/1.1 200 OK")
    assert (web.count("GET", f"/{job}"), web.count("PUT", f"/{job}")) == (1, 1)


@pytest.mark.parametrize("call", ["start", "kill", "settle", "forget", "look", "ping"])
async def test_every_call_to_nobody_is_unreachable(call: str) -> None:
    async with listening(closes_at_once) as url:
        pass  # gone again: nobody listens there
    runner = rest.RestRunner(url, timeout_s=0.5)
    arguments: Mapping[str, tuple[Any, ...]] = {"start": (new_job(), {}), "ping": ()}
    try:
        with pytest.raises(RunnerUnreachable, match="cannot be reached"):
            await getattr(runner, call)(*arguments.get(call, (new_job(),)))
    finally:
        await runner.close()


async def test_a_server_that_answers_again_is_heard_after_any_number_of_time_outs() -> None:
    """Each of the few connections was given up once; none of them may be lost by it."""
    awake = asyncio.Event()

    async def sleeps(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await awake.wait()
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"version": "1.2"}')

    async with listening(sleeps) as url:
        runner = rest.RestRunner(url, timeout_s=0.3)
        calls = (runner.ping() for _ in range(2 * rest.CONNECTIONS))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {RunnerUnreachable}
        awake.set()
        calls = (runner.ping() for _ in range(2 * rest.CONNECTIONS))
        assert set(await asyncio.gather(*calls)) == {"1.2"}
        await runner.close()


@rest_alone
async def test_more_calls_at_once_than_connections_are_all_answered(pulsar: LivePulsar) -> None:
    runner = pulsar.runner()
    try:
        sightings = await asyncio.gather(*(runner.look(new_job()) for _ in range(40)))
    finally:
        await runner.close()
    assert {sighting.phase for sighting in sightings} == {Phase.UNKNOWN}
