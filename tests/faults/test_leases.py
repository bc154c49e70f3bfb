"""What a lease costs, and how soon a dead replica's tasks are another's: over the real store."""

import time
from typing import Final

import pytest

from tests.faults.ground import Ground, begun, database
from tests.faults.replica import Client
from tests.faults.table import Table
from tests.faults.tasks import Batch
from tests.pulsars import until

pytestmark = pytest.mark.faults
LEASE_S: Final = 9.0
NOTICED_S: Final = 1.0
"""For the test to read the log, on a busy machine."""


def test_a_dead_replica_s_tasks_are_another_s_within_the_lease(place: Ground, table: Table) -> None:
    row = table.row(f"kill -9 of one of 2 replicas, a lease of {LEASE_S:g} s: taken over in time")
    lease = {"TESP_DISPATCH__LEASE_S": f"{LEASE_S:g}"}
    with database() as settings:
        dying, peer = (place.replica(f"dies-{n}", **{**settings, **lease}) for n in (0, 1))
        with begun(dying):
            client, other = Client(dying), Client(peer)
            batch = Batch("dies", ["lasts"] * 3, place.ledger, place.address)
            batch.begin(client, place.pool)
            until(lambda: all(place.ledger.starts(one.name) for one in batch.cases), 60, str)
            with begun(peer):
                time.sleep(LEASE_S / 3)  # the peer has looked, and knows who lives
                dying.kill()
                row.injected += 1
                took_s = until(
                    lambda: peer.log.read_text().count("task adopted") == len(batch.cases),
                    3 * LEASE_S,
                    peer.tail,
                )
                until(lambda: batch.ended(other), 90, peer.tail)
                batch.judge(other, row)
            client.close()
            other.close()
    table.notes.append(f"taken over {took_s:.1f} s after kill -9, with a lease of {LEASE_S:g} s")

    assert not row.bad, row.bad
    assert took_s < LEASE_S + NOTICED_S
