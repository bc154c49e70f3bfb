"""HTTP: one request, redirections followed, and what its answer means."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.streams import CHUNK
from tesp_api.runner.transfer import Refused, Transient, scheme

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from http.client import HTTPConnection, HTTPResponse

# HTTP.
SUCCESSES = range(200, 300)

REDIRECTS = frozenset({301, 302, 303, 307, 308})

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 522, 524})


class Body(NamedTuple):
    """What an upload carries: `head`, the whole of `file`, `tail`; it can be sent again."""

    file: int
    size: int
    head: bytes = b""
    tail: bytes = b""

    def length(self) -> int:
        """Return the number of bytes in all."""
        return len(self.head) + self.size + len(self.tail)

    def chunks(self) -> Iterator[bytes]:
        """Yield all of it, from the start."""
        yield self.head
        os.lseek(self.file, 0, os.SEEK_SET)
        while True:
            data = os.read(self.file, CHUNK)
            if not data:
                break
            yield data
        yield self.tail


def http(
    method: str, url: str, headers: Mapping[str, str], timeout_s: float, body: Body | None = None
) -> HTTPResponse:
    """Return the answer to a request, redirections followed.

    Headers go no further than the origin they were meant for. Raises Transient for an answer, or
    none, that may pass, and Refused for any other that is no success.
    """
    from http.client import HTTPException
    from urllib.parse import urljoin

    for _ in range(10):
        try:
            answer = _ask(method, url, headers, timeout_s, body)
        except (OSError, HTTPException) as error:
            raise _classified(error) from error
        target = answer.getheader("Location")
        if answer.status not in REDIRECTS or not target:
            return _judged(answer)
        answer.close()
        target = urljoin(url, target)
        if scheme(target) not in {"http", "https"}:
            raise Refused(answer.status, f"redirects to {scheme(target)}")
        headers = headers if origin(target) == origin(url) else {}
        url = target
    raise Refused(310, "too many redirections")


def _ask(
    method: str, url: str, headers: Mapping[str, str], timeout_s: float, body: Body | None
) -> HTTPResponse:
    from urllib.parse import quote, urlsplit

    parts = urlsplit(url)
    connection = _connection(url, timeout_s)
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]")
    fields = {"User-Agent": "tesp-runner", "Connection": "close", **_basic(url), **headers}
    if body is not None:
        fields["Content-Length"] = str(body.length())
    try:
        connection.request(method, target, body=body.chunks() if body else None, headers=fields)
    except (BrokenPipeError, ConnectionResetError):
        # A server that refuses an upload answers before it has read all of it; the answer says
        # more than the reset.
        if body is None:
            raise
    return connection.getresponse()


def _connection(url: str, timeout_s: float) -> HTTPConnection:
    from http.client import HTTPConnection, HTTPSConnection
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Refused(0, f"bad URL: {error}") from error
    if parts.scheme.lower() == "http":
        return HTTPConnection(host, port, timeout=timeout_s)
    import ssl

    return HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())


def _basic(url: str) -> dict[str, str]:
    from binascii import b2a_base64
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": "Basic " + b2a_base64(pair.encode(), newline=False).decode()}


def origin(url: str) -> tuple[str, str, int]:
    """Return what must stay the same for headers to be sent again."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(scheme, 0)


def _classified(error: Exception) -> Exception:
    """Return how a failed request counts: asking again betters no certificate and no URL."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and type(error).__name__ == "SSLCertVerificationError":
        return Refused(0, text)
    if type(error).__name__ == "InvalidURL":
        return Refused(0, text)
    return Transient(text)


def _judged(answer: HTTPResponse) -> HTTPResponse:
    if answer.status in SUCCESSES:
        return answer
    answer.close()
    if answer.status in PASSING:
        raise Transient(f"HTTP {answer.status} {answer.reason}".strip())
    raise Refused(answer.status, answer.reason)
