"""Bytes on their way: from file to file, and out of a program."""

from __future__ import annotations

import os
import re

CHUNK = 1 << 20


def copy(source: int, sink: int) -> None:
    """Copy one open file into another, in pieces."""
    while True:
        data = os.read(source, CHUNK)
        if not data:
            return
        write_all(sink, data)


def write_all(sink: int, data: bytes) -> None:
    """Write all of `data`, which one call may not."""
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]


class Tail:
    """The last `limit` bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._data = bytearray()
        self._cut = False

    def write(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        self._data += data
        if len(self._data) > 2 * self.limit + CHUNK:
            self._trim()

    def _trim(self) -> None:
        if len(self._data) > self.limit:
            del self._data[: len(self._data) - self.limit]
            self._cut = True

    def text(self) -> str:
        """Return the tail as text, with a mark for each byte that is none."""
        self._trim()
        data = bytes(self._data)
        if self._cut:
            # A character cut in two at the start is no character.
            data = re.sub(rb"\A[\x80-\xbf]{1,3}", b"", data)
        return data.decode("utf-8", "replace")


class Sink:
    """Where one stream of an executor goes: the file the task declared, if any, and a tail."""

    def __init__(self, tail: Tail, file: int | None = None) -> None:
        self.tail = tail
        self.file = file
        self.failure: OSError | None = None

    def write(self, data: bytes) -> None:
        """Take the next piece of the stream; a failure is kept for later."""
        self.tail.write(data)
        if self.file is not None and self.failure is None:
            try:
                write_all(self.file, data)
            except OSError as error:
                self.failure = error

    def restart(self) -> None:
        """Forget what was written: it was the engine's word, not the program's."""
        self.tail = Tail(self.tail.limit)
        if self.file is not None:
            os.ftruncate(self.file, 0)
            os.lseek(self.file, 0, os.SEEK_SET)
