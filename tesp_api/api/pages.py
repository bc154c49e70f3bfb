"""Page tokens: a place in a list, readable by this server only.

The number inside counts everybody's tasks, so it is enciphered; under the same key a token of one
replica is good at the others, and after a restart.
"""

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from hashlib import blake2b
from typing import Final

_SIZE: Final = 8


class PageTokens:
    """Makes and reads tokens under one key."""

    def __init__(self, key: bytes) -> None:
        self._key = blake2b(key, digest_size=32).digest()

    def issue(self, before: int) -> str:
        """Return the token for the page that follows `before`."""
        plain = before.to_bytes(_SIZE)
        seal = self._hash(b"seal", plain)
        return urlsafe_b64encode(seal + self._mask(seal, plain)).decode().rstrip("=")

    def read(self, token: str) -> int:
        """Return what was put in. Raises ValueError for anything but a token of this key."""
        try:
            raw = urlsafe_b64decode(token.encode("ascii") + b"==")
        except (NotBase64, UnicodeEncodeError):
            raise ValueError("is no token") from None
        seal, masked = raw[:_SIZE], raw[_SIZE:]
        plain = self._mask(seal, masked)
        if not hmac.compare_digest(seal, self._hash(b"seal", plain)) or self._spelt_otherwise(
            token, plain
        ):
            raise ValueError("is no token")
        return int.from_bytes(plain)

    def _spelt_otherwise(self, token: str, plain: bytes) -> bool:
        return len(plain) != _SIZE or token != self.issue(int.from_bytes(plain))

    def _mask(self, seal: bytes, text: bytes) -> bytes:
        return bytes(a ^ b for a, b in zip(text, self._hash(b"mask", seal), strict=False))

    def _hash(self, use: bytes, data: bytes) -> bytes:
        return blake2b(data, key=self._key, person=use, digest_size=_SIZE).digest()
