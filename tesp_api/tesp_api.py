"""The composition root: the only file that names adapters.

`uvicorn tesp_api.tesp_api:app` serves what the settings describe; `build` makes the same from any
settings.
"""

import asyncio
import hashlib
import os
import secrets
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from loguru import logger

from tesp_api import __version__, log
from tesp_api.api.app import create_app
from tesp_api.api.service_info import ServiceInfo
from tesp_api.auth import (
    Authenticator,
    BasicAuthentication,
    BearerAuthentication,
    Discovery,
    EitherAuthentication,
    Issuer,
    NoAuthentication,
    Terms,
    Way,
)
from tesp_api.clock import SystemClock
from tesp_api.dispatcher import Dispatcher, Limits
from tesp_api.domain.errors import Misconfigured, StoreUnreachable
from tesp_api.domain.plan import Engine, Site
from tesp_api.domain.rules import Policy as Rules
from tesp_api.domain.task import DriverId, TaskId
from tesp_api.duties import Duties, Policy
from tesp_api.lease import Lease
from tesp_api.ports import Clock, JobRunner, TaskStore
from tesp_api.pulsar.rest import RestRunner
from tesp_api.service import Service
from tesp_api.settings import Settings, load, secret_values
from tesp_api.storage import FileScheme, HttpScheme, UnconfiguredScheme, UrlStorage
from tesp_api.store.mongo import MongoStore
from tesp_api.store.sqlite import SqliteStore

ID_BYTES: Final = 12
INSTANCE_LENGTH: Final = 10
STORE_RETRY_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What was built, for those who want more of it than the application."""

    app: FastAPI
    store: TaskStore
    runner: JobRunner


def build(settings: Settings) -> Server:
    """Build the server; nothing is connected before the application's lifespan begins.

    Raises Misconfigured for what this version cannot serve.
    """
    _refuse_what_is_not_served(settings)
    clock = SystemClock()
    store = make_store(settings)
    runner = make_runner(settings)
    storage = UrlStorage(
        HttpScheme(),
        FileScheme(map(str, settings.storage.file.roots)),
        UnconfiguredScheme("s3", "gs", "ftp", "ftps"),
    )
    site = make_site(settings)
    dispatcher = Dispatcher(
        store,
        Duties(runner, storage, site, _policy(settings), clock),
        Lease(store, clock, DriverId(secrets.token_hex(8)), settings.dispatch.lease_s),
        clock,
        Limits(
            max_jobs=settings.pulsar.max_jobs,
            patience_s=settings.dispatch.patience_s,
            poll_interval_s=settings.pulsar.status.poll_interval,
        ),
    )
    service = Service(
        store=store,
        dispatch=dispatcher,
        clock=clock,
        policy=Rules(
            engine=site.engine.kind,
            image_roots=site.engine.image_roots,
            image_schemes=site.engine.image_schemes,
            content_bytes=settings.limits.content_bytes,
            refusal=storage.refusal,
        ),
        new_id=new_task_id,
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        work = _drive(store, dispatcher, clock, opened=await _open(store))
        driving = asyncio.create_task(work, name="dispatcher")
        driving.add_done_callback(_end_unless_stopped)
        try:
            yield
        finally:
            await dispatcher.stop(driving)
            await runner.close()
            await store.close()

    app = create_app(
        service,
        make_authenticator(settings, clock),
        _info(settings, storage),
        lifespan=lifespan,
        page_key=_identity(settings).encode(),
        body_bytes=settings.limits.body_bytes,
        hosts=settings.server.allowed_hosts,
        origins=settings.server.allowed_origins,
        queued_as_initializing=settings.compat.queued_as_initializing,
    )
    return Server(app=app, store=store, runner=runner)


def configure_log(settings: Settings) -> None:
    """Begin to log as the settings say, with what they warn about."""
    log.configure(
        settings.logging.level,
        settings.logging.output_json,
        secret_values(settings),
        settings.server.access_log,
    )
    for warning in settings.warnings:
        logger.warning(warning)


async def _drive(store: TaskStore, dispatcher: Dispatcher, clock: Clock, *, opened: bool) -> None:
    """Dispatch as soon as the store answers; requests are told 503 until then."""
    while not opened:
        await clock.sleep(STORE_RETRY_S)
        opened = await _open(store)
    await dispatcher.run()


def _end_unless_stopped(driving: asyncio.Task[None]) -> None:
    """End the process if nobody dispatches any more: better restarted than deaf."""
    if not driving.cancelled() and (error := driving.exception()) is not None:
        logger.opt(exception=error).critical("the dispatcher ended; so does the server")
        os.kill(os.getpid(), signal.SIGTERM)


async def _open(store: TaskStore) -> bool:
    """Return whether the store could be opened. Raises Misconfigured where it never can."""
    try:
        await store.open()
    except StoreUnreachable as error:
        logger.warning("waiting for the store: {}", error)
        return False
    return True


def make_store(settings: Settings) -> TaskStore:
    """Return the store the settings name, not yet open."""
    db = settings.db
    if db.sqlite_path is not None:
        return SqliteStore(db.sqlite_path, synchronous=db.sqlite_synchronous)
    assert db.mongodb_uri is not None, "the settings have one of the two"
    return MongoStore(db.mongodb_uri.get_secret_value())


def make_runner(settings: Settings) -> JobRunner:
    """Return the way to Pulsar, not yet connected."""
    pulsar = settings.pulsar
    token = pulsar.private_token
    return RestRunner(
        pulsar.url,
        token=token.get_secret_value() if token else None,
        manager=pulsar.manager,
        timeout_s=pulsar.client_timeout,
        verify=str(pulsar.ca_file) if pulsar.ca_file else pulsar.verify_tls,
    )


def make_site(settings: Settings) -> Site:
    """Return what all tasks share."""
    container = settings.container
    return Site(
        instance=settings.instance or _identity(settings)[:INSTANCE_LENGTH],
        engine=Engine(
            kind=container.type,
            program=container.command,
            global_args=container.global_args,
            run_args=container.run_args,
            image_roots=tuple(map(str, container.image_roots)),
            image_schemes=container.image_schemes,
            pull_timeout_s=container.pull_timeout_s,
        ),
        tail_bytes=settings.logs.tail_bytes,
        file_roots=tuple(map(str, settings.storage.file.roots)),
        heartbeat_s=settings.dispatch.heartbeat_s,
    )


def new_task_id() -> TaskId:
    """Return a name nobody can guess."""
    return TaskId(secrets.token_hex(ID_BYTES))


def _refuse_what_is_not_served(settings: Settings) -> None:
    if settings.pulsar.amqp_url is not None:
        raise Misconfigured(
            "`pulsar.amqp_url` is set, but this version reaches Pulsar by REST only."
        )


def _policy(settings: Settings) -> Policy:
    dispatch = settings.dispatch
    return Policy(
        max_attempts=dispatch.max_attempts,
        rerun_started=dispatch.rerun_started,
        silence_s=dispatch.silence_s,
        quarantine_s=dispatch.lease_s + settings.pulsar.client_timeout,
    )


def make_authenticator(settings: Settings, clock: Clock) -> Authenticator:
    """Return who lets in whom the settings say; no issuer is asked before a token comes."""
    ways: list[Way] = []
    basic = settings.basic_auth
    if basic.enable:
        password = basic.password.get_secret_value()
        ways.append(BasicAuthentication(basic.username, password, sees_all=basic.admin))
    if settings.oauth.enable:
        ways.append(_bearer(settings, clock))
    return EitherAuthentication(*ways) if ways else NoAuthentication()


def _bearer(settings: Settings, clock: Clock) -> BearerAuthentication:
    oauth = settings.oauth
    discovery = Discovery(_tls(oauth.ca_file))
    issuers = [Issuer(name, discovery, clock, oauth.cache_jwks_ttl) for name in oauth.trusted]
    terms = Terms(
        audience=oauth.required_audience,
        admins=frozenset(oauth.admins),
        admin_claim=oauth.admin_claim,
        admin_value=oauth.admin_value,
    )
    return BearerAuthentication(issuers, terms, clock, ttl_s=oauth.cache_jwks_ttl)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise Misconfigured(f"`oauth.ca_file` {ca_file} cannot be read: {error}.") from error


def _info(settings: Settings, storage: UrlStorage) -> ServiceInfo:
    info = settings.service_info
    return ServiceInfo(
        id=info.id,
        name=info.name,
        version=__version__,
        organization_name=info.organization_name,
        organization_url=info.organization_url,
        description=info.description,
        contact_url=info.contact_url or "",
        documentation_url=info.documentation_url or "",
        environment=info.environment or "",
        created_at=info.created_at,
        updated_at=info.updated_at,
        storage=storage.served(),
    )


def _identity(settings: Settings) -> str:
    """Return what is the same for all processes over one store, and for no others."""
    db = settings.db
    if db.sqlite_path is not None:
        name = str(db.sqlite_path.absolute())
    else:
        assert db.mongodb_uri is not None, "the settings have one of the two"
        name = db.mongodb_uri.get_secret_value().rpartition("@")[2]
    return hashlib.sha256(name.encode()).hexdigest()


def __getattr__(name: str) -> FastAPI:
    """Make `app` when uvicorn asks for it, so that importing this file reads no settings."""
    if name != "app":
        raise AttributeError(name)
    try:
        settings = load()
        configure_log(settings)
        return build(settings).app
    except Misconfigured as error:
        raise SystemExit(f"tesp-api: {error}") from None
