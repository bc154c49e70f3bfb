"""What only the end of a run can name goes to S3: over crashes of the server, in bad weather."""

import time
from collections.abc import Iterator

import pytest

from tests.faults.bucket import WEATHERS, CountedBucket
from tests.faults.campaign import crash
from tests.faults.ground import Ground, bucket_on, ground
from tests.faults.table import Table, whole
from tests.faults.tasks import SENDING, TWO_PARTS
from tests.faults.weather import storm

pytestmark = pytest.mark.faults
TRANSPORTS = ("REST", "AMQP") if whole() else ("REST",)
KINDS = (*SENDING, TWO_PARTS) if whole() else tuple(SENDING)
WORDS = ("stage-out", "upload", "RUNNING", "CANCELING to", "delete")
LEAST_POINTS = 40


@pytest.fixture(scope="module", params=TRANSPORTS)
def place(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with ground(transport=request.param) as made, bucket_on(made):
        yield made


@pytest.fixture
def bucket(place: Ground) -> CountedBucket:
    assert place.ledger.bucket is not None
    return place.ledger.bucket


def test_kill_9_at_any_point_of_a_stage_out_loses_nothing_and_sends_nothing_twice(
    place: Ground, bucket: CountedBucket, table: Table, seed: int
) -> None:
    name = f"stage-out to S3 over {place.transport}"
    campaign = crash(
        place, table, seed, name, few=3, rounds=1, kinds=KINDS, about=WORDS, least=LEAST_POINTS
    )
    table.notes.append(f"{name}: {bucket.told()}")

    assert not campaign.row.bad, campaign.row.bad


def test_an_s3_away_busy_or_silent_for_seconds_changes_no_task_s_end(
    place: Ground, bucket: CountedBucket, table: Table, seed: int
) -> None:
    row = table.row(f"S3 away, busy, silent, or its answers lost, for seconds, {place.transport}")
    replica = place.replica("weather")

    def clear() -> None:
        bucket.weather = ""

    with storm(place, row, seed, replica) as weather:

        def strike() -> int:
            bucket.weather = weather.rng.choice(WEATHERS)
            time.sleep(weather.rng.uniform(0.3, 4))
            clear()
            time.sleep(weather.rng.uniform(0.3, 1.5))
            return 1

        for number in range(4 if whole() else 1):
            weather.pass_over(f"s3-{number}", strike, clear, 5 if whole() else 1, KINDS)

    assert not row.bad, row.bad
