"""Takes a signed token (a JWT in compact form) apart. What it says is not believed here.

Whatever is not three parts of base64url, short enough, with JSON objects of which nothing has two
readings, ends in InvalidToken before any cryptography sees it.
"""

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

from tesp_api.auth.authenticator import REALM, Unauthorized

LONGEST: Final = 16_384
"""Characters of a token; web servers take no longer header than that."""
CHALLENGE: Final = f'Bearer realm="{REALM}"'

_COMPACT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
# A token of another kind, a notice of a logout for instance, may be signed by the same key.
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})

Claims = Mapping[str, object]


class InvalidToken(Unauthorized):
    """The token does not prove who asks. Which of its parts is wrong is not told."""

    def __init__(self, message: str = "The bearer token is not valid.") -> None:
        super().__init__(message, f'{CHALLENGE}, error="invalid_token"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token in parts: what is signed, by what, and what it claims. Nothing of it is proven."""

    algorithm: str
    key_id: str | None
    claims: Claims
    signed: bytes
    signature: bytes


def read(text: str) -> Token:
    """Return the parts of `text`. Raises InvalidToken."""
    parts = _COMPACT.fullmatch(text) if len(text) <= LONGEST else None
    if parts is None:
        raise InvalidToken
    header = _object(parts[1])
    # Where keys are is known from the issuer alone: `jwk`, `jku`, `x5c`, `x5u` are not looked at.
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not isinstance(key_id, str | None):
        raise InvalidToken
    # What `crit` names must be understood, and nothing is.
    if "crit" in header or not _is_access_token(header):
        raise InvalidToken
    return Token(
        algorithm=algorithm,
        key_id=key_id,
        claims=_object(parts[2]),
        signed=f"{parts[1]}.{parts[2]}".encode(),
        signature=_decoded(parts[3]),
    )


def _is_access_token(header: Claims) -> bool:
    kind = header.get("typ", "JWT")
    return isinstance(kind, str) and kind.lower() in _TYPES


def _object(part: str) -> Claims:
    try:
        value = json.loads(
            _decoded(part).decode(), object_pairs_hook=_unambiguous, parse_constant=_refuse
        )
    except (ValueError, RecursionError):
        raise InvalidToken from None
    if not isinstance(value, dict):
        raise InvalidToken
    return value


def _decoded(part: str) -> bytes:
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise InvalidToken from None


def _unambiguous(pairs: Sequence[tuple[str, object]]) -> Claims:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
