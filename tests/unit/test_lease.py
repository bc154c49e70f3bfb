"""Who may act, and who is dead: judged by one's own seconds, never by a wall clock."""

from collections import Counter
from collections.abc import Mapping

import pytest

from tesp_api.domain.errors import LeaseLapsed, StoreUnreachable
from tesp_api.domain.task import DriverId
from tesp_api.lease import Lease
from tests.unit.fakes import StillClock, StillTime

ME, YOU = DriverId("me"), DriverId("you")


class Beats:
    """The part of a TaskStore that a lease sees. `slow_s` passes before each answer."""

    sole = False

    def __init__(self, time: StillTime) -> None:
        self.counts: Counter[DriverId] = Counter()
        self.away = False
        self.slow_s = 0.0
        self._time = time

    async def beat(self, driver: DriverId) -> Mapping[DriverId, int]:
        if self.away:
            raise StoreUnreachable("away")
        self.counts[driver] += 1
        self._time.move(self._time.elapsed + self.slow_s)
        return dict(self.counts)

    async def retire(self, driver: DriverId) -> None:
        self.counts.pop(driver, None)


class Pair:
    """Two drivers whose clocks have nothing in common."""

    def __init__(self) -> None:
        self.time = StillTime()
        self.store = Beats(self.time)
        mine, yours = (
            StillClock(self.time, wrong_s=wrong, since_boot_s=boot)
            for wrong, boot in [(3600.0, 5.0), (-3600.0, 1e6)]
        )
        self.me = Lease(self.store, mine, ME, 30.0)  # type: ignore[arg-type]
        self.you = Lease(self.store, yours, YOU, 30.0)  # type: ignore[arg-type]

    def pass_(self, seconds: float) -> None:
        self.time.move(self.time.elapsed + seconds)


@pytest.fixture
def pair() -> Pair:
    return Pair()


async def test_nothing_is_held_before_the_first_beat(pair: Pair) -> None:
    assert not pair.me.held
    await pair.me.renew()
    assert pair.me.held


async def test_a_lease_ends_a_third_early_for_its_holder(pair: Pair) -> None:
    await pair.me.renew()
    pair.pass_(19.9)
    assert pair.me.held
    pair.pass_(0.2)
    assert not pair.me.held


async def test_a_slow_answer_counts_from_the_question(pair: Pair) -> None:
    pair.store.slow_s = 15.0
    await pair.me.renew()
    pair.pass_(5.1)
    assert not pair.me.held


async def test_a_renewal_that_fails_does_not_prolong(pair: Pair) -> None:
    await pair.me.renew()
    pair.pass_(15)
    pair.store.away = True
    with pytest.raises(StoreUnreachable):
        await pair.me.renew()
    pair.pass_(6)
    assert not pair.me.held


async def test_who_beats_lives_and_who_stops_is_dead_after_the_lease(pair: Pair) -> None:
    for _ in range(10):
        await pair.you.renew()
        await pair.me.renew()
        assert not pair.me.dead(YOU)
        pair.pass_(10)
    await pair.me.renew()
    pair.pass_(13)
    await pair.me.renew()
    assert not pair.me.dead(YOU), "most of a lease after it was last seen to change, not earlier"
    pair.pass_(2)
    assert pair.me.dead(YOU)


@pytest.mark.parametrize("offset", [0.0, 0.5, 1.0, 1.7, 2.9])
async def test_from_a_death_to_the_takeover_is_no_longer_than_the_lease(offset: float) -> None:
    pair = Pair()
    await pair.me.renew()
    pair.pass_(offset)
    await pair.you.renew()
    died = pair.time.elapsed
    pair.pass_(pair.me.renewal_s - offset)
    while not pair.me.dead(YOU):
        await pair.me.renew()
        pair.pass_(pair.me.renewal_s)
    assert pair.time.elapsed - died <= 30


async def test_a_step_that_slept_through_the_lease_may_do_nothing_more() -> None:
    pair = Pair()
    await pair.me.renew()
    pair.me.begin_step()
    pair.me.permit()
    pair.pass_(10)
    await pair.me.renew()
    pair.me.permit()
    pair.pass_(21)
    with pytest.raises(LeaseLapsed):
        pair.me.permit()
    await pair.me.renew()
    with pytest.raises(LeaseLapsed):
        pair.me.permit()
    pair.me.begin_step()
    pair.me.permit()


async def test_what_is_no_step_needs_only_the_lease_of_now() -> None:
    pair = Pair()
    await pair.me.renew()
    pair.pass_(40)
    await pair.me.renew()
    pair.me.permit()


async def test_nobody_is_taken_for_dead_while_its_holder_may_act() -> None:
    """Whatever the phase between the beats of the two: who is dead to one holds no lease."""
    for offset in range(10):
        pair = Pair()
        await pair.you.renew()
        pair.pass_(offset)
        while not pair.me.dead(YOU):
            await pair.me.renew()
            pair.pass_(10)
            assert not (pair.me.dead(YOU) and pair.you.held)


async def test_who_has_not_looked_for_long_takes_nobody_for_dead(pair: Pair) -> None:
    await pair.you.renew()
    assert not pair.me.dead(YOU)
    await pair.me.renew()
    pair.pass_(100)
    await pair.you.renew()
    assert not pair.me.dead(YOU)
    await pair.me.renew()
    assert not pair.me.dead(YOU)


async def test_unlisted_drivers_have_ended_and_one_is_never_dead_to_oneself(pair: Pair) -> None:
    await pair.me.renew()
    assert pair.me.dead(DriverId("gone"))
    assert pair.me.dead(None)
    assert not pair.me.dead(ME)


async def test_where_the_store_is_sole_all_others_are_dead(pair: Pair) -> None:
    await pair.you.renew()
    pair.store.sole = True
    await pair.me.renew()
    assert pair.me.dead(YOU)


async def test_the_dead_are_buried_and_the_living_are_not(pair: Pair) -> None:
    await pair.you.renew()
    await pair.me.renew()
    await pair.me.bury()
    assert YOU in pair.store.counts
    for _ in range(4):
        pair.pass_(10)
        await pair.me.renew()
    await pair.me.bury()
    assert YOU not in pair.store.counts


async def test_what_is_given_back_may_be_taken_at_once(pair: Pair) -> None:
    await pair.you.renew()
    await pair.me.renew()
    await pair.you.give_back()
    assert not pair.you.held
    await pair.me.renew()
    assert pair.me.dead(YOU)


async def test_the_permit_is_refused_from_a_third_of_the_lease_before_others_take_over() -> None:
    pair = Pair()
    await pair.me.renew()
    pair.me.permit()
    pair.time.move(pair.time.elapsed + 19.9)
    pair.me.permit()
    pair.time.move(pair.time.elapsed + 0.2)
    with pytest.raises(LeaseLapsed):
        pair.me.permit()
    await pair.me.renew()
    pair.me.permit()
