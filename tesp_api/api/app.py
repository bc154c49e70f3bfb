"""The application: which path leads where, and what every request passes first."""

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from pydantic_core import to_json
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp

from tesp_api.api import browser
from tesp_api.api.document import openapi
from tesp_api.api.edge import Doorkeeper, Errors, RequestIds
from tesp_api.api.errors import unready
from tesp_api.api.pages import PageTokens
from tesp_api.api.resource import Handler, Resource
from tesp_api.api.service_info import ServiceInfo, render, render_legacy
from tesp_api.api.tasks import JSON, WITHOUT_CANCELING, WITHOUT_QUEUED, Dialect, Tasks
from tesp_api.auth import Authenticator
from tesp_api.readiness import Readiness
from tesp_api.service import Service

PREFIX_1_1: Final = "/ga4gh/tes/v1"
PREFIX_1_0: Final = "/v1"
SERVERS: Final = {PREFIX_1_1: "TES 1.1", PREFIX_1_0: "TES 1.0, for older clients"}
EXAMPLES: Final = Path(__file__).with_name("examples.json")
BODY_BYTES: Final = 8 * 1024 * 1024

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class Application(FastAPI):
    """FastAPI with a document and layers of our own.

    Our routes have no signatures that a document could be made from. FastAPI's own layers serve
    what is not used here (telemetry, forms, dependencies) and would cost more than ours.
    """

    document: dict[str, Any]

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        return self.document

    def build_middleware_stack(self) -> ASGIApp:
        """Return the layers around the router; what was added last is passed first."""
        routes = Router(self.routes, redirect_slashes=False, lifespan=self.router.lifespan_context)
        app: ASGIApp = Errors(routes)
        for layer, arguments, options in reversed(self.user_middleware):
            app = layer(app, *arguments, **options)
        return app


def create_app(
    service: Service,
    authenticator: Authenticator,
    info: ServiceInfo,
    readiness: Readiness,
    *,
    lifespan: Lifespan | None = None,
    page_key: bytes = b"",
    body_bytes: int = BODY_BYTES,
    hosts: Collection[str] = (),
    origins: Sequence[str] = (),
    queued_as_initializing: bool = False,
) -> FastAPI:
    """Return the server's ASGI application; `lifespan` starts and ends whatever it stands on.

    `page_key` must be the same in all replicas, else a list begun at one cannot go on at another.
    """
    app = _application(info, lifespan)
    app.document = openapi(info, SERVERS, authenticator.schemes, _examples())
    tasks_1_1 = Tasks(
        service=service,
        authenticator=authenticator,
        tokens=PageTokens(page_key),
        dialect=Dialect(WITHOUT_QUEUED if queued_as_initializing else {}),
        body_bytes=body_bytes,
    )
    app.router.routes[:0] = [*_tes(tasks_1_1, info), *_surroundings(readiness, info)]
    _shield(app, hosts, origins)
    return app


def _tes(tasks: Tasks, info: ServiceInfo) -> list[BaseRoute]:
    dialect_1_0 = tasks.dialect.but(WITHOUT_CANCELING)
    legacy_info = _guarded(tasks.authenticator, render_legacy(info))
    # The search ends at the first that fits, and more clients poll under /v1.
    return [
        # Before {id}, which it would fit.
        _path(f"{PREFIX_1_0}/tasks/service-info", get=legacy_info),
        *_operations(PREFIX_1_0, replace(tasks, dialect=dialect_1_0), info),
        *_operations(PREFIX_1_1, tasks, info),
    ]


def _operations(prefix: str, tasks: Tasks, info: ServiceInfo) -> list[BaseRoute]:
    return [
        # The cancel path first: `x:cancel` would fit {id} as well.
        _path(f"{prefix}/tasks/{{id}}:cancel", post=tasks.cancel),
        _path(f"{prefix}/tasks/{{id}}", get=tasks.get),
        _path(f"{prefix}/tasks", get=tasks.list, post=tasks.create),
        _path(f"{prefix}/service-info", get=_guarded(tasks.authenticator, render(info))),
    ]


def _surroundings(readiness: Readiness, info: ServiceInfo) -> list[BaseRoute]:
    return [
        _path("/healthz", get=_healthy),
        _path("/readyz", get=_readiness(readiness)),
        _path("/", get=browser.page(info.name)),
        *(_path(f"{browser.PREFIX}/{name}", get=browser.asset(name)) for name in browser.FILES),
    ]


def _application(info: ServiceInfo, lifespan: Lifespan | None) -> Application:
    """Return the application with no more than the path of its document."""
    return Application(
        title=info.name,
        version=info.version,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )


def _examples() -> dict[str, Any]:
    """Return tasks that can be posted as they are, by title; the first needs only its image."""
    examples: dict[str, Any] = json.loads(EXAMPLES.read_text())
    return examples


def _path(path: str, **handlers: Handler) -> Route:
    return Route(path, Resource(**handlers), include_in_schema=False)


def _shield(app: FastAPI, hosts: Collection[str], origins: Sequence[str]) -> None:
    """Put the layers around the routes; what is added last is passed first."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    app.add_middleware(Doorkeeper, hosts=hosts, origins=origins)
    app.add_middleware(RequestIds)


def _guarded(authenticator: Authenticator, document: bytes) -> Handler:
    async def handler(request: Request) -> Response:
        await authenticator.principal(request.headers)
        return Response(document, media_type=JSON)

    return handler


def _readiness(readiness: Readiness) -> Handler:
    """Answer in the shape of an error, with `reasons`, where the server is not ready."""

    async def handler(_request: Request) -> Response:
        reasons = await readiness.reasons()
        if not reasons:
            return Response(to_json({"status": "ready"}), media_type=JSON)
        return unready(reasons)

    return handler


async def _healthy(_request: Request) -> Response:
    return Response(to_json({"status": "alive"}), media_type=JSON)
