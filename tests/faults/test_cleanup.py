"""What is left when servers end: nothing of ours too long, and nothing of others is touched."""

import time
from collections.abc import Sequence

import pytest

from tests.e2e.stack import containers_of
from tests.faults.ground import Ground, begun, ground
from tests.faults.replica import Client, Replica
from tests.faults.table import Row, Table
from tests.faults.tasks import Batch
from tests.needs import need
from tests.pulsars import processes_of, until

pytestmark = pytest.mark.faults
WATCHDOG_S = 10.0


def run(place: Ground, replica: Replica, kinds: Sequence[str], row: Row) -> Batch:
    """Run tasks to their ends; return them."""
    client = Client(replica)
    batch = Batch(replica.log.parent.name, kinds, place.ledger, place.address)
    batch.begin(client, place.pool)
    until(lambda: batch.ended(client), 60, replica.tail)
    batch.judge(client, row)
    client.close()
    return batch


def test_sigterm_ends_the_server_within_10_s_and_the_job_goes_on(
    place: Ground, table: Table
) -> None:
    row = table.row("SIGTERM while tasks run, and a new start")
    replica = place.replica("sigterm")
    with begun(replica):
        client = Client(replica)
        batch = Batch("sigterm", ["lasts"] * 3, place.ledger, place.address)
        batch.begin(client, place.pool)
        until(lambda: all(place.ledger.starts(case.name) for case in batch.cases), 60, replica.tail)
        _, took_s = replica.terminate()
        row.injected += 1
        assert took_s < 10
        assert place.left_of(batch.ids), "the jobs go on"
        replica.start()
        until(lambda: batch.ended(client), 90, replica.tail)
        batch.judge(client, row)
        place.expect_nothing_of(batch.ids, row)
        client.close()

    assert not row.bad, row.bad


@pytest.mark.parametrize("kind", ["completes", "fails", "cancelled", "dies"])
def test_no_watchdog_lives_ten_seconds_after_its_task_s_end(
    kind: str, place: Ground, table: Table
) -> None:
    row = table.row("processes of a task 10 s after its end")
    replica = place.replica(f"watch-{kind}")
    with begun(replica):
        batch = run(place, replica, [kind], row)
        ended = time.monotonic()
        until(
            lambda: not processes_of(*batch.ids), WATCHDOG_S, lambda: str(processes_of(*batch.ids))
        )
        assert time.monotonic() - ended < WATCHDOG_S

    assert not row.bad, row.bad


def test_two_instances_on_one_docker_leave_each_other_s_containers_alone(table: Table) -> None:
    """One loses its job and its server, and sweeps; the other's task runs on."""
    need("docker")
    row = table.row("kill -9 and sweep of one of two instances on one Docker")
    with ground("docker") as place:
        ours, theirs = place.replica("ours"), place.replica("theirs")
        with begun(ours, theirs):
            client, other = Client(ours), Client(theirs)
            lasting = Batch("theirs", ["lasts"], place.ledger, place.address)
            lasting.begin(other, place.pool)
            until(lambda: bool(place.ledger.starts("theirs-0")), 60, theirs.tail)
            mine = Batch("ours", ["dies", "cancelled"], place.ledger, place.address)
            mine.begin(client, place.pool)
            until(lambda: bool(place.ledger.starts("ours-0")), 60, ours.tail)
            ours.kill()
            ours.start()
            row.injected += 1
            until(lambda: mine.ended(client), 90, ours.tail)
            place.expect_nothing_of(mine.ids, row)
            assert containers_of(*lasting.ids), "the other's is there"
            until(lambda: lasting.ended(other), 60, theirs.tail)
            mine.judge(client, row)
            lasting.judge(other, row)
            place.expect_nothing_of(lasting.ids, row)
            client.close()
            other.close()

    assert not row.bad, row.bad
