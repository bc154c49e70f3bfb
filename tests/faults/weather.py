"""Tasks of all kinds under bad weather: it is made for as long as they live, then it clears."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.faults.ground import Ground
from tests.faults.replica import Client, Replica
from tests.faults.table import Row
from tests.faults.tasks import KINDS, Batch
from tests.pulsars import until

END_S = 300.0


@dataclass
class Storm:
    """Batches over `replicas`; `strike` does one harm and returns how many it was."""

    ground: Ground
    replicas: Sequence[Replica]
    row: Row
    rng: random.Random
    ids: list[str] = field(default_factory=list)

    def pass_over(
        self,
        prefix: str,
        strike: Callable[[], int],
        clear: Callable[[], None],
        strikes: int,
        kinds: Sequence[str] = (),
    ) -> None:
        """Strike so often while tasks live, a new batch whenever one has ended; then judge."""
        client = Client(*self.replicas)
        batches: list[Batch] = []
        try:
            done = 0
            while done < strikes:
                if not batches or batches[-1].ended(client):
                    batches.append(self._post(f"{prefix}-{len(batches)}", client, kinds))
                done += strike()
            clear()
            for batch in batches:
                until(lambda batch=batch: batch.ended(client), END_S, self._tails, 0.2)
                batch.judge(client, self.row)
                self.ids += batch.ids
        finally:
            clear()
            client.close()
        self.row.injected += done

    def _post(self, prefix: str, client: Client, kinds: Sequence[str]) -> Batch:
        chosen = self.rng.sample(kinds or sorted(KINDS), len(kinds or KINDS))
        batch = Batch(prefix, chosen, self.ground.ledger, self.ground.address)
        batch.begin(client, self.ground.pool)
        return batch

    def _tails(self) -> str:
        return "\n".join(one.tail() for one in self.replicas)


@contextmanager
def storm(ground: Ground, row: Row, seed: int, *replicas: Replica) -> Iterator[Storm]:
    """Begin the replicas; in the end nothing of the tasks may be left."""
    made = Storm(ground, replicas, row, random.Random(seed))
    try:
        for one in replicas:
            one.start()
        for one in replicas:
            one.wait_until_up()
        yield made
        ground.expect_nothing_of(made.ids, row)
    finally:
        for one in replicas:
            one.stop()
