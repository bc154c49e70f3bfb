"""The machine's time."""

import asyncio
import contextlib
import time
from datetime import UTC, datetime


class SystemClock:
    """Clock. Its monotonic seconds count suspension too: a lease must not outlive a sleep."""

    def now(self) -> datetime:
        """Return the moment, aware UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since boot."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait until `event` is set, but no longer than `seconds`; None is for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
