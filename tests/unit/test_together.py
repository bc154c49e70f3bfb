"""What waits goes together, and who gave up is not served behind his back."""

import asyncio
from collections.abc import Sequence

import pytest

from tesp_api.domain.errors import StoreUnreachable
from tesp_api.store.together import Together


class Slow:
    """Does what it is given as soon as it may."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.done: list[Sequence[str]] = []
        self.error: Exception | None = None

    async def __call__(self, things: Sequence[str]) -> None:
        await self.go.wait()
        if self.error is not None and "a" in things:
            raise self.error
        self.done.append(things)


async def three(slow: Slow) -> list[asyncio.Task[None]]:
    together = Together[str](slow)
    tasks = [asyncio.create_task(together.add(name)) for name in "abc"]
    await asyncio.sleep(0.01)
    return tasks


async def test_what_comes_meanwhile_goes_together() -> None:
    slow = Slow()
    tasks = await three(slow)
    slow.go.set()
    await asyncio.gather(*tasks)
    assert [*map(list, slow.done)] in ([["a"], ["b", "c"]], [["a", "b", "c"]])


async def test_what_was_given_up_before_its_turn_is_not_done() -> None:
    slow = Slow()
    first = asyncio.create_task((together := Together[str](slow)).add("a"))
    await asyncio.sleep(0.01)
    second, third = (asyncio.create_task(together.add(name)) for name in "bc")
    await asyncio.sleep(0.01)
    second.cancel()
    await asyncio.sleep(0.01)
    slow.go.set()
    await asyncio.gather(first, third)
    assert [*map(list, slow.done)] == [["a"], ["c"]]


async def test_who_waits_behind_an_outage_hears_of_it_at_once() -> None:
    slow = Slow()
    slow.error = StoreUnreachable("gone")
    tasks = await three(slow)
    slow.go.set()
    assert [type(one) for one in await asyncio.gather(*tasks, return_exceptions=True)] == [
        StoreUnreachable,
    ] * 3


async def test_another_failure_is_that_of_its_batch_alone() -> None:
    slow = Slow()
    first = asyncio.create_task((together := Together[str](slow)).add("a"))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(together.add("b"))
    slow.error = ValueError("a")
    slow.go.set()
    with pytest.raises(ValueError, match="a"):
        await first
    await second
    assert [*map(list, slow.done)] == [["b"]]
