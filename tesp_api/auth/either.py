"""Several ways to log in, of which a request takes one."""

from collections.abc import Mapping
from typing import Any, Protocol

from tesp_api.auth.authenticator import Authenticator, Unauthorized, credentials
from tesp_api.service import Principal


class Way(Authenticator, Protocol):
    """An authenticator that can stand beside others."""

    @property
    def scheme(self) -> str:
        """The word in the Authorization header that chooses it, in lower case."""

    @property
    def wanted(self) -> str:
        """What it wants, for a sentence."""

    @property
    def challenge(self) -> str:
        """What WWW-Authenticate says of it."""


class EitherAuthentication:
    """Asks the way that the request has chosen; who fails is told of all of them."""

    def __init__(self, *ways: Way) -> None:
        self._ways = {way.scheme: way for way in ways}
        self.schemes: Mapping[str, dict[str, Any]] = {
            name: scheme for way in ways for name, scheme in way.schemes.items()
        }

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """Return who asks. Raises Unauthorized with every way's challenge."""
        chosen = self._ways.get(credentials(headers)[0])
        if chosen is None:
            wanted = ", or ".join(way.wanted for way in self._ways.values())
            raise Unauthorized(f"This server wants {wanted}.", self._challenges())
        try:
            return await chosen.principal(headers)
        except Unauthorized as error:
            challenges = self._challenges({chosen.scheme: error.challenge})
            raise Unauthorized(str(error), challenges) from None

    def _challenges(self, told: Mapping[str, str] | None = None) -> str:
        told = told or {}
        return ", ".join(told.get(name, way.challenge) for name, way in self._ways.items())
