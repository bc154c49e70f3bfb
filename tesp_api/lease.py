"""Who drives what: drivers beat in the store, and one whose beats stop is dead.

Wall clocks are never compared. A driver is judged by how long its number of beats stayed unchanged
on the observer's own monotonic clock; it judges itself by the moment *before* its last beat that
was kept, and stops acting a third of the lease early, so that nobody takes over what is still being
acted on; from a death to the takeover it is no longer than the lease.
"""

from contextvars import ContextVar
from typing import Final

from tesp_api.domain.errors import LeaseLapsed
from tesp_api.domain.task import DriverId
from tesp_api.ports import Clock, TaskStore

OWN_SHARE: Final = 2 / 3
DEAD_SHARE: Final = 0.8
RENEWAL_SHARE: Final = 0.1
"""A beat is seen so late at worst, and looked at so late again: with the silence that is borne it
makes one lease from a death to the takeover."""


class Lease:
    """This driver's right to act, and its view of the others."""

    def __init__(self, store: TaskStore, clock: Clock, driver: DriverId, lease_s: float) -> None:
        self.driver = driver
        self._store = store
        self._clock = clock
        self._lease_s = lease_s
        self._renewed = float("-inf")
        self._term = 0
        self._step_of: ContextVar[int | None] = ContextVar("term of the step", default=None)
        self._others: dict[DriverId, tuple[int, float]] = {}

    @property
    def held(self) -> bool:
        """Whether this driver may act now. Ask right before each call that has an effect."""
        return self._clock.monotonic() - self._renewed < self._lease_s * OWN_SHARE

    def begin_step(self) -> None:
        """Bind what this asyncio task does from now on to the lease as it is now.

        A step may wait for something else while the process stands still, and go on when the lease
        is held again: what it goes by may be old, and its task a peer's.
        """
        self._step_of.set(self._term)

    def permit(self) -> None:
        """Raise LeaseLapsed where this driver may not act now, or might not since: a Permit."""
        if not self.held or self._step_of.get() not in (None, self._term):
            raise LeaseLapsed(
                "This process stood still for longer than its lease (dispatch.lease_s)."
            )

    @property
    def renewal_s(self) -> float:
        """How often to renew."""
        return self._lease_s * RENEWAL_SHARE

    async def renew(self) -> None:
        """Beat, and look at everybody's beats. Raises StoreUnreachable: the lease runs on."""
        before = self._clock.monotonic()
        beats = await self._store.beat(self.driver)
        if not self.held:
            self._term += 1
        self._renewed = before
        now = self._clock.monotonic()
        known = self._others
        self._others = {
            driver: known[driver] if driver in known and known[driver][0] == count else (count, now)
            for driver, count in beats.items()
            if driver != self.driver
        }

    def dead(self, driver: DriverId | None) -> bool:
        """Whether what this driver left may be taken over. Unlisted drivers have ended.

        That holds of drivers seen on a task before the last `renew`: each beats before it claims.
        Who has not looked for long, or never, cannot tell and takes nobody for dead.
        """
        if driver == self.driver or not self.held:
            return False
        if self._store.sole or driver is None or driver not in self._others:
            return True
        _, since = self._others[driver]
        return self._clock.monotonic() - since > self._lease_s * DEAD_SHARE

    async def bury(self) -> None:
        """Take dead drivers off the list; call it when all they had has been adopted."""
        for driver in [driver for driver in self._others if self.dead(driver)]:
            await self._store.retire(driver)
            del self._others[driver]

    async def give_back(self) -> None:
        """End this driver: what it had may be adopted at once."""
        self._renewed = float("-inf")
        await self._store.retire(self.driver)
