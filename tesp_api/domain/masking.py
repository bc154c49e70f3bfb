"""What must not be read in logs, error messages and reports, blotted out of any text."""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote, quote_plus

BLOT: Final = "***"
SHORTEST_SECRET: Final = 4
"""A shorter one would blot out ordinary words, and is guessed faster than it is leaked."""

# User and password of a URL: all up to the last @ before the path, since people forget to encode.
_USERINFO: Final = re.compile(r"(?<=://)[^\s/?#'\"<>]*@")
# What opens doors in a query or form: Pulsar's token, presigned URLs of S3, GS, Azure; OAuth.
_PARAMETER: Final = re.compile(
    r"(?i)\b((?:private_token|access_token|refresh_token|id_token|token|password|secret|sig|signature"
    r"|x-(?:amz|goog)-(?:signature|credential|security-token))=)[^&\s'\"<>]+"
)
# The header in a dump, in a mapping's or list's print, in a command line. What follows Basic and
# Bearer is one word; of anything else nothing is known, so all up to the next quote or line goes.
_HEADER: Final = re.compile(
    r"(?i)\b((?:proxy-)?authorization\\?['\"]?\s*[:=,]\s*(?:b?\\?['\"])?)"
    r"(?:(basic|bearer)\s+[^\s'\",\\]+|[^'\"\r\n\\]+)"
)
_JWT: Final = re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*")


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` without `secrets` (see `spellings`), credentials in URLs, tokens, headers."""
    for secret in secrets:
        text = text.replace(secret, BLOT)
    text = _USERINFO.sub(BLOT + "@", text)
    text = _PARAMETER.sub(rf"\1{BLOT}", text)
    text = _HEADER.sub(_without_credentials, text)
    return _JWT.sub(BLOT, text)


def spellings(secrets: Iterable[str]) -> tuple[str, ...]:
    """Return the secrets worth looking for, also as URLs spell them, in the order to blot out."""
    long = [secret for secret in secrets if len(secret) >= SHORTEST_SECRET]
    found = {
        form for secret in long for form in (secret, quote(secret, safe=""), quote_plus(secret))
    }
    # A secret may be a part of another one.
    return tuple(sorted(found, key=len, reverse=True))


def _without_credentials(match: re.Match[str]) -> str:
    name, scheme = match.groups()
    return f"{name}{scheme} {BLOT}" if scheme else f"{name}{BLOT}"
