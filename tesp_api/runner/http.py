"""HTTP: one request, redirections followed, connections kept, and what an answer means."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.tls import tls_context
from tesp_api.runner.transfer import Expired, Refused, Transient, scheme
from tesp_api.runner.whole_head import response_class

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from http.client import HTTPConnection, HTTPResponse

    from tesp_api.runner.transfer import Terms

    Origin = tuple[str, str, int]

SUCCESSES = range(200, 300)

REDIRECTS = frozenset({301, 302, 303, 307, 308})

SEE_OTHER = 303

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 522, 524})

SIGNATURE_REFUSALS = frozenset({400, 403})

SAID_BYTES = 4096  # of an answer that is an error: enough for the code that S3 writes into it

WASTE_BYTES = 1 << 16  # that are read of an answer nobody wants, to keep its connection


class Body(NamedTuple):
    """What an upload carries; `chunks` gives all of it from the start, each time."""

    length: int
    chunks: Callable[[], Iterator[bytes]]


class Request(NamedTuple):
    """What is asked; `headers` go no further than the origin they are meant for, `more` do."""

    method: str
    url: str
    headers: Mapping[str, str]
    more: Mapping[str, str] = {}
    body: Body | None = None


class Answer(NamedTuple):
    """An answer, and where it came from after all redirections; to be finished or dropped."""

    response: HTTPResponse
    connection: HTTPConnection
    url: str
    redirected: bool = False

    def header(self, name: str) -> str:
        """Return a header of the answer, or an empty text."""
        return self.response.getheader(name) or ""

    def drop(self) -> None:
        """Read no more of it."""
        self.response.close()
        self.connection.close()


class Client:
    """Asks, and keeps a connection to each of the last few servers."""

    KEPT = 4

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._connections: dict[Origin, HTTPConnection] = {}

    def ask(self, request: Request) -> Answer:
        """Return the answer to a request, redirections followed.

        Raises Transient for an answer, or none, that may pass, and Refused for any other that is
        no success.
        """
        first = request = request._replace(headers={**basic(request.url), **request.headers})
        for _ in range(10):
            answer = self._answered(request)._replace(redirected=request is not first)
            target = answer.header("Location")
            if answer.response.status in SUCCESSES:
                return answer
            said = self.finish(answer)
            if answer.response.status not in REDIRECTS or not target:
                raise _refusal(answer, said)
            request = _redirected(request, answer.response.status, target)
        raise Refused(310, "too many redirections")

    def _answered(self, request: Request) -> Answer:
        from http.client import HTTPException

        kept = (
            self._connections.pop(origin(request.url), None) if request.method != "POST" else None
        )
        if kept:
            try:
                return Answer(_ask(kept, request), kept, request.url)
            except TimeoutError as error:
                kept.close()
                raise classified(error) from error
            except (OSError, HTTPException):
                kept.close()  # a server may end a connection that it kept for a while just now
        fresh = self._connection(request.url)
        try:
            return Answer(_ask(fresh, request), fresh, request.url)
        except (OSError, HTTPException, UnicodeError) as error:
            fresh.close()
            raise classified(error) from error

    def finish(self, answer: Answer) -> bytes:
        """Read what is left, if that is little, so that the connection can be used again."""
        from http.client import HTTPException

        response, data = answer.response, b""
        try:
            data = response.read(WASTE_BYTES)
            data += b"" if response.isclosed() else response.read(1)
        except (OSError, HTTPException):
            answer.drop()
            return data
        if response.isclosed() and not response.will_close:
            self._keep(origin(answer.url), answer.connection)
        else:
            answer.drop()
        return data

    def _keep(self, where: Origin, connection: HTTPConnection) -> None:
        while len(self._connections) >= self.KEPT:
            self._connections.pop(next(iter(self._connections))).close()
        self._connections[where] = connection

    def _connection(self, url: str) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        kind, host, port = origin(url)
        limit_s = self.terms.timeout_s
        if kind == "http":
            connection = HTTPConnection(host, port, timeout=limit_s)
        else:
            context = tls_context(self.terms.ca)
            connection = HTTPSConnection(host, port, timeout=limit_s, context=context)
        connection.response_class = response_class()
        return connection

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()


def _ask(connection: HTTPConnection, request: Request) -> HTTPResponse:
    body = request.body
    fields = {"User-Agent": "tesp-runner", **request.more, **request.headers}
    if body is not None:
        fields["Content-Length"] = str(body.length)
    chunks = None if body is None else body.chunks()
    try:
        connection.request(request.method, _target(request.url), body=chunks, headers=fields)
    except (BrokenPipeError, ConnectionResetError):
        # A server that refuses an upload answers before it has read all of it; the answer says
        # more than the reset.
        if body is None or connection.sock is None:
            raise
        response = connection.getresponse()
        response.will_close = True
        return response
    return connection.getresponse()


def _target(url: str) -> str:
    from urllib.parse import quote, urlsplit

    parts = urlsplit(url)
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if not parts.query:
        return target
    return target + "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]")


def _redirected(request: Request, status: int, target: str) -> Request:
    from urllib.parse import urljoin

    url = urljoin(request.url, target)
    if scheme(url) not in {"http", "https"}:
        raise Refused(status, f"HTTP {status} redirects to {scheme(url)[:20]}")
    headers = request.headers if origin(url) == origin(request.url) else {}
    answered = status == SEE_OTHER or (request.method == "POST" and status in {301, 302})
    if answered and request.body is not None:
        return Request("GET", url, headers)
    return request._replace(url=url, headers=headers)


def basic(url: str) -> dict[str, str]:
    """Return the header that carries the user and password of `url`, if it has them."""
    from binascii import b2a_base64
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": "Basic " + b2a_base64(pair.encode(), newline=False).decode()}


def origin(url: str) -> Origin:
    """Return what must stay the same for headers to be sent again; Refused for no proper URL."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        kind, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
    except ValueError:
        raise Refused(0, "the URL is malformed") from None
    if not host:
        raise Refused(0, "the URL names no host")
    return kind, host, port or {"http": 80, "https": 443}.get(kind, 0)


def classified(error: Exception) -> Exception:
    """Return how a failed request counts: asking again betters no certificate and no URL."""
    name, text = type(error).__name__, str(error) or type(error).__name__
    if name == "SSLCertVerificationError":
        return Refused(0, text)
    if name in {"InvalidURL", "UnicodeError", "UnicodeEncodeError"}:
        return Refused(0, "the URL is malformed")
    if name == "RemoteDisconnected":
        return Transient("the connection was closed without an answer")
    known = isinstance(error, OSError) or name == "HTTPException"
    return Transient(text if known else f"no proper answer: {name}")


def _refusal(answer: Answer, body: bytes) -> Exception:
    """Return what an answer that is no success counts as."""
    status, pause = answer.response.status, answer.header("Retry-After")
    code = re.search(rb"<Code>([A-Za-z0-9.]{1,60})</Code>", body[:SAID_BYTES])
    said = f"HTTP {status} {printable(answer.response.reason)}".strip()
    said += f" ({code[1].decode()})" if code else ""
    if status in PASSING:
        return Transient(said, float(pause) if re.fullmatch("[0-9]{1,6}", pause) else None)
    if status in SIGNATURE_REFUSALS and is_expired(answer.url, answer.header("Date")):
        return Expired(status, f"{said}: the signature of the URL has expired")
    return Refused(status, said)


def printable(text: str) -> str:
    """Return the part of `text`, which a server wrote, that can stand in a sentence."""
    return re.sub(r"[^ -~]", "", text)[:100]


def is_expired(url: str, at: str) -> bool:
    """Tell whether the signature in `url` had ended at `at`, the Date of the answer."""
    import calendar
    import time
    from email.utils import mktime_tz, parsedate_tz
    from urllib.parse import parse_qsl, urlsplit

    query = {name.lower(): value for name, value in parse_qsl(urlsplit(url).query)}
    now = parsedate_tz(at)
    try:
        began = time.strptime(query["x-amz-date"], "%Y%m%dT%H%M%SZ")
        end = calendar.timegm(began) + int(query["x-amz-expires"])
    except (KeyError, ValueError):
        return False
    return now is not None and mktime_tz(now) > end
