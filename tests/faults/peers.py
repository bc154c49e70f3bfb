"""Several servers over one MongoDB, and one that sleeps while another does its work."""

import signal
import time
from typing import Final

from tests.faults.ground import PATIENCE_S, Ground
from tests.faults.kept import kept_news, stale_news
from tests.faults.points import Plan
from tests.faults.replica import Client, Replica
from tests.faults.table import Row
from tests.faults.tasks import Batch
from tests.pulsars import until

HOUR: Final = 3600.0
LEASE_S: Final = 3.0


def replicas(place: Ground, name: str, number: int, **settings: str) -> list[Replica]:
    """Return replicas whose wall clocks are an hour apart from one another."""
    lease = {"TESP_DISPATCH__LEASE_S": f"{LEASE_S:g}"}
    wrongs = [HOUR * (one - 1) for one in range(number)]
    return [
        place.replica(f"{name}-{one}", wrong_s=wrong, **{**lease, **settings})
        for one, wrong in enumerate(wrongs)
    ]


def oversleep(point: str, place: Ground, row: Row, **settings: str) -> None:
    """Stop a replica at that point of a task's life; it wakes when a peer has done all the rest."""
    stopped, peer = replicas(place, f"stopped-{point.replace(' ', '-')}", 2, **settings)
    client, other = Client(stopped), Client(peer)
    try:
        stopped.start(Plan(point=point, act="stop"))
        stopped.wait_until_up()
        batch = Batch(stopped.log.parent.name, ["completes"], place.ledger, place.address)
        batch.begin(client, place.pool)
        until(lambda: bool(stopped.noted("stop")), 30, stopped.tail)
        row.injected += 1
        peer.start()
        peer.wait_until_up()
        until(lambda: batch.ended(other), 60, peer.tail)
        until(lambda: not place.left_of(batch.ids), PATIENCE_S, peer.tail)
        until(lambda: not kept_news(peer.environ), PATIENCE_S, peer.tail)
        stopped.signal(signal.SIGCONT)
        time.sleep(2 * LEASE_S)  # for whatever it may still do, and should not
        batch.judge(other, row)
        place.expect_nothing_of(batch.ids, row)
    finally:
        client.close()
        other.close()
        stopped.stop()
        peer.stop()
    row.leftovers += stale_news(peer.environ)
