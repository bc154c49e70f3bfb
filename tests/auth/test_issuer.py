"""Keys are kept a while and asked for seldom, whatever tokens come."""

import asyncio
from collections.abc import Sequence

import pytest

from tesp_api.auth import Issuer, Unauthorized
from tesp_api.auth.issuer import GRACE_S, PAUSE_S
from tesp_api.auth.signature import PublicKey
from tesp_api.domain.errors import IssuerUnreachable
from tests.auth.fakes import HERE, THERE, TTL_S, Desk, HandClock, KeyBook, claims
from tests.auth.keys import Signer, rsa_key

OLD = Signer(rsa_key(0), "old")
NEW = Signer(rsa_key(1), "new")


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.book.published[HERE] = [OLD.jwk()]
    desk.book.published[THERE] = [OLD.jwk()]
    return desk


def long_lived(subject: str = "alice", life_s: int = 10**6) -> dict[str, object]:
    good = claims(sub=subject)
    return good | {"exp": good["exp"] + life_s}


async def test_nobody_is_asked_before_a_token_comes(desk: Desk) -> None:
    with pytest.raises(Unauthorized):
        await desk.bearer.principal({})
    assert desk.book.asked == []


async def test_keys_are_asked_for_once_while_they_are_fresh(desk: Desk) -> None:
    for number in range(20):
        await desk.who(OLD.token(claims(sub=f"user {number}")))
    assert desk.book.asked == [HERE]


async def test_keys_are_asked_for_anew_when_they_are_old(desk: Desk) -> None:
    await desk.who(OLD.token(long_lived("alice")))
    desk.clock.passed_s += TTL_S
    await desk.who(OLD.token(long_lived("bob")))
    assert desk.book.asked == [HERE, HERE]


async def test_a_new_key_is_found_by_its_unknown_name(desk: Desk) -> None:
    await desk.who(OLD.token(claims()))
    desk.book.published[HERE] = [OLD.jwk(), NEW.jwk()]
    desk.clock.passed_s += PAUSE_S
    assert (await desk.who(NEW.token(claims()))).owner == f"{HERE}|alice"
    assert (await desk.who(OLD.token(claims(sub="bob")))).owner == f"{HERE}|bob"


async def test_unknown_names_of_keys_ask_an_issuer_no_more_often_than_every_pause(
    desk: Desk,
) -> None:
    await desk.who(OLD.token(claims()))
    for tenth in range(200):
        desk.clock.passed_s = PAUSE_S * tenth / 10
        with pytest.raises(Unauthorized):
            await desk.who(Signer(NEW.private, f"unknown {tenth}").token(claims()))
    assert len(desk.book.asked) == 20
    assert set(desk.book.asked) == {HERE}


async def test_a_key_that_the_issuer_took_back_is_worth_nothing_after_the_time_to_live(
    desk: Desk,
) -> None:
    token = OLD.token(long_lived())
    await desk.who(token)
    desk.book.published[HERE] = [NEW.jwk()]
    desk.clock.passed_s += TTL_S - 1
    assert (await desk.who(token)).owner == f"{HERE}|alice"
    desk.clock.passed_s += 1
    with pytest.raises(Unauthorized):
        await desk.who(token)


async def test_many_requests_at_once_ask_once() -> None:
    clock, book = HandClock(), KeyBook()
    may_answer = asyncio.Event()

    async def slow(issuer: str) -> Sequence[PublicKey]:
        await may_answer.wait()
        return await book(issuer)

    book.published = {HERE: [OLD.jwk()]}
    issuer = Issuer(HERE, slow, clock, TTL_S)
    waiting = [asyncio.create_task(issuer.keys("RS256", "old")) for _ in range(50)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # who asked first leaves; the others still get their answer
    may_answer.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(isinstance(keys, list) and len(keys) == 1 for keys in found[1:])
    assert book.asked == [HERE]


# An issuer that does not answer


async def test_while_the_issuer_never_answered_nobody_is_judged(desk: Desk) -> None:
    desk.book.down.add(HERE)
    with pytest.raises(IssuerUnreachable):
        await desk.who(OLD.token(claims()))
    assert (await desk.who(OLD.token(claims(iss=THERE)))).owner == f"{THERE}|alice"


async def test_an_issuer_that_is_down_is_asked_every_pause_and_believed_when_it_is_back(
    desk: Desk,
) -> None:
    desk.book.down.add(HERE)
    for tenth in range(100):
        desk.clock.passed_s = PAUSE_S * tenth / 10
        with pytest.raises(IssuerUnreachable):
            await desk.who(OLD.token(claims()))
    assert len(desk.book.asked) == 10

    desk.book.down.clear()
    desk.clock.passed_s = PAUSE_S * 10
    assert (await desk.who(OLD.token(claims()))).owner == f"{HERE}|alice"
    with pytest.raises(Unauthorized):
        await desk.who(NEW.token(claims()))


async def test_keys_outlive_an_outage_of_their_issuer_for_a_time(desk: Desk) -> None:
    await desk.who(OLD.token(long_lived()))
    desk.book.down.add(HERE)
    desk.clock.passed_s += TTL_S + GRACE_S - 1
    assert (await desk.who(OLD.token(long_lived("bob")))).owner == f"{HERE}|bob"
    desk.clock.passed_s += PAUSE_S
    with pytest.raises(IssuerUnreachable):
        await desk.who(OLD.token(long_lived("carol")))


async def test_an_unknown_key_during_an_outage_is_nobodys_fault_yet(desk: Desk) -> None:
    await desk.who(OLD.token(claims()))
    desk.book.down.add(HERE)
    desk.clock.passed_s += PAUSE_S
    with pytest.raises(IssuerUnreachable):
        await desk.who(NEW.token(claims()))


async def test_an_error_of_ours_in_discovery_does_not_stop_the_next(desk: Desk) -> None:
    del desk.book.published[HERE]
    with pytest.raises(KeyError):
        await desk.who(OLD.token(claims()))
    desk.book.published[HERE] = [OLD.jwk()]
    desk.clock.passed_s += PAUSE_S
    assert (await desk.who(OLD.token(claims()))).owner == f"{HERE}|alice"


# Tokens that were proven


async def test_a_proven_token_is_not_proven_again_until_it_ends(desk: Desk) -> None:
    token = OLD.token(claims())
    first = await desk.who(token)
    desk.book.published[HERE] = []
    desk.clock.passed_s = TTL_S - 1
    assert await desk.who(token) is first


async def test_a_proven_token_ends_when_it_says_so(desk: Desk) -> None:
    good = claims()
    token = OLD.token(good | {"exp": good["iat"] + 10})
    await desk.who(token)
    desk.clock.passed_s = 69.9
    await desk.who(token)
    desk.clock.passed_s = 70
    with pytest.raises(Unauthorized) as caught:
        await desk.who(token)
    assert str(caught.value) == "The bearer token has expired."


async def test_no_more_tokens_are_remembered_than_allowed_and_none_in_plain() -> None:
    desk = Desk(most_remembered=3)
    desk.book.published[HERE] = [OLD.jwk()]
    tokens = [OLD.token(claims(sub=f"user {number}")) for number in range(8)]
    for token in tokens:
        await desk.who(token)
    remembered = desk.bearer._remembered
    assert len(remembered) == 3
    assert all(isinstance(mark, bytes) and len(mark) == 32 for mark in remembered)
    assert [(await desk.who(token)).owner for token in tokens] == [
        f"{HERE}|user {number}" for number in range(8)
    ]


async def test_refused_tokens_are_not_remembered(desk: Desk) -> None:
    for number in range(5):
        with pytest.raises(Unauthorized):
            await desk.who(Signer(NEW.private, "old").token(claims(sub=f"user {number}")))
    assert not desk.bearer._remembered
