"""Proxies that stand between the server and what it needs, and do harm on purpose.

`Between` speaks HTTP and harms single requests; `Wire` knows only TCP and harms connections. Both
are threads of the test; what they did is counted.
"""

import contextlib
import http.client
import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any, Final
from urllib.parse import urlsplit

from tests.servers.in_thread import in_thread

HOST: Final = "127.0.0.1"
HARMS: Final[Mapping[str, str]] = {
    "500 instead of an answer, not passed on": "refuse",
    "500 instead of an answer, passed on": "belie",
    "connection closed, not passed on": "drop",
    "connection closed, passed on": "deafen",
    "no answer at all, not passed on": "swallow",
    "no answer at all, passed on": "mute",
    "passed on only after the caller gave up": "delay",
}
"""What can happen to a request, and the method of the handler that does it."""


class Between:
    """Passes requests on to `upstream`, or harms them: those with `odds`, of the kinds `harms`."""

    def __init__(self, upstream: int, patience_s: float, seed: int) -> None:
        self.port = 0
        self.upstream = upstream
        self.silence_s = patience_s * 1.5
        """Longer than the caller waits."""
        self.harms: tuple[str, ...] = ()
        self.odds = 0.0
        self.down = False
        """Whether every connection is closed at once."""
        self.done: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def choose(self) -> str:
        """Return the harm for the next request; empty for none."""
        with self._lock:
            if not self.harms or self._rng.random() >= self.odds:
                return ""
            harm = self._rng.choice(self.harms)
            self.done[harm] += 1
            return harm


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    between: Between

    def handle_one_request(self) -> None:
        with contextlib.suppress(OSError):
            super().handle_one_request()
            return
        self.close_connection = True

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.between.down:
            self.close_connection = True
        elif harm := self.between.choose():
            getattr(self, HARMS[harm])(body)
        else:
            self._answer(*self._passed(body))

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def refuse(self, _body: bytes) -> None:
        self._answer(500, b"Internal Server Error")

    def belie(self, body: bytes) -> None:
        self._passed(body)
        self._answer(500, b"Internal Server Error")

    def drop(self, _body: bytes) -> None:
        self.close_connection = True

    def deafen(self, body: bytes) -> None:
        self._passed(body)
        self.close_connection = True

    def swallow(self, _body: bytes) -> None:
        self.close_connection = True
        time.sleep(self.between.silence_s)

    def mute(self, body: bytes) -> None:
        self._passed(body)
        self.close_connection = True
        time.sleep(self.between.silence_s)

    def delay(self, body: bytes) -> None:
        time.sleep(self.between.silence_s)
        self._passed(body)
        self.close_connection = True

    def _passed(self, body: bytes) -> tuple[int, bytes]:
        upstream = http.client.HTTPConnection(HOST, self.between.upstream, timeout=30)
        try:
            upstream.request(self.command, self.path, body or None)
            answer = upstream.getresponse()
            return answer.status, answer.read()
        except OSError:
            return 502, b""
        finally:
            upstream.close()

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def between(upstream: int, *, patience_s: float, seed: int) -> Iterator[Between]:
    """Stand before the HTTP server on port `upstream`, whose callers wait `patience_s`."""
    made = Between(upstream, patience_s, seed)
    with in_thread(_Handler, between=made) as made.port:
        yield made


class Wire:
    """TCP to `upstream`, which can be cut and laid again, or go silent without a word."""

    def __init__(self, upstream: tuple[str, int]) -> None:
        self._upstream = upstream
        self._listener = socket.create_server((HOST, 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._whole = True
        self._there, self._back = threading.Event(), threading.Event()
        self._closing = False
        self.mend()

    def cut(self) -> None:
        """End all connections, and refuse new ones until `mend`; what was held back is lost."""
        self._whole = False
        with self._lock:
            for pair in self._pairs:
                _end(*pair)

    def mend(self) -> None:
        self._whole = True
        self._there.set()
        self._back.set()

    def freeze(self) -> None:
        """Let nothing through any more; nobody is told."""
        self._there.clear()
        self._back.clear()

    def deafen(self) -> None:
        """Let through what is said to `upstream`, and nothing that it says."""
        self._back.clear()

    def serve(self) -> None:
        while not self._closing:
            if select.select([self._listener], [], [], 0.05)[0]:
                threading.Thread(target=self._relay, args=self._listener.accept()[:1]).start()

    def close(self) -> None:
        self._closing = True
        self.mend()
        self.cut()
        self._listener.close()

    def _relay(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            if not self._whole:
                return
            with socket.create_connection(self._upstream) as server:
                self._join(client, server)

    def _join(self, client: socket.socket, server: socket.socket) -> None:
        with self._lock:
            self._pairs.add((client, server))
        back = threading.Thread(target=_pump, args=(server, client, self._back))
        back.start()
        _pump(client, server, self._there)
        back.join()
        with self._lock:
            self._pairs.discard((client, server))


def _pump(source: socket.socket, target: socket.socket, flows: threading.Event) -> None:
    """Pass on what comes, as long as it `flows`; its end too."""
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            flows.wait()
            target.sendall(chunk)
    flows.wait()
    _end(source, target)


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextmanager
def wire(upstream: tuple[str, int]) -> Iterator[Wire]:
    made = Wire(upstream)
    thread = threading.Thread(target=made.serve)
    thread.start()
    try:
        yield made
    finally:
        made._closing = True
        thread.join()
        made.close()


@contextmanager
def wire_to(uri: str) -> Iterator[tuple[Wire, str]]:
    """Lay a line to where the URI leads; give the URI that leads through it too."""
    parts = urlsplit(uri)
    assert parts.port, uri
    with wire((parts.hostname or HOST, parts.port)) as line:
        login, at, _ = parts.netloc.rpartition("@")
        yield line, parts._replace(netloc=f"{login}{at}{HOST}:{line.port}").geturl()
