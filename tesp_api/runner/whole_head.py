"""Answers whose head must be whole: http.client takes one that breaks off for one that ends."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from socket import socket


@lru_cache(maxsize=1)
def response_class() -> type[HTTPResponse]:
    """Return the class of answers to be used; made when it is needed, for its parent is slow."""
    from http.client import HTTPException, HTTPResponse
    from io import BufferedReader

    class Lines(BufferedReader):
        """Sees if a line was the last because nothing more came."""

        broken = False

        def readline(self, size: int | None = -1) -> bytes:
            """Return the next line."""
            line = super().readline(-1 if size is None else size)
            self.broken = self.broken or not line.endswith(b"\n")
            return line

    class Whole(HTTPResponse):
        """An answer that is no answer if its head broke off."""

        def __init__(
            self,
            sock: socket,
            debuglevel: int = 0,
            method: str | None = None,
            url: str | None = None,
        ) -> None:
            super().__init__(sock, debuglevel, method, url)
            self.lines = Lines(self.fp.detach())
            self.fp = self.lines

        def begin(self) -> None:
            """Read the head."""
            super().begin()
            if self.lines.broken:
                raise HTTPException("the head of the answer broke off")

    return Whole
