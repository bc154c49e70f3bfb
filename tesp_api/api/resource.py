"""One path and what each method does there.

FastAPI's own routes read, check and write by models on every call, which costs three times as much
as the rest of a request; here a handler gets the request as it is and returns the finished answer.
What is served is described in `document`, from the same models that check it.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]


class Resource:
    """An ASGI application for one path; other methods than the given are a 405 that names those."""

    def __init__(self, *, get: Handler | None = None, post: Handler | None = None) -> None:
        handlers = {"GET": get, "HEAD": get, "POST": post}
        self._handlers = {name: handler for name, handler in handlers.items() if handler}
        self._allow = ", ".join(self._handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        handler = self._handlers.get(scope["method"])
        if handler is None:
            raise HTTPException(HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": self._allow})
        response = await handler(Request(scope, receive))
        if scope["method"] == "HEAD":
            response.body = b""
        await response(scope, receive, send)
