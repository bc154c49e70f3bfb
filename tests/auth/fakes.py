"""A clock moved by hand, and issuers whose keys need no network."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tesp_api.auth import BearerAuthentication, Issuer, Terms
from tesp_api.auth.signature import PublicKey, read_keys
from tesp_api.domain.errors import IssuerUnreachable
from tesp_api.service import Principal

BEGINNING = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HERE = "https://issuer.example/realms/tes"
THERE = "https://other.example"
AUDIENCE = "tes"
TTL_S = 300.0


class HandClock:
    """Clock that goes on when told."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.passed_s)

    def monotonic(self) -> float:
        return 1000.0 + self.passed_s

    async def sleep(self, seconds: float) -> None:
        self.passed_s += seconds


class KeyBook:
    """Discover: the keys that each issuer publishes now, and who was asked."""

    def __init__(self) -> None:
        self.published: dict[str, list[Any]] = {HERE: [], THERE: []}
        self.down: set[str] = set()
        self.asked: list[str] = []

    async def __call__(self, issuer: str) -> Sequence[PublicKey]:
        self.asked.append(issuer)
        if issuer in self.down:
            raise IssuerUnreachable(f"{issuer} is down")
        return read_keys(self.published[issuer])


class Desk:
    """A BearerAuthentication with all that it stands on."""

    def __init__(self, terms: Terms | None = None, most_remembered: int = 10) -> None:
        self.clock = HandClock()
        self.book = KeyBook()
        issuers = [Issuer(name, self.book, self.clock, TTL_S) for name in (HERE, THERE)]
        self.bearer = BearerAuthentication(
            issuers,
            terms or Terms(audience=AUDIENCE),
            self.clock,
            ttl_s=TTL_S,
            most_remembered=most_remembered,
        )

    async def who(self, token: str) -> Principal:
        return await self.bearer.principal({"authorization": f"Bearer {token}"})


def claims(**changes: Any) -> dict[str, Any]:
    """Return claims that are good at the beginning; a change to None takes one away."""
    now = int(BEGINNING.timestamp())
    good = {"iss": HERE, "sub": "alice", "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + 600}
    return {name: value for name, value in (good | changes).items() if value is not None}
