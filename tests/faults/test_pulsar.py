"""Pulsar is away, lies, hangs, dies and comes back while tasks of all kinds are under way."""

import os
import shutil
import signal
import time
from collections.abc import Iterator

import pytest

from tests.faults.between import HARMS, Between, between
from tests.faults.ground import QUICK, Ground, ground
from tests.faults.table import Table, whole
from tests.faults.tasks import KINDS
from tests.faults.weather import storm
from tests.pulsars import until

pytestmark = pytest.mark.faults
TIMEOUT_S = float(QUICK["TESP_PULSAR__CLIENT_TIMEOUT"])
SINGLE = tuple(name for name in HARMS if not name.startswith("500"))
WRONG = tuple(name for name in HARMS if name.startswith("500"))


@pytest.fixture
def proxy(place: Ground, seed: int) -> Iterator[Between]:
    with between(place.pulsar.port, patience_s=TIMEOUT_S, seed=seed) as made:
        yield made


def test_requests_that_fail_in_every_way_change_no_task_s_end(
    place: Ground, proxy: Between, table: Table, seed: int
) -> None:
    row = table.row("requests to Pulsar cut, swallowed, answered late or not at all")
    replica = place.replica("requests", TESP_PULSAR__URL=proxy.url)
    proxy.harms, proxy.odds = SINGLE, 0.1

    def wait() -> int:
        before = proxy.done.total()
        time.sleep(0.5)
        return proxy.done.total() - before

    def clear() -> None:
        proxy.harms = ()

    with storm(place, row, seed, replica) as weather:
        most = 400 if whole() else 20
        weather.pass_over("requests", wait, clear, most, sorted(KINDS) * (8 if whole() else 2))
    table.notes += [f"{number} x {harm}" for harm, number in sorted(proxy.done.items())]

    assert not row.bad, row.bad


def test_a_pulsar_that_answers_500_for_seconds_changes_no_task_s_end(
    place: Ground, proxy: Between, table: Table, seed: int
) -> None:
    row = table.row("Pulsar answers 500 to everything for a second or two")
    replica = place.replica("wrong", TESP_PULSAR__URL=proxy.url)

    def clear() -> None:
        proxy.harms = ()

    with storm(place, row, seed, replica) as weather:

        def strike() -> int:
            proxy.harms, proxy.odds = WRONG, 1.0
            time.sleep(weather.rng.uniform(0.3, 2.5))
            clear()
            time.sleep(weather.rng.uniform(0.1, 1.5))
            return 1

        weather.pass_over("wrong", strike, clear, 60 if whole() else 3)

    assert not row.bad, row.bad


def test_a_pulsar_out_of_reach_for_seconds_changes_no_task_s_end(
    place: Ground, proxy: Between, table: Table, seed: int
) -> None:
    row = table.row("Pulsar out of reach for seconds")
    replica = place.replica("away", TESP_PULSAR__URL=proxy.url)

    def clear() -> None:
        proxy.down = False

    with storm(place, row, seed, replica) as weather:

        def strike() -> int:
            proxy.down = True
            time.sleep(weather.rng.uniform(0.3, 4))
            clear()
            time.sleep(weather.rng.uniform(0.1, 1.5))
            return 1

        weather.pass_over("away", strike, clear, 60 if whole() else 3)

    assert not row.bad, row.bad


def test_a_pulsar_that_stands_still_for_seconds_changes_no_task_s_end(
    place: Ground, table: Table, seed: int
) -> None:
    """Then everything that waits in its backlog is done at once."""
    row = table.row("SIGSTOP of Pulsar for longer than a call may last")
    replica = place.replica("still")
    (worker,) = place.pulsar.workers()

    def clear() -> None:
        os.kill(worker, signal.SIGCONT)

    with storm(place, row, seed, replica) as weather:

        def strike() -> int:
            os.kill(worker, signal.SIGSTOP)
            time.sleep(TIMEOUT_S * weather.rng.uniform(0.5, 1.8))
            clear()
            time.sleep(weather.rng.uniform(0.3, 1.5))
            return 1

        weather.pass_over("still", strike, clear, 40 if whole() else 2)

    assert not row.bad, row.bad


def test_kill_9_of_pulsar_while_jobs_run_changes_no_task_s_end(table: Table, seed: int) -> None:
    """It forgets what runs and says `running` for ever; the runners go on."""
    row = table.row("kill -9 of Pulsar and a new start, jobs live on")
    with ground() as own:
        replica = own.replica("killed")
        with storm(own, row, seed, replica) as weather:

            def strike() -> int:
                time.sleep(weather.rng.uniform(0.3, 2.5))
                own.pulsar.kill()
                own.pulsar.begin()
                own.pulsar.wait_until_up()
                return 1

            weather.pass_over("killed", strike, lambda: None, 30 if whole() else 1)

    assert not row.bad, row.bad


def test_a_long_job_with_a_heart_is_left_alone_after_a_restart_of_pulsar(
    place: Ground, table: Table
) -> None:
    row = table.row("kill -9 of Pulsar under a job that outlives every patience")
    with ground() as own:
        replica = own.replica("long")
        with storm(own, row, 0, replica) as weather:

            def strike() -> int:
                until(lambda: any(own.ledger.counts), 60, replica.tail)
                own.pulsar.kill()
                own.pulsar.begin()
                own.pulsar.wait_until_up()
                return 1

            weather.pass_over("long", strike, lambda: None, 1, ["lasts"])

    assert not row.bad, row.bad


def test_a_staging_directory_lost_under_a_running_job_is_told_and_nothing_runs_twice(
    place: Ground, table: Table
) -> None:
    row = table.row("staging directory removed under a running job")
    replica = place.replica("staging")
    with storm(place, row, 0, replica) as weather:

        def strike() -> int:
            until(lambda: bool(place.ledger.starts("staging-0-0")), 60, replica.tail)
            for directory in place.pulsar.staging.glob("tes-*"):
                shutil.rmtree(directory, ignore_errors=True)
            return 1

        weather.pass_over("staging", strike, lambda: None, 1, ["loses its directory"])

    assert not row.bad, row.bad
