"""What an authenticator is, and the one that lets everybody in."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

from tesp_api.domain.errors import TespError
from tesp_api.service import Principal

REALM: Final = "TES"
ANYBODY: Final = Principal(owner=None, sees_all=True)


class Unauthorized(TespError):
    """The request does not say who asks, or not truthfully; `challenge` tells how it could."""

    def __init__(self, message: str, challenge: str) -> None:
        super().__init__(message)
        self.challenge = challenge


class Authenticator(Protocol):
    """Tells who asks from a request's headers, whose names are in lower case."""

    schemes: Mapping[str, dict[str, Any]]
    """How to log in, as OpenAPI security schemes; none where nobody has to."""

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """Return who asks. Raises Unauthorized; IssuerUnreachable where it cannot be known now."""


class NoAuthentication:
    """Everybody may do everything. Credentials are ignored: real clients send empty ones."""

    schemes: Mapping[str, dict[str, Any]] = MappingProxyType({})

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """Return the same principal for all."""
        return ANYBODY


def credentials(headers: Mapping[str, str]) -> tuple[str, str]:
    """Return the scheme of the Authorization header, in lower case, and what follows it."""
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    return scheme.lower(), rest.strip(" ")
