"""HTTP Basic: one user with one password."""

import base64
import binascii
import hmac
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from tesp_api.auth.authenticator import REALM, Unauthorized, credentials
from tesp_api.service import Principal


class BasicAuthentication:
    """One user with one password, who may be an administrator: `sees_all`."""

    scheme: Final = "basic"
    wanted: Final = "a user name and a password"
    challenge: Final = f'Basic realm="{REALM}", charset="UTF-8"'
    schemes: Mapping[str, dict[str, Any]] = MappingProxyType(
        {"BasicAuth": {"type": "http", "scheme": "basic"}}
    )

    def __init__(self, username: str, password: str, *, sees_all: bool = False) -> None:
        self._expected = f"{username}:{password}".encode()
        self._principal = Principal(owner=f"basic:{username}", sees_all=sees_all)

    async def principal(self, headers: Mapping[str, str]) -> Principal:
        """Compare in constant time, so that nothing is learnt from how long a refusal takes."""
        if hmac.compare_digest(_decoded(headers), self._expected):
            return self._principal
        raise Unauthorized(f"This server wants {self.wanted}.", self.challenge)


def _decoded(headers: Mapping[str, str]) -> bytes:
    scheme, encoded = credentials(headers)
    if scheme != BasicAuthentication.scheme:
        return b""
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""
