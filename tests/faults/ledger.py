"""The third party: what really happened is counted here, by nobody who is under test.

An executor's first act is a request to `/start/…`; inputs come from `/in/…`, outputs go to
`/out/…`. What is counted is what arrived, whether or not the answer came through.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

from tests.faults.bucket import CountedBucket
from tests.servers.in_thread import in_thread

EVERYWHERE: Final = "0.0.0.0"


@dataclass
class Ledger:
    """Counts requests by method and path; `on` does something when one arrives, the first time."""

    port: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    bucket: CountedBucket | None = None
    """For tasks whose outputs go to S3."""
    _acts: dict[str, Callable[[], None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def on(self, path: str, act: Callable[[], None]) -> None:
        """Have `act` done before the first request for `path` is answered."""
        self._acts[path] = act

    def starts(self, name: str) -> list[int]:
        """Return how often each executor of the task was started."""
        prefix = f"/start/{name}/"
        with self._lock:
            found = {path: n for (_, path), n in self.counts.items() if path.startswith(prefix)}
        return [found[path] for path in sorted(found)]

    def sent(self, name: str) -> int:
        """Return how often the task's output was sent."""
        return self.counts["PUT", f"/out/{name}"]

    def arrived(self, method: str, path: str) -> None:
        with self._lock:
            self.counts[method, path] += 1
            act = self._acts.pop(path, None)
        if act is not None:
            act()


class _Handler(BaseHTTPRequestHandler):
    ledger: Ledger

    def do_GET(self) -> None:
        self.ledger.arrived("GET", self.path)
        self._answer(200, b"input\n")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.ledger.arrived("PUT", self.path)
        self._answer(201, b"")

    def log_message(self, format: str, *args: Any) -> None: ...

    def _answer(self, status: int, content: bytes) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            return  # who asked may have been killed since


@contextmanager
def ledger() -> Iterator[Ledger]:
    """Keep one, on every address of this machine: containers have their own network."""
    kept = Ledger()
    with in_thread(_Handler, EVERYWHERE, ledger=kept) as kept.port:
        yield kept
