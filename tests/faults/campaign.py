"""A server that dies at one named point after another, and the tasks that outlive it.

A batch holds tasks of all kinds. The server is begun with a point at which it kills itself; when it
has, it is begun again with the next one. A point that cannot be reached any more, because all tasks
of the batch have ended and been cleaned up, is tried again in a later batch.
"""

import random
import time
from collections.abc import Sequence

from tests.faults.ground import PATIENCE_S, Ground
from tests.faults.kept import stale_news
from tests.faults.points import Plan
from tests.faults.replica import Client, NoAnswer, Replica
from tests.faults.table import Row, Table, whole
from tests.faults.tasks import KINDS, Batch
from tests.pulsars import until

LIVES = 5
"""At most so many deaths a batch."""
TRIES = 2
LEAST_POINTS = 40


class Campaign:
    """A server that dies at one point after another."""

    def __init__(
        self,
        ground: Ground,
        replica: Replica,
        row: Row,
        rng: random.Random,
        kinds: Sequence[str] = tuple(KINDS),
    ) -> None:
        self.row = row
        self._kinds = sorted(kinds)
        self.missed: list[str] = []
        self._ground, self._replica, self._rng = ground, replica, rng
        self._client = Client(replica)
        self._glance = Client(replica, patience_s=0)
        self._ids: list[str] = []
        self._batches = 0

    def explore(self) -> list[str]:
        """Let a batch live undisturbed; return all points, in the order they were passed."""
        self._replica.start()
        batch = self._post()
        until(lambda: self._over(batch), PATIENCE_S, self._replica.tail)
        self._judge(batch)
        return self._replica.passed()

    def die_at(self, points: Sequence[str]) -> None:
        """Die at each of them, in batches of deaths that follow the tasks' lives."""
        left = [(point, TRIES if whole() else 1) for point in points]
        while left:
            stride = -(-len(left) // LIVES)
            again = [(point, tries - 1) for point, tries in self._batch(left[::stride])]
            del left[::stride]
            left += [one for one in again if one[1]]
            self.missed += [point for point, tries in again if not tries]

    def close(self) -> None:
        """See that nothing of any batch is left."""
        self._replica.start()
        self._ground.expect_nothing_of(self._ids, self.row)
        self._replica.stop()
        self.row.leftovers += stale_news(self._replica.environ)
        self._client.close()
        self._glance.close()

    def _batch(self, plans: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
        """Run a batch through these deaths; return those that did not come."""
        batch, missed = None, []
        for plan in plans:
            self._replica.start(Plan(point=plan[0]))
            batch = batch or self._post()
            if self._dies(batch):
                self.row.injected += 1
            else:
                missed.append(plan)
        self._replica.start()
        assert batch is not None
        until(lambda: self._ended(batch), PATIENCE_S, self._replica.tail)
        self._judge(batch)
        return missed

    def _dies(self, batch: Batch) -> bool:
        end = time.monotonic() + PATIENCE_S
        while not self._replica.ends_within(0.1):
            if self._over(batch):
                self._replica.kill()
                return False
            assert time.monotonic() < end, self._stuck(batch)
        return True

    def _post(self) -> Batch:
        self._batches += 1
        kinds = self._rng.sample(self._kinds, len(self._kinds))
        prefix = f"{self._replica.log.parent.name}-{self._batches}"
        batch = Batch(prefix, kinds, self._ground.ledger, self._ground.address)
        batch.begin(self._client, self._ground.pool)
        return batch

    def _ended(self, batch: Batch) -> bool:
        try:
            return batch.ended(self._glance)
        except NoAnswer:
            return False

    def _over(self, batch: Batch) -> bool:
        """Whether nothing more will be done for the batch; False where nobody answers."""
        return self._ended(batch) and not self._ground.left_of(batch.ids)

    def _states(self, batch: Batch) -> list[str]:
        try:
            return [f"{one} {state}" for one, state in self._glance.states(batch.prefix).items()]
        except NoAnswer:
            return ["nobody answers"]

    def _stuck(self, batch: Batch) -> str:
        left = self._ground.left_of(batch.ids)
        return f"{self._states(batch)}, left: {left}\n{self._replica.tail()}"

    def _judge(self, batch: Batch) -> None:
        self._ids += batch.ids
        batch.judge(self._client, self.row)
        self._replica.kill()


def crash(
    place: Ground,
    table: Table,
    seed: int,
    name: str,
    *,
    few: int,
    rounds: int,
    kinds: Sequence[str] = tuple(KINDS),
    about: Sequence[str] = ("",),
    least: int = LEAST_POINTS,
    **settings: str,
) -> Campaign:
    """Run a campaign: so many rounds through all points, or in the short run through a few.

    The points are those that have one of the words `about` in their names, at `least` so many.
    """
    row = table.row(f"kill -9 of the API at named points, {name}")
    replica = place.replica(name.replace(" ", "-"), **settings)
    campaign = Campaign(place, replica, row, random.Random(seed), kinds)
    try:
        points = [one for one in campaign.explore() if any(word in one for word in about)]
        assert len(points) >= least, points
        for _ in range(rounds if whole() else 1):
            campaign.die_at(points if whole() else points[:: -(-len(points) // few)])
        died = set(replica.died())
        told = f"{name}: died at {len(died)} points: {', '.join(sorted(died))}"
        table.notes.append(f"{told}; not met again: {len(set(campaign.missed) - died)}")
    finally:
        campaign.close()
    assert len(died) >= (least if whole() else few // 2)
    return campaign
