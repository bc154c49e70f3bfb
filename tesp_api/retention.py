"""Tasks that ended long ago are removed: in small batches, so that nobody waits for it.

Any number of processes may do so at a time: what one has removed the other does not find.
"""

from datetime import timedelta
from typing import Final

from loguru import logger

from tesp_api.ports import Clock, TaskStore

BATCH: Final = 256
PAUSE_S: Final = 0.2


class Retention:
    """Removes tasks `days` after their end, unless anything of them is left somewhere."""

    def __init__(self, store: TaskStore, clock: Clock, days: float) -> None:
        self._store = store
        self._clock = clock
        self._kept = timedelta(days=days)

    async def remove_old(self) -> None:
        """Remove all that is due now. Raises StoreUnreachable; what was removed stays so."""
        before, removed = self._clock.now() - self._kept, 0
        while number := await self._store.remove_ended(before, BATCH):
            removed += number
            await self._clock.sleep(PAUSE_S)
        if removed:
            logger.info("old tasks removed", number=removed, ended_before=before.isoformat())
