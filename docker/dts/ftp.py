"""`ftp.py PORT FIRST-LAST`: FTP on the directory that is the bucket `files`, for the stack's login.

A file comes to be when all of it is there, as it does by HTTP and S3: it is written beside the
tree and renamed. A connection that is reset leaves what was there before; one that ends in order
before its time cannot be told from a whole one, as ever with FTP.
"""

import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import IO, Any, Final

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.filesystems import AbstractedFS
from pyftpdlib.handlers import DTPHandler, FTPHandler
from pyftpdlib.servers import FTPServer

LOGIN: Final = Path("/run/dts/login.json")
FILES: Final = "/data/s3/files"
BESIDE: Final = "/data/tmp"
S3_OWN: Final = ".sgwtmp"
RIGHTS: Final = "elrdfmw"
"""All but to append: list, read, delete, rename, make directories, write."""


class Beside(AbstractedFS):
    """Files are written beside the tree."""

    def open(self, filename: str, mode: str) -> IO[Any]:
        """Open to read, or anew; not at a place in the middle, where a file is being changed."""
        if "r" in mode and "+" not in mode:
            return open(filename, mode)
        if "w" not in mode:
            raise PermissionError("A file is written from its beginning here.")
        if os.path.isdir(filename):
            raise IsADirectoryError("Is a directory.")
        file = self.mkstemp(dir=BESIDE, mode=mode)
        file.target = filename
        return file

    def listdir(self, path: str) -> list[str]:
        """Leave out what S3 keeps of uploads that are not complete."""
        return [name for name in super().listdir(path) if name != S3_OWN]


class Whole(DTPHandler):
    """The data connection that gives a file its name when it was received whole."""

    def recv(self, size: int) -> bytes:
        """Tell a reset from the end, which is the same to pyftpdlib."""
        with contextlib.suppress(BlockingIOError):
            self.socket.recv(1, socket.MSG_PEEK)
        return bytes(super().recv(size))

    def close(self) -> None:
        """Before the answer is sent: who reads it may look for the file."""
        target = getattr(self.file_obj, "target", None)
        if target is not None and not self._closed:
            self.file_obj.close()
            self._settle(self.file_obj.name, target)
        super().close()

    def _settle(self, written: str, target: str) -> None:
        if not self.transfer_finished:
            os.unlink(written)
            return
        try:
            os.replace(written, target)
        except OSError as error:
            self._resp = (f"451 {error.strerror}.", self.cmd_channel.log)
            os.unlink(written)


def main(port: str, passive: str) -> None:
    """Serve until the end."""
    known = json.loads(LOGIN.read_text(encoding="utf-8"))
    authorizer = DummyAuthorizer()
    authorizer.add_user(known["username"], known["password"], FILES, perm=RIGHTS)
    first, last = map(int, passive.split("-"))
    own = {
        "authorizer": authorizer,
        "abstracted_fs": Beside,
        "dtp_handler": Whole,
        "passive_ports": range(first, last + 1),
        "banner": "Ready.",
    }
    FTPServer(("", int(port)), type("Handler", (FTPHandler,), own)).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
