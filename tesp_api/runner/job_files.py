"""The small files that the server reads while, and after, the task runs."""

from __future__ import annotations

import os

from tesp_api.runner.streams import write_all
from tesp_api.runner.trouble import disk_is_full

RESERVE = "tes_reserve"

RESERVE_BYTES = 3 << 20


class JobFiles:
    """The small files that the server reads while, and after, the task runs."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.spare = os.path.abspath(RESERVE)

    def reserve(self) -> None:
        """Keep some of the disk, to be freed when it is full and the report is still to write."""
        file = os.open(self.spare, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(file, 0, RESERVE_BYTES)
        finally:
            os.close(file)

    def release(self) -> None:
        """Free what was kept of the disk."""
        try:
            os.unlink(self.spare)
        except FileNotFoundError:
            return

    def write(self, name: str, text: str, *, durable: bool = True) -> None:
        """Put `text` where it is seen whole or not at all; a crash may lose it unless `durable`."""
        path = os.path.join(self.directory, name)
        self._saved(f"{path}.part", os.O_TRUNC, text, durable)
        os.replace(f"{path}.part", path)

    def append(self, name: str, text: str) -> None:
        """Add `text` to the end, on the disk when this returns."""
        self._saved(os.path.join(self.directory, name), os.O_APPEND, text, True)

    def _saved(self, path: str, flag: int, text: str, durable: bool) -> None:
        try:
            _save(path, flag, text, durable)
        except OSError as error:
            if not disk_is_full(error):
                raise
            self.release()
            _save(path, flag, text, durable)


def _save(path: str, flag: int, text: str, durable: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o644)
    try:
        write_all(file, text.encode())
        if durable:
            os.fsync(file)
    finally:
        os.close(file)
