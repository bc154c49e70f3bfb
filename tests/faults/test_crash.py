"""kill -9 of the server at every named point of a task's life, and what the ledger says of it."""

import pytest

from tests.faults.campaign import crash
from tests.faults.ground import Ground, database, ground
from tests.faults.table import Table
from tests.needs import need

pytestmark = pytest.mark.faults


def test_kill_9_at_any_point_loses_nothing_and_runs_nothing_twice(
    place: Ground, table: Table, seed: int
) -> None:
    campaign = crash(place, table, seed, "REST and SQLite", few=16, rounds=2)

    assert not campaign.row.bad, campaign.row.bad


def test_kill_9_at_any_point_over_mongodb(place: Ground, table: Table, seed: int) -> None:
    with database() as settings:
        campaign = crash(place, table, seed, "REST and MongoDB", few=4, rounds=1, **settings)

    assert not campaign.row.bad, campaign.row.bad


def test_kill_9_at_any_point_over_amqp(place_by_messages: Ground, table: Table, seed: int) -> None:
    campaign = crash(place_by_messages, table, seed, "AMQP and SQLite", few=6, rounds=1)

    assert not campaign.row.bad, campaign.row.bad


def test_kill_9_at_any_point_while_containers_run_leaves_none(table: Table, seed: int) -> None:
    need("docker")
    with ground("docker") as place:
        campaign = crash(place, table, seed, "REST and SQLite, Docker", few=4, rounds=1)

    assert not campaign.row.bad, campaign.row.bad
