"""pyftpdlib as a process: `ftp_process.py ORDERS`, a file of JSON; see tests/servers/ftp.py.

Transfers that meet a fault are counted over all connections of the process.
"""

import itertools
import json
import logging
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import DTPHandler, FTPHandler, TLS_DTPHandler, TLS_FTPHandler
from pyftpdlib.log import config_logging
from pyftpdlib.servers import FTPServer

ALL = "elradfmwMT"
READ = "elr"
AT_ONCE = struct.pack("ii", 1, 0)


def main() -> None:
    orders = json.loads(Path(sys.argv[1]).read_text())
    config_logging(level="DEBUG")
    handler = _handler(orders)
    with FTPServer((orders["host"], orders["port"]), handler) as server:
        server.serve_forever()


def _handler(orders: dict[str, Any]) -> type:
    secure = orders["certificate"] is not None
    base = TLS_FTPHandler if secure else FTPHandler
    known = {k: v for k, v in base.proto_cmds.items() if k not in orders["without"]}
    more: dict[str, Any] = {"proto_cmds": known, "authorizer": _authorizer(orders)}
    more |= {"timeout": 60, "auth_failed_timeout": 0.1}
    if secure:
        tls = {"tls_control_required": True, "tls_data_required": True}
        more |= {"certfile": orders["certificate"], **tls}
    if orders["cut_after"] is not None:
        more["dtp_handler"] = _cutting(orders, TLS_DTPHandler if secure else DTPHandler)
    busy = _Busy(orders["busy_times"])
    more |= {name: busy.before(getattr(base, name)) for name in ("ftp_RETR", "ftp_STOR")}
    return type("Handler", (base,), more)


def _authorizer(orders: dict[str, Any]) -> DummyAuthorizer:
    authorizer = DummyAuthorizer()
    authorizer.add_user(orders["username"], orders["password"], orders["directory"], perm=ALL)
    if orders["anonymous"]:
        authorizer.add_anonymous(orders["directory"], perm=READ)
    return authorizer


class _Busy:
    def __init__(self, times: int) -> None:
        self._left = times

    def before(self, command: Any) -> Any:
        def answer(handler: Any, file: str, *more: Any, **named: Any) -> Any:
            if self._left == 0:
                return command(handler, file, *more, **named)
            self._left -= 1
            handler.respond("450 Busy, come again.")
            return None

        return answer


def _cutting(orders: dict[str, Any], base: type) -> type:
    how = {"after": orders["cut_after"], "times": orders["cut_times"], "liar": orders["liar"]}
    bases = (_Cutting,) if base is DTPHandler else (_Cutting, base)
    return type("Cutting", bases, {**how, "numbers": itertools.count(1)})


class _Cutting(DTPHandler):
    """A data connection that breaks after so many bytes, for the first so many files."""

    after: int
    times: int
    liar: bool
    numbers: Iterator[int]
    number = 0

    def use_sendfile(self) -> bool:
        return False

    def send(self: Any, data: bytes) -> int:
        if not self.cuts():
            return int(super().send(data))
        sent = int(super().send(data[: self.after - self.tot_bytes_sent]))
        if self.tot_bytes_sent >= self.after:
            self.break_off()
        return sent

    def recv(self: Any, size: int) -> bytes:
        found = bytes(super().recv(size))
        if self.cuts() and self.tot_bytes_received + len(found) >= self.after:
            self.break_off()
        return found

    def cuts(self: Any) -> bool:
        if self.file_obj is not None and not self.number:
            self.number = next(self.numbers)
        return bool(0 < self.number <= self.times)

    def break_off(self: Any) -> None:
        if self.liar:
            self._resp = ("226 Transfer complete.", logging.debug)
            self.close()
        else:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
        raise ConnectionResetError


if __name__ == "__main__":
    main()
