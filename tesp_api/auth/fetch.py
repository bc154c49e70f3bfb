"""One GET for a JSON document: bounded in size, following nothing. The caller sets the deadline.

Written on asyncio's own streams: a deadline over them is true, while a thread that waits for one
more byte cannot be ended; and all that an HTTP client has beyond this (redirects, the environment's
proxies, cookies, compression) would have to be switched off.
"""

import asyncio
import json
import socket
import ssl
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from typing import Final, cast
from urllib.parse import SplitResult, urlsplit

from tesp_api import __version__
from tesp_api.domain.errors import IssuerUnreachable

LONGEST: Final = 262_144
"""Bytes of an answer, its head included."""
_PORTS: Final = {"http": 80, "https": 443}


async def get_json(url: str, tls: ssl.SSLContext) -> object:
    """Return the document at `url`, http or https. Raises IssuerUnreachable."""
    try:
        return _document(await _exchange(urlsplit(url), tls))
    except (OSError, HTTPException, ValueError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise IssuerUnreachable(f"{url} gives no document: {reason}") from error


async def _exchange(url: SplitResult, tls: ssl.SSLContext) -> bytes:
    """Return the whole answer, to the end that the server makes by closing."""
    secure = url.scheme == "https"
    port = url.port or _PORTS[url.scheme]
    reader, writer = await asyncio.open_connection(url.hostname, port, ssl=tls if secure else None)
    try:
        writer.write(_request(url))
        return await _all(reader)
    finally:
        # Not closed politely: there is nothing left to say, and the other side may not listen.
        writer.transport.abort()


def _request(url: SplitResult) -> bytes:
    path = url.path or "/"
    lines = (
        f"GET {path}?{url.query} HTTP/1.1" if url.query else f"GET {path} HTTP/1.1",
        f"Host: {url.netloc}",
        f"User-Agent: tesp-api/{__version__}",
        "Accept: application/json",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


async def _all(reader: asyncio.StreamReader) -> bytes:
    received = bytearray()
    while chunk := await reader.read(LONGEST):
        received += chunk
        if len(received) > LONGEST:
            raise ValueError(f"it is longer than {LONGEST} bytes")
    return bytes(received)


class _Received:
    """A socket, as far as HTTPResponse knows one, from which all has come already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> BytesIO:
        return BytesIO(self._data)


def _document(answer: bytes) -> object:
    response = HTTPResponse(cast(socket.socket, _Received(answer)), method="GET")
    response.begin()
    if response.status != HTTPStatus.OK:
        raise ValueError(f"its status is {response.status}")
    return json.loads(response.read())
