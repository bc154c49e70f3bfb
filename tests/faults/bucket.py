"""The third party before an S3 server: whatever becomes an object there passes here and is counted.

Requests are passed on as they are, so that their signatures stay good. What is counted is what the
server took, whether or not the answer came through.
"""

import contextlib
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.servers.in_thread import in_thread
from tests.servers.process import HOST
from tests.servers.s3 import Bucket

LEAST_IN_PARTS: Final = 4096
"""Larger files go up in parts."""
TIMEOUT_S: Final = 2.0
PATIENCE: Final = 20
"""How often the node tries a transfer."""
WEATHERS: Final = ("away", "busy", "silent", "deaf")
"""Connections are closed; 503 is answered; nothing is; all is done and nothing answered."""
HOP: Final = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length"})
READS: Final = frozenset({"GET", "HEAD"})
DAYS_S: Final = 9 * 86_400
EXPIRED: Final = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
Answer = tuple[int, Mapping[str, str], bytes]


@dataclass
class CountedBucket:
    """Counts what was done to each key: `PUT`, `part 1`, `begin`, `complete`, `abort`."""

    bucket: Bucket
    port: int = 0
    weather: str = ""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    withheld: Counter[tuple[str, str]] = field(default_factory=Counter)
    """What was done and not answered: who asked has to do it again."""
    _acts: dict[str, Callable[[], None]] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    _lost: set[tuple[str, str]] = field(default_factory=set)
    _owned: dict[str, Sequence[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def settings(self) -> Mapping[str, str]:
        """Return what a server needs to know to write there, through here."""
        s3 = self.bucket.s3
        entry = {
            "prefixes": [self.url("")],
            "endpoint": f"http://{HOST}:{self.port}",
            "access_key": s3.access_key,
            "secret_key": s3.secret_key,
            "multipart_bytes": LEAST_IN_PARTS,
        }
        return {
            "TESP_STORAGE__S3": json.dumps([entry]),
            "TESP_STORAGE__TIMEOUT_S": f"{TIMEOUT_S:g}",
            "TESP_STORAGE__ATTEMPTS": str(PATIENCE),
        }

    def url(self, key: str) -> str:
        return f"s3://{self.bucket.name}/{key}"

    def on_part(self, key: str, act: Callable[[], None]) -> None:
        """Have `act` done whenever a part of it has come, before that is answered."""
        self._acts[key] = act

    def expire(self, key: str) -> None:
        """Refuse the next part of it, as if the signature had ended."""
        self._ended.add(key)

    def lose(self, what: str, key: str) -> None:
        """Have the next one of these done, and the connection closed instead of an answer."""
        self._lost.add((what, key))

    def owns(self, task_id: str, keys: Sequence[str]) -> None:
        """Remember which keys a task may upload to in parts."""
        self._owned[task_id] = keys

    def pending_of(self, ids: Sequence[str]) -> list[str]:
        """Name the uploads of these tasks that were begun and neither completed nor aborted."""
        keys = [key for one in ids for key in self._owned.get(one, ())]
        return [f"upload of {key}" for key in keys for _ in self.bucket.uploads(key)]

    def there(self, top: str) -> Mapping[str, bytes]:
        """Return all objects below it, by their whole keys."""
        return {key: self.bucket.get(key) for key in self.bucket.names(f"{top}/")}

    def written(self, key: str) -> Mapping[str, int]:
        """Return how often the object, or each part of it, was written."""
        with self._lock:
            done = {what: n for (what, of), n in self.counts.items() if of == key}
        return {what: n for what, n in done.items() if what not in READS | {"begin", "abort"}}

    def told(self) -> str:
        """Return how much was done in all."""
        with self._lock:
            done = Counter[str]()
            for (what, _), number in self.counts.items():
                done[what] += number
            lost = self.withheld.total()
        numbers = ", ".join(f"{number} x {what}" for what, number in sorted(done.items()))
        return f"S3 was asked for {numbers}; {lost} answers were lost"

    def answered(self, what: str, key: str, ask: Callable[[], Answer]) -> Answer | None:
        """Ask the true server, unless the weather forbids; None is for no answer at all."""
        if self._refuses(what, key):
            return 403, {"Date": formatdate(time.time() + DAYS_S, usegmt=True)}, EXPIRED
        if self.weather not in {"", "deaf"}:
            return self._harmed()
        answer = ask()
        self._count(what, key, answer)
        begun = time.monotonic()
        if what.startswith("part") and key in self._acts:
            self._acts[key]()
        late = time.monotonic() - begun > TIMEOUT_S
        if not (self.weather or late or self._loses(what, key)):
            return answer
        with self._lock:
            self.withheld[what, key] += 1
        return self._harmed() if self.weather else None

    def _loses(self, what: str, key: str) -> bool:
        with self._lock:
            loses = (what, key) in self._lost
            self._lost.discard((what, key))
            return loses

    def _refuses(self, what: str, key: str) -> bool:
        with self._lock:
            if not what.startswith("part") or key not in self._ended:
                return False
            self._ended.discard(key)
            return True

    def _count(self, what: str, key: str, answer: Answer) -> None:
        # S3 may say 200 first, and then that it cannot make the object.
        done = answer[0] in {200, 204} and b"<Error>" not in answer[2][:500]
        with self._lock:
            self.counts[what, key] += done

    def _harmed(self) -> Answer | None:
        if self.weather == "busy":
            return 503, {}, b""
        if self.weather in {"silent", "deaf"}:
            time.sleep(1.5 * TIMEOUT_S)
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: CountedBucket
    upstream: str

    def handle_one_request(self) -> None:
        with contextlib.suppress(OSError):
            super().handle_one_request()
            return
        self.close_connection = True

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer = self.bucket.answered(*self._named(), lambda: self._passed(body))
        if answer is None:
            self.close_connection = True
        else:
            self._answer(*answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _named(self) -> tuple[str, str]:
        """Return what is done, and to which key."""
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        key = unquote(url.path).removeprefix(f"/{self.bucket.bucket.name}/")
        if "uploads" in query and self.command == "POST":
            return "begin", key
        if "uploadId" not in query:
            return self.command, key
        part = f"part {query.get('partNumber')}"
        return {"POST": "complete", "DELETE": "abort"}.get(self.command, part), key

    def _passed(self, body: bytes) -> Answer:
        upstream = http.client.HTTPConnection(self.upstream, timeout=30)
        headers = {name: text for name, text in self.headers.items() if name != "Expect"}
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        except OSError:
            return 502, {}, b""
        finally:
            upstream.close()

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, text in headers.items():
            if name.lower() not in HOP:
                self.send_header(name, text)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def counted(bucket: Bucket) -> Iterator[CountedBucket]:
    """Stand before that bucket."""
    made = CountedBucket(bucket)
    upstream = urlsplit(bucket.s3.endpoint).netloc
    with in_thread(_Handler, bucket=made, upstream=upstream) as made.port:
        yield made
