"""What comes while something is under way goes together as soon as that is done."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from tesp_api.domain.errors import StoreUnreachable

T = TypeVar("T")
_MOST: Final = 512


class Together(Generic[T]):
    """Hands things to `do`, one batch at a time; all of a batch have its outcome."""

    def __init__(self, do: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        self._do = do
        self._waiting: deque[tuple[T, asyncio.Future[None]]] = deque()
        self._under_way: asyncio.Task[None] | None = None

    async def add(self, thing: T) -> None:
        """Return when `thing` is done, or raise what `do` raised."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((thing, done))
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(self._run(), name="tesp-store-adds")
        await done

    async def close(self) -> None:
        """Finish what waits."""
        if self._under_way is not None:
            await self._under_way

    async def _run(self) -> None:
        while self._waiting:
            size = min(len(self._waiting), _MOST)
            taken = [self._waiting.popleft() for _ in range(size)]
            # Whoever gave up said so to somebody: it must not take place later.
            if not (batch := [one for one in taken if not one[1].cancelled()]):
                continue
            error = await self._outcome([thing for thing, _ in batch])
            if isinstance(error, StoreUnreachable):
                batch += self._waiting  # they would only wait for the same again
                self._waiting.clear()
            for _, done in batch:
                if not done.done():
                    done.set_result(None) if error is None else done.set_exception(error)

    async def _outcome(self, things: Sequence[T]) -> Exception | None:
        try:
            await self._do(things)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            return error
        return None
