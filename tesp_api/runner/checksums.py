"""Checksums that an HTTP answer gives of its content."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.transfer import Check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Their names in Digest (RFC 3230), Repr-Digest (RFC 9530) and x-goog-hash.
ALGORITHMS = {"md5": "md5", "sha": "sha1", "sha-256": "sha256", "sha-512": "sha512"}

PAIR = re.compile(r"\s*([A-Za-z0-9-]+)=:?([A-Za-z0-9+/]+={0,2}):?\s*")

LISTS = ("Digest", "Repr-Digest", "Content-Digest", "x-goog-hash")


class Announced(NamedTuple):
    """A checksum as an answer gives it."""

    header: str
    algorithm: str
    value: str  # in base64


class Checksum(Check):
    """A checksum that the content is to have."""

    def __init__(self, announced: Announced) -> None:
        import hashlib

        self.announced = announced
        self._sum = hashlib.new(announced.algorithm)

    def update(self, data: bytes) -> None:
        """Take the next piece."""
        self._sum.update(data)

    def verdict(self) -> str | None:
        """Return what is wrong, or None."""
        from binascii import b2a_base64

        found = b2a_base64(self._sum.digest(), newline=False).decode()
        if found.rstrip("=") == self.announced.value.rstrip("="):
            return None
        return (
            f"what came is not what {self.announced.header} announced ({self.announced.algorithm})"
        )


def checksums(header: Callable[[str], str]) -> list[Check]:
    """Return the checks of all that can be computed here; `header` returns a header's text."""
    checks: list[Check] = []
    for announced in _announced(header):
        try:
            checks.append(Checksum(announced))
        except ValueError:
            continue  # md5 on a node that forbids it
    return checks


def _announced(header: Callable[[str], str]) -> Iterator[Announced]:
    md5 = header("Content-MD5").strip()
    if md5:
        yield Announced("Content-MD5", "md5", md5)
    for name in LISTS:
        for part in header(name).split(","):
            pair = PAIR.fullmatch(part)
            if pair and pair[1].lower() in ALGORITHMS:
                yield Announced(name, ALGORITHMS[pair[1].lower()], pair[2])
