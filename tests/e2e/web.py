"""A web server of the test: it serves and keeps files, and its list of requests is a ledger."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.servers.in_thread import in_thread
from tests.servers.process import HOST


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, with the moment of its end."""

    method: str
    path: str
    at: float


@dataclass
class Web:
    """`files` are served by GET and kept by PUT, or by a form's POST below `/form/`.

    A PUT below `/form/` is refused with 405.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ledger: list[Entry] = field(default_factory=list)
    url: str = ""

    def count(self, method: str, path: str) -> int:
        """Return how often that was asked for and answered with success."""
        return sum((entry.method, entry.path) == (method, path) for entry in self.ledger)

    def offer(self, path: str, content: bytes) -> str:
        """Serve `content` at `path`, and return its URL."""
        self.files[path] = content
        return self.url + path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def do_GET(self) -> None:
        content = self.web.files.get(self.path)
        self._answer(404 if content is None else 200, content or b"")

    def do_PUT(self) -> None:
        content = self._body()
        if self.path.startswith("/form/"):
            self._answer(405)
        else:
            self.web.files[self.path] = content
            self._answer(201)

    def do_POST(self) -> None:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        form = BytesParser(policy=HTTP).parsebytes(head + self._body())
        for part in form.iter_parts():
            if part.get_param("name", header="content-disposition") == "file":
                self.web.files[self.path] = part.get_payload(decode=True)
        self._answer(200)

    def log_message(self, format: str, *args: Any) -> None: ...

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, status: int, content: bytes = b"") -> None:
        if status < 300:
            self.web.ledger.append(Entry(self.command, self.path, time.monotonic()))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Web]:
    web = Web()
    with in_thread(_Handler, web=web) as port:
        web.url = f"http://{HOST}:{port}"
        yield web
