"""Pulsar is out of reach for minutes while tasks are queued, submitted, running and ending."""

import time
from typing import Final

import pytest

from tests.faults.between import between
from tests.faults.ground import QUICK, Ground
from tests.faults.replica import Client
from tests.faults.table import Table, whole
from tests.faults.tasks import KINDS, Batch
from tests.pulsars import until

pytestmark = pytest.mark.faults
AWAY_S: Final = 150.0 if whole() else 20.0
TIMEOUT_S: Final = float(QUICK["TESP_PULSAR__CLIENT_TIMEOUT"])


def test_a_pulsar_out_of_reach_for_minutes_is_waited_for_and_told(
    place: Ground, table: Table, seed: int
) -> None:
    row = table.row(f"Pulsar out of reach for {AWAY_S:g} s, tasks in every state")
    with between(place.pulsar.port, patience_s=TIMEOUT_S, seed=seed) as proxy:
        few = {"TESP_PULSAR__URL": proxy.url, "TESP_PULSAR__MAX_JOBS": "6"}
        replica = place.replica("minutes", **few)
        client = Client(replica)
        batches = [
            Batch(f"minutes-{n}", sorted(KINDS), place.ledger, place.address) for n in range(2)
        ]
        replica.start()
        try:
            replica.wait_until_up()
            for batch in batches:
                batch.begin(client, place.pool)
            until(lambda: any(place.ledger.starts(case.name) for case in batches[0].cases), 60, str)
            proxy.down = True
            row.injected += 1
            time.sleep(AWAY_S)
            waits = [one for one in batches[0].ids if "Waiting: " in str(client.get(one))]
            proxy.down = False
            for batch in batches:
                until(lambda batch=batch: batch.ended(client), 120, replica.tail, 0.2)
                batch.judge(client, row)
            place.expect_nothing_of([one for batch in batches for one in batch.ids], row)
        finally:
            client.close()
            replica.stop()

    assert waits, "what they wait for is told"
    assert not row.bad, row.bad
