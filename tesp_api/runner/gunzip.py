"""What comes compressed though nobody asked for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tesp_api.runner.streams import CHUNK
from tesp_api.runner.transfer import Transient

if TYPE_CHECKING:
    from collections.abc import Iterator

GZIP = 16 + 15  # zlib's word for a gzip header and the largest window


class Gunzip:
    """Decompresses gzip as it comes, also several members after another."""

    def __init__(self) -> None:
        import zlib

        self._member = zlib.decompressobj(GZIP)
        self._begun = False

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` becomes, in pieces of a bounded size."""
        import zlib

        while data:
            if self._member.eof:
                self._member = zlib.decompressobj(GZIP)
            self._begun = True
            try:
                yield self._member.decompress(data, CHUNK)
            except zlib.error as error:
                raise Transient(f"what came is no proper gzip: {error}") from error
            data = self._member.unconsumed_tail or self._member.unused_data

    def end(self) -> None:
        """Raise Transient if there should be more."""
        if self._begun and not self._member.eof:
            raise Transient("what came is not all of its gzip")
