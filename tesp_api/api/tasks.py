"""The task operations, for one version of the standard."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Self

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from tesp_api.api.body import json_body
from tesp_api.api.pages import PageTokens
from tesp_api.api.query import list_asked, parameters, view_asked
from tesp_api.auth import Authenticator
from tesp_api.domain.errors import InvalidRequest, Mistake
from tesp_api.domain.task import TaskId
from tesp_api.domain.tes import State
from tesp_api.domain.views import restated
from tesp_api.ports import Page
from tesp_api.service import Principal, Service

JSON: Final = "application/json"
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
_KEY: Final = re.compile(r"[!-~](?:[ -~]{0,253}[!-~])?")


class Dialect:
    """How clients are spoken to of states: `shown` tells which are shown as others.

    A filter means the same: a state that is never shown has no tasks, one that stands for others
    has theirs too.
    """

    def __init__(self, shown: Mapping[State, State]) -> None:
        self._shown = shown
        self._spelt = {state.encode(): other.encode() for state, other in shown.items()}

    def but(self, shown: Mapping[State, State]) -> Self:
        """Return a dialect that shows still more states as others."""
        return type(self)({**self._shown, **shown})

    def one(self, document: bytes) -> bytes:
        """Return a rendered task as it is shown."""
        return restated(document, self._spelt) if self._spelt else document

    def many(self, page: Page) -> bytes:
        """Return a page's tasks with commas between them.

        A look at the whole comes first, which costs far less than a look at each, and more than
        all else that is done to a page here: the store's word that a state is not there saves it.
        """
        joined = page.joined
        if any(spelt in joined for spelt in self._sought(page)):
            return page.between.join(map(self.one, page.each))
        return joined

    def _sought(self, page: Page) -> Iterator[bytes]:
        return (
            b'"state":"%b"' % state.encode() for state in self._shown if state not in page.lacks
        )

    def meant(self, state: State) -> frozenset[State]:
        """Return which states of ours a state in a filter stands for."""
        if state in self._shown:
            return frozenset()
        return frozenset({state, *(own for own, other in self._shown.items() if other is state)})


WITHOUT_CANCELING: Final[Mapping[State, State]] = MappingProxyType(
    {State.CANCELING: State.CANCELED}
)
"""TES 1.0 does not have it."""
WITHOUT_QUEUED: Final[Mapping[State, State]] = MappingProxyType({State.QUEUED: State.INITIALIZING})
"""For clients that take QUEUED for a failure, as Pulsar's own does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Turns requests into calls of use cases, and what those return into answers."""

    service: Service
    authenticator: Authenticator
    tokens: PageTokens
    dialect: Dialect
    body_bytes: int

    async def create(self, request: Request) -> Response:
        """POST /tasks."""
        principal = await self._principal(request)
        body = await json_body(request, self.body_bytes)
        task_id = await self.service.create(principal, body, _idempotency_key(request))
        return Response(to_json({"id": task_id}), media_type=JSON)

    async def list(self, request: Request) -> Response:
        """GET /tasks."""
        principal = await self._principal(request)
        query = list_asked(parameters(request.scope), self.tokens, self.dialect.meant)
        page = await self.service.list(principal, query)
        return Response(self._spliced(page), media_type=JSON)

    async def get(self, request: Request) -> Response:
        """GET /tasks/{id}."""
        principal = await self._principal(request)
        view = view_asked(parameters(request.scope))
        document = await self.service.get(principal, _task_id(request), view)
        return Response(self.dialect.one(document), media_type=JSON)

    async def cancel(self, request: Request) -> Response:
        """POST /tasks/{id}:cancel; whatever the body is, it is not read."""
        principal = await self._principal(request)
        await self.service.cancel(principal, _task_id(request))
        return Response(b"{}", media_type=JSON)

    async def _principal(self, request: Request) -> Principal:
        return await self.authenticator.principal(request.headers)

    def _spliced(self, page: Page) -> bytes:
        """Join rendered tasks to a list without reading them again."""
        tasks = self.dialect.many(page)
        if page.next_before is None:
            return b'{"tasks":[%b]}' % tasks
        token = self.tokens.issue(page.next_before).encode()
        return b'{"tasks":[%b],"next_page_token":"%b"}' % (tasks, token)


def _task_id(request: Request) -> TaskId:
    return TaskId(request.path_params["id"])


def _idempotency_key(request: Request) -> str | None:
    """Return the key by which a client may repeat a request. Raises InvalidRequest."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is not None and not _KEY.fullmatch(key):
        sentence = "It should be 1 to 255 printable ASCII characters."
        raise InvalidRequest(Mistake(IDEMPOTENCY_KEY, sentence))
    return key
