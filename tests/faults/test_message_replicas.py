"""Several servers that share a MongoDB and a broker: any of them may hear what Pulsar tells."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from tests.faults.ground import Ground, database
from tests.faults.peers import oversleep, replicas
from tests.faults.table import Table, whole
from tests.faults.tasks import KINDS
from tests.faults.weather import storm

pytestmark = pytest.mark.faults
HEARTBEAT_S = 2
"""The broker gives what a stopped server has not taken off to others after twice as long."""
POINTS = (
    "after send setup run INITIALIZING",
    "before send setup run INITIALIZING",
    "before keep waiting unheard run INITIALIZING",
    "before save INITIALIZING submitted run",
    "before keep running run INITIALIZING",
    "before keep ended run RUNNING",
    "before save RUNNING to COMPLETE",
    "before keep doomed run COMPLETE",
    "before send setup remove chore",
    "before drop jobs",
)


@contextmanager
def shared(place: Ground) -> Iterator[Mapping[str, str]]:
    """Give the settings of servers that share both."""
    broker = f"{place.settings['TESP_PULSAR__AMQP_URL']}?heartbeat={HEARTBEAT_S}"
    with database() as settings:
        yield {**settings, "TESP_PULSAR__AMQP_URL": broker}


def test_a_random_one_killed_every_few_seconds_loses_nothing(
    place_by_messages: Ground, table: Table, seed: int
) -> None:
    """3 replicas with clocks an hour apart; each dead one comes back."""
    row = table.row("kill -9 of a random one of 3 replicas every few seconds, AMQP and FerretDB")
    kinds = (sorted(KINDS) * 22)[:150] if whole() else (sorted(KINDS) * 3)[:15]
    with shared(place_by_messages) as settings:
        three = replicas(place_by_messages, "replica", 3, **settings)
        with storm(place_by_messages, row, seed, *three) as weather:

            def strike() -> int:
                victim = weather.rng.choice(three)
                time.sleep(weather.rng.uniform(1, 3))
                victim.kill()
                victim.start()
                return 1

            weather.pass_over("many", strike, lambda: None, 20 if whole() else 3, kinds)

    assert not row.bad, row.bad


@pytest.mark.parametrize("point", POINTS if whole() else POINTS[:1])
def test_one_that_sleeps_longer_than_its_lease_makes_nothing_run_again(
    point: str, place_by_messages: Ground, table: Table
) -> None:
    """It wakes when a peer has finished the task and cleaned up."""
    row = table.row(
        "SIGSTOP of a replica at a named point, awake after a peer has cleaned up, AMQP"
    )
    with shared(place_by_messages) as settings:
        oversleep(point, place_by_messages, row, **settings)

    assert not row.bad, row.bad
