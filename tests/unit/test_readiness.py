"""Whether the server is ready: true, soon told, and no load for those who are asked."""

import asyncio

import pytest

from tesp_api.domain.errors import LeaseLapsed, RunnerUnreachable, StoreUnreachable
from tesp_api.readiness import BELIEVED_S, Ask, Readiness
from tests.api.memory import StillClock

SECRET = "mongodb://user:hunter2@10.1.2.3"


class Neighbour:
    """Answers as it is told to, after a few turns of the loop, and counts who asks."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked = 0

    async def __call__(self) -> str:
        self.asked += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return "0.15"


async def never() -> str:
    await asyncio.Event().wait()
    return ""


@pytest.fixture
def clock() -> StillClock:
    return StillClock()


async def test_a_server_whose_neighbours_answer_is_ready(clock: StillClock) -> None:
    ready = Readiness({"The store": Neighbour(), "Pulsar": Neighbour()}, clock)
    assert await ready.reasons() == []


@pytest.mark.parametrize(
    ("store", "pulsar", "reasons"),
    [
        (StoreUnreachable(SECRET), None, ["The store does not answer."]),
        (None, RunnerUnreachable(SECRET), ["Pulsar does not answer."]),
        (
            StoreUnreachable(SECRET),
            RunnerUnreachable(SECRET),
            ["The store does not answer.", "Pulsar does not answer."],
        ),
    ],
)
async def test_each_neighbour_that_does_not_answer_is_a_reason_that_names_no_secret(
    clock: StillClock, store: Exception | None, pulsar: Exception | None, reasons: list[str]
) -> None:
    ready = Readiness({"The store": Neighbour(store), "Pulsar": Neighbour(pulsar)}, clock)
    assert await ready.reasons() == reasons


async def test_a_lost_lease_is_not_blamed_on_pulsar(clock: StillClock) -> None:
    (reason,) = await Readiness({"Pulsar": Neighbour(LeaseLapsed("x"))}, clock).reasons()
    assert "lease" in reason


async def test_a_neighbour_that_hangs_is_given_up(clock: StillClock) -> None:
    asks: dict[str, Ask] = {"The store": Neighbour(), "Pulsar": never}
    ready = Readiness(asks, clock, patience_s=0.02)
    assert await ready.reasons() == ["Pulsar does not answer within 0.02 s."]


async def test_however_many_ask_each_neighbour_is_asked_once_in_a_while(clock: StillClock) -> None:
    store, pulsar = Neighbour(), Neighbour(RunnerUnreachable("x"))
    ready = Readiness({"The store": store, "Pulsar": pulsar}, clock)
    told = await asyncio.gather(*(ready.reasons() for _ in range(100)))
    assert told == [["Pulsar does not answer."]] * 100
    pulsar.error = None
    await clock.sleep(BELIEVED_S / 2)
    assert await ready.reasons() == ["Pulsar does not answer."]
    assert (store.asked, pulsar.asked) == (1, 1)
    await clock.sleep(BELIEVED_S / 2)
    assert await ready.reasons() == []
    assert (store.asked, pulsar.asked) == (2, 2)


async def test_who_goes_away_takes_no_answer_from_the_others(clock: StillClock) -> None:
    ready = Readiness({"Pulsar": Neighbour()}, clock)
    first, second = (asyncio.create_task(ready.reasons()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == []
    assert first.cancelled()


async def test_a_bug_is_told_and_not_believed(clock: StillClock) -> None:
    pulsar = Neighbour(ZeroDivisionError())
    ready = Readiness({"Pulsar": pulsar}, clock)
    with pytest.raises(ZeroDivisionError):
        await ready.reasons()
    pulsar.error = None
    assert await ready.reasons() == []
