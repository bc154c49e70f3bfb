"""Bearer tokens of OpenID Connect: signed by an issuer that the operator trusts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final

from tesp_api.auth import token as tokens
from tesp_api.auth.authenticator import Unauthorized, credentials
from tesp_api.auth.claims import Terms, end_of, named
from tesp_api.auth.issuer import Issuer
from tesp_api.auth.signature import ALGORITHMS
from tesp_api.auth.token import InvalidToken, Token
from tesp_api.ports import Clock
from tesp_api.service import Principal

MOST_REMEMBERED: Final = 4_096


@dataclass(frozen=True, slots=True)
class Proven:
    """Whom a token names, believed until a moment of the monotonic clock."""

    principal: Principal
    until: float


class BearerAuthentication:
    """Believes a token whose issuer is one of `issuers`, if one of its keys has signed it.

    A proven token is remembered by its hash until it ends, at most for `ttl_s`: then it must be
    proven again, by the keys that the issuer has by then.
    """

    scheme: Final = "bearer"
    wanted: Final = "a bearer token"
    challenge: Final = tokens.CHALLENGE
    schemes: Mapping[str, dict[str, Any]] = MappingProxyType(
        {"BearerAuth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}}
    )

    def __init__(
        self,
        issuers: Iterable[Issuer],
        terms: Terms,
        clock: Clock,
        *,
        ttl_s: float,
        most_remembered: int = MOST_REMEMBERED,
    ) -> None:
        self._issuers = {issuer.name: issuer for issuer in issuers}
        self._terms = terms
        self._clock = clock
        self._ttl_s = ttl_s
        self._most_remembered = most_remembered
        self._remembered: dict[bytes, Proven] = {}

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """Return whom the token names. Raises Unauthorized, IssuerUnreachable."""
        scheme, text = credentials(headers)
        if scheme != self.scheme or not text:
            raise Unauthorized(f"This server wants {self.wanted}.", self.challenge)
        # The hash, so that no token lies about in memory.
        mark = sha256(text.encode("utf-8", "surrogatepass")).digest()
        known = self._remembered.get(mark)
        if known is not None and self._clock.monotonic() < known.until:
            return known.principal
        proven = await self._prove(text)
        self._remember(mark, proven)
        return proven.principal

    async def _prove(self, text: str) -> Proven:
        token = tokens.read(text)
        issuer = self._issuer(token)
        keys = await issuer.keys(token.algorithm, token.key_id)
        if not any(key.has_signed(token.signed, token.signature, token.algorithm) for key in keys):
            raise InvalidToken
        now = self._clock.now().timestamp()
        left_s = end_of(token.claims, self._terms, now) - now
        principal = named(token.claims, issuer.name, self._terms)
        return Proven(principal, self._clock.monotonic() + min(left_s, self._ttl_s))

    def _issuer(self, token: Token) -> Issuer:
        """Return the trusted issuer that the token claims. Raises InvalidToken; asks nobody."""
        name = token.claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None or token.algorithm not in ALGORITHMS:
            raise InvalidToken
        return issuer

    def _remember(self, mark: bytes, proven: Proven) -> None:
        self._remembered.pop(mark, None)
        if len(self._remembered) >= self._most_remembered:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[mark] = proven
