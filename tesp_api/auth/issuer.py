"""The keys of one issuer: found by OpenID Connect discovery, kept a while, asked for seldom.

Whatever tokens come, an issuer is asked once at a time, and not more often than every `PAUSE_S`.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from loguru import logger

from tesp_api.auth.fetch import get_json
from tesp_api.auth.signature import PublicKey, read_keys
from tesp_api.domain.errors import IssuerUnreachable
from tesp_api.domain.issuers import may_hold_keys
from tesp_api.ports import Clock

DEADLINE_S: Final = 5.0
"""For both requests together; the least patient client waits ten."""
PAUSE_S: Final = 5.0
"""Shortest time from the end of one discovery to the next, whether it found something or not."""
GRACE_S: Final = 3_600.0
"""How much longer keys are used whose issuer does not answer."""
WELL_KNOWN: Final = "/.well-known/openid-configuration"

Discover = Callable[[str], Awaitable[Sequence[PublicKey]]]


class Discovery:
    """Finds out an issuer's keys. `tls` says whose certificates are trusted."""

    def __init__(self, tls: ssl.SSLContext, deadline_s: float = DEADLINE_S) -> None:
        self._tls = tls
        self._deadline_s = deadline_s

    async def __call__(self, issuer: str) -> Sequence[PublicKey]:
        """Return the keys that the issuer publishes, at least one. Raises IssuerUnreachable."""
        try:
            async with asyncio.timeout(self._deadline_s):
                location = await self._location(issuer)
                return _keys(location, await get_json(location, self._tls))
        except TimeoutError as error:
            message = f"{issuer} does not answer within {self._deadline_s:g} s"
            raise IssuerUnreachable(message) from error

    async def _location(self, issuer: str) -> str:
        document = await get_json(issuer.rstrip("/") + WELL_KNOWN, self._tls)
        described = document if isinstance(document, dict) else {}
        if described.get("issuer") != issuer:
            raise IssuerUnreachable(f"{issuer} describes itself as another issuer")
        location = described.get("jwks_uri")
        if not isinstance(location, str) or not may_hold_keys(location, issuer):
            raise IssuerUnreachable(f"{issuer} names no jwks_uri that may be asked")
        return location


def _keys(location: str, document: object) -> Sequence[PublicKey]:
    entries = document.get("keys") if isinstance(document, dict) else None
    keys = read_keys(entries) if isinstance(entries, list) else ()
    if not keys:
        raise IssuerUnreachable(f"{location} holds no key that could be used")
    return keys


class Issuer:
    """One that is trusted, and its keys, which are asked for anew after `ttl_s`."""

    def __init__(self, name: str, discover: Discover, clock: Clock, ttl_s: float) -> None:
        self.name = name
        self._discover = discover
        self._clock = clock
        self._ttl_s = ttl_s
        self._keys: Sequence[PublicKey] = ()
        self._found_at = float("-inf")
        self._asked_at = float("-inf")
        self._trouble: str | None = None
        self._asking: asyncio.Task[None] | None = None

    async def keys(self, algorithm: str, key_id: str | None) -> Sequence[PublicKey]:
        """Return the keys that may have signed such a token; none if there is none.

        Raises IssuerUnreachable where that cannot be known now.
        """
        if self._age_s() >= self._ttl_s:
            await self._refresh()
        fitting = self._fitting(algorithm, key_id)
        if not fitting:  # the issuer may have a new one
            await self._refresh()
            fitting = self._fitting(algorithm, key_id)
        if not fitting and self._trouble is not None:
            raise IssuerUnreachable(self._trouble)
        return fitting

    def _fitting(self, algorithm: str, key_id: str | None) -> Sequence[PublicKey]:
        return [key for key in self._keys if key.fits(algorithm, key_id)]

    def _age_s(self) -> float:
        return self._clock.monotonic() - self._found_at

    async def _refresh(self) -> None:
        """Ask the issuer, or wait for what another request asks, or do nothing in the pause."""
        if self._asking is None:
            if self._clock.monotonic() - self._asked_at < PAUSE_S:
                return
            self._asking = asyncio.create_task(self._ask(), name=f"discovery of {self.name}")
        # Whoever leaves does not end it for the others, nor start it again.
        await asyncio.shield(self._asking)

    async def _ask(self) -> None:
        try:
            self._keys = await self._discover(self.name)
            self._found_at = self._clock.monotonic()
            self._trouble = None
        except IssuerUnreachable as error:
            self._fail(str(error))
        finally:
            self._asked_at = self._clock.monotonic()
            self._asking = None

    def _fail(self, trouble: str) -> None:
        self._trouble = trouble
        if self._age_s() >= self._ttl_s + GRACE_S:
            self._keys = ()
        logger.warning("issuer unreachable", issuer=self.name, reason=trouble)
