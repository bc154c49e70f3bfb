"""What every request passes first: its id, the last resort for errors, and who may ask at all.

Plain ASGI: nothing here costs more than a few microseconds or holds a body back.
"""

import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from http import HTTPStatus
from itertools import count
from typing import Final

from loguru import logger
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tesp_api.api.errors import answer, refusal
from tesp_api.domain.errors import TespError, Unreachable

_SANE_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


def fresh_ids() -> Iterator[str]:
    """Yield ids for requests that bring none: this run of the server, and a number."""
    run = secrets.token_hex(4)
    return (f"{run}-{number}" for number in count(1))


class RequestIds:
    """Gives each request an id, in the answer's header and in all that is logged meanwhile."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._ids = fresh_ids()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and the answer with the id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _given_id(scope) or next(self._ids)
        header = (b"x-request-id", request_id.encode())

        async def tagged(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append(header)
            await send(message)

        with logger.contextualize(request=request_id):
            await self._app(scope, receive, tagged)


class Errors:
    """Turns every exception into an answer; one that nobody expected is logged whole."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and answer it if nobody does."""
        try:
            await self._app(scope, receive, send)
        except (TespError, HTTPException) as error:
            if isinstance(error, Unreachable):
                logger.warning("request given up: {}", error)
            await answer(error)(scope, receive, send)
        except ClientDisconnect:
            logger.debug("client left")
        except Exception as error:
            if scope["type"] != "http":
                raise
            logger.exception("request failed", method=scope["method"], path=scope["path"])
            await answer(error)(scope, receive, send)


class Doorkeeper:
    """Turns away what somebody else's web page made a browser send.

    Without it any page could run commands through a server on its reader's own machine. `hosts` are
    the names by which the server may be called; none: any, but over a loopback address only the
    names of that. `origins` are the other sites whose pages may call it.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str] = (), origins: Collection[str] = ()
    ) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and (refused := self._refusal(scope)) is not None:
            await refused(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        host, origin = _host_and_origin(scope)
        if not self._is_called(host, scope):
            return refusal(HTTPStatus.MISDIRECTED_REQUEST, _NOT_MY_NAME)
        if origin is not None and origin not in self._origins and not _is_page_of(host, origin):
            return refusal(HTTPStatus.FORBIDDEN, _NOT_MY_PAGE)
        return None

    def _is_called(self, host: str, scope: Scope) -> bool:
        if self._hosts:
            return _name(host) in self._hosts
        address = (scope.get("server") or ("",))[0]
        return not address.startswith(_LOOPBACK) or _is_loopback_name(_name(host))


_LOOPBACK: Final = ("127.", "::1", "::ffff:127.")
_NOT_MY_NAME: Final = "This server is not called so (setting server.allowed_hosts)."
_NOT_MY_PAGE: Final = "Pages of that Origin may not use it (setting server.allowed_origins)."


def _host_and_origin(scope: Scope) -> tuple[str, str | None]:
    found = {name: value for name, value in scope["headers"] if name in (b"host", b"origin")}
    origin = found.get(b"origin")
    host = found.get(b"host", b"").decode("latin-1").lower()
    return host, None if origin is None else origin.decode("latin-1").lower()


def _name(host: str) -> str:
    """Return a Host header without its port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _is_loopback_name(name: str) -> bool:
    """Tell names that no foreign name server can give another meaning."""
    return name in ("localhost", "[::1]") or name.endswith(".localhost") or _is_loopback_ip(name)


def _is_loopback_ip(name: str) -> bool:
    return re.fullmatch(r"127(\.[0-9]{1,3}){3}", name) is not None


def _is_page_of(host: str, origin: str) -> bool:
    """Compare by name and port alone: behind a proxy that ends TLS the scheme is not known here."""
    scheme, _, site = origin.partition("://")
    return bool(site) and site.removesuffix(_PORTS.get(scheme, "")) in {
        host.removesuffix(port) for port in _PORTS.values()
    }


_PORTS: Final[Mapping[str, str]] = {"http": ":80", "https": ":443"}


def _given_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            text = value.decode("latin-1")
            return text if _SANE_ID.fullmatch(text) else None
    return None
