"""The composition root: what the server is made of, in one place.

`uvicorn tesp_api.tesp_api:app` serves what the settings describe; `build` makes the same from any
settings.
"""

import asyncio
import hashlib
import os
import secrets
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from loguru import logger

from tesp_api import __version__, log
from tesp_api.adapters import make_authenticator, make_runner, make_storage, make_store
from tesp_api.admission import Admission
from tesp_api.api.app import create_app
from tesp_api.api.service_info import ServiceInfo
from tesp_api.clock import SystemClock
from tesp_api.dispatcher import Dispatcher, Limits
from tesp_api.domain.errors import Misconfigured, StoreUnreachable
from tesp_api.domain.plan import Engine, Site, Transfer
from tesp_api.domain.rules import Policy as Rules
from tesp_api.domain.task import DriverId, JobId, TaskId, task_of
from tesp_api.duties import Duties
from tesp_api.lease import Lease
from tesp_api.orders import Orders
from tesp_api.ports import Clock, JobRunner, Permit, Storage, Store, TaskStore
from tesp_api.readiness import Readiness, neighbours
from tesp_api.retention import Retention
from tesp_api.service import Service
from tesp_api.settings import Settings, load, secret_values
from tesp_api.verdict import Policy

ID_BYTES: Final = 12
INSTANCE_LENGTH: Final = 10
STORE_RETRY_S: Final = 2.0
CLOSING_S: Final = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What was built, for those who want more of it than the application."""

    app: FastAPI
    store: TaskStore
    runner: JobRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the neighbours are made by; who wants to stand between puts something around it."""

    store: Callable[[Settings], Store]
    runner: Callable[[Settings, Store, Permit], JobRunner]
    storage: Callable[[Settings, Clock], Storage]
    clock: Callable[[], Clock]


def build(settings: Settings, parts: Parts | None = None) -> Server:
    """Build the server; nothing is connected before the application's lifespan begins.

    Raises Misconfigured for what cannot be used.
    """
    parts = parts or Parts(
        store=make_store, runner=make_runner, storage=make_storage, clock=SystemClock
    )
    clock = parts.clock()
    store = parts.store(settings)
    lease = Lease(store, clock, DriverId(secrets.token_hex(8)), settings.dispatch.lease_s)
    runner = parts.runner(settings, store, lease.permit)
    storage = parts.storage(settings, clock)
    site = make_site(settings)
    dispatcher = Dispatcher(
        store,
        Duties(runner, Orders(storage, site), _policy(settings), clock),
        lease,
        clock,
        Limits(
            max_jobs=settings.pulsar.max_jobs,
            patience_s=settings.dispatch.patience_s,
            poll_interval_s=settings.pulsar.status.poll_interval,
            sweep_s=settings.retention.sweep_s,
        ),
        retention=_retention(settings, store, clock),
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
        admission=_admission(settings, store, clock),
    )

    def told(job: JobId) -> None:
        if task_id := task_of(job):
            dispatcher.changed(task_id)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        runner.listen(told)
        work = _drive(store, dispatcher, clock, opened=await _open(store))
        driving = asyncio.create_task(work, name="dispatcher")
        driving.add_done_callback(_end_unless_stopped)
        try:
            yield
        finally:
            await dispatcher.stop(driving)
            await _soon(runner.close(), "the connections to Pulsar")
            await _soon(store.close(), "the store")

    app = create_app(
        service,
        make_authenticator(settings, clock),
        _info(settings, storage),
        Readiness(neighbours(store, runner), clock),
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


async def _soon(closing: Awaitable[None], what: str) -> None:
    """Close what can be closed soon; the end of the process closes the rest."""
    try:
        async with asyncio.timeout(CLOSING_S):
            await closing
    except TimeoutError:
        logger.warning("{} could not be closed within {} s", what, CLOSING_S)


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
        heartbeat_s=settings.dispatch.heartbeat_s,
        transfer=_transfer(settings),
        missing=settings.outputs.missing,
    )


def _transfer(settings: Settings) -> Transfer:
    storage = settings.storage
    return Transfer(
        parallel=storage.parallel,
        attempts=storage.attempts,
        timeout_s=storage.timeout_s,
        ca=None if storage.ca_file is None else _certificates(storage.ca_file),
    )


def _certificates(file: Path) -> str:
    """Return the PEM text, if it is such."""
    try:
        text = file.read_text("ascii")
        ssl.create_default_context(cadata=text)
    except (OSError, ValueError) as error:
        raise Misconfigured(f"`storage.ca_file` {file} cannot be read: {error}.") from error
    return text


def new_task_id() -> TaskId:
    """Return a name nobody can guess."""
    return TaskId(secrets.token_hex(ID_BYTES))


def _policy(settings: Settings) -> Policy:
    dispatch = settings.dispatch
    return Policy(
        max_attempts=dispatch.max_attempts,
        rerun_started=dispatch.rerun_started,
        silence_s=dispatch.silence_s,
        quarantine_s=dispatch.lease_s + settings.pulsar.client_timeout,
    )


def _retention(settings: Settings, store: TaskStore, clock: Clock) -> Retention | None:
    days = settings.retention.days
    return None if days is None else Retention(store, clock, days)


def _admission(settings: Settings, store: TaskStore, clock: Clock) -> Admission | None:
    queue, per_owner = settings.limits.queue, settings.limits.tasks_per_owner
    if queue is None and per_owner is None:
        return None
    return Admission(store, clock, queue=queue, per_owner=per_owner)


def _info(settings: Settings, storage: Storage) -> ServiceInfo:
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
