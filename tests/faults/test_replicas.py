"""Several servers over one MongoDB: killed, stopped, cut off, with clocks an hour apart."""

import os
import time

import pytest

from tests.faults.between import wire_to
from tests.faults.ground import Ground, begun, database, over
from tests.faults.peers import oversleep, replicas
from tests.faults.table import Table, whole
from tests.faults.tasks import KINDS
from tests.faults.weather import storm

pytestmark = pytest.mark.faults
A_MINUTE_S = 61.0
POINTS = (
    "before upload run INITIALIZING",
    "after upload run INITIALIZING",
    "before submit run INITIALIZING",
    "after submit run INITIALIZING",
    "before save INITIALIZING submitted run",
    "before status run INITIALIZING",
    "before save RUNNING to COMPLETE",
    "before delete run COMPLETE",
)


def test_a_random_replica_killed_every_few_seconds_loses_nothing(
    place: Ground, table: Table, seed: int
) -> None:
    """3 replicas with clocks an hour apart; each dead one comes back."""
    row = table.row("kill -9 of a random one of 3 replicas every few seconds, REST and FerretDB")
    kinds = (sorted(KINDS) * 72)[:500] if whole() else (sorted(KINDS) * 6)[:40]
    with database() as settings:
        three = replicas(place, "replica", 3, **settings)
        with storm(place, row, seed, *three) as weather:

            def strike() -> int:
                time.sleep(weather.rng.uniform(1, 3))
                victim = weather.rng.choice(three)
                victim.kill()
                victim.start()
                return 1

            weather.pass_over("many", strike, lambda: None, 60 if whole() else 5, kinds)

    assert not row.bad, row.bad


@pytest.mark.parametrize("point", POINTS if whole() else POINTS[1:3])
def test_a_replica_stopped_for_longer_than_its_lease_makes_nothing_run_again(
    point: str, place: Ground, table: Table
) -> None:
    """It wakes when a peer has finished the task and cleaned up."""
    row = table.row(
        "SIGSTOP of a replica at a named point, awake after a peer has cleaned up, REST"
    )
    with database() as settings:
        oversleep(point, place, row, **settings)

    assert not row.bad, row.bad


def test_a_store_cut_off_for_seconds_under_load_loses_nothing(
    place: Ground, table: Table, seed: int
) -> None:
    row = table.row(
        "connections to FerretDB reset, or silent, for seconds, once a minute, 2 replicas"
    )
    with database() as settings, wire_to(settings["TESP_DB__MONGODB_URI"]) as (line, uri):
        two = replicas(place, "cut", 2, **over(uri))
        with storm(place, row, seed, *two) as weather:
            away_s = iter([A_MINUTE_S] if whole() else [])

            def strike() -> int:
                weather.rng.choice([line.cut, line.freeze])()
                time.sleep(next(away_s, weather.rng.uniform(0.2, 6)))
                line.mend()
                time.sleep(weather.rng.uniform(0.5, 3))
                return 1

            weather.pass_over("cut", strike, line.mend, 40 if whole() else 3)

    assert not row.bad, row.bad


def test_a_second_process_over_the_same_file_is_refused_with_a_sentence(place: Ground) -> None:
    first = place.replica("alone")
    second = place.replica("second", TESP_DB__SQLITE_PATH=str(first.log.parent / "tasks.sqlite"))
    with begun(first):
        second.start()
        assert second.ends_within(30)
        assert "another process" in second.tail().lower() or "in use" in second.tail().lower()
        second.stop()
        assert os.path.exists(first.log)
