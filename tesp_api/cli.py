"""`tesp-api run | serve | check | migrate`: the command line."""

import argparse
import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvicorn

from tesp_api import __version__, check, migrate
from tesp_api.adapters import make_runner, make_store
from tesp_api.domain.errors import Misconfigured, StoreUnreachable
from tesp_api.local import engines, example
from tesp_api.local.own_pulsar import OwnPulsar
from tesp_api.settings import Settings, load, masked, table
from tesp_api.tesp_api import Server, build, configure_log

SHUTDOWN_S: Final = 2
"""How long open requests may take at the end; with the steps and the closing less than 10 s."""
STARTED_POLL_S: Final = 0.02


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 well, 1 with a sentence, 2 for a command that is none."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        status = asyncio.run(chosen.command(chosen))
    except Misconfigured as error:
        sys.exit(f"tesp-api: {error}")
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tesp-api", description="GA4GH TES over Galaxy Pulsar.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="the whole stack here, with a Pulsar of its own")
    run.add_argument("--once", action="store_true", help="end when the example task has ended")
    run.add_argument("--port", type=int, default=8080, help="port of the API (8080)")
    run.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ.get("TESP_DATA_DIR") or "var"),
        help="where everything is kept (TESP_DATA_DIR, or ./var)",
    )
    run.set_defaults(command=_run)
    serve = commands.add_parser("serve", help="the API, with the store and Pulsar of the settings")
    serve.set_defaults(command=_serve)
    checked = commands.add_parser("check", help="show the settings and try what they name")
    checked.add_argument("--image", default=example.IMAGE, help="what to run at Pulsar")
    checked.set_defaults(command=_check)
    moved = commands.add_parser("migrate", help="copy tasks of CESNET/tesp-api from MongoDB")
    moved.add_argument("--uri", help="its `db.mongodb_uri`, if it is not ours")
    moved.add_argument("--issuer", help="whose tokens its users came with; else admins see them")
    moved.set_defaults(command=_migrate)
    keys = commands.add_parser("settings", help="print the table of all settings")
    keys.set_defaults(command=_print_settings)
    return parser


# --- serve ---


async def _serve(_chosen: argparse.Namespace) -> int:
    settings = load()
    configure_log(settings)
    server = _http_server(settings, await _opened(build(settings)))
    await server.serve(sockets=[_listen(settings.server.host, settings.server.port)])
    return 0 if server.started else 1


async def _opened(server: Server) -> Server:
    """Open the store early, so that one that can never be used is told as a sentence."""
    with contextlib.suppress(StoreUnreachable):  # weather: the application waits for it
        await server.store.open()
    return server


def _http_server(settings: Settings, server: Server) -> uvicorn.Server:
    config = uvicorn.Config(
        server.app,
        log_config=None,
        access_log=settings.server.access_log,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )
    return uvicorn.Server(config)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises Misconfigured where the address cannot be had."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise Misconfigured(f"Cannot listen on {host} port {port}: {reason}.") from error


# --- check ---


async def _check(chosen: argparse.Namespace) -> int:
    settings = load()
    for name, value in masked(settings).items():
        print(f"{name} = {value}")
    print()
    for warning in settings.warnings:
        print(f"warning  {warning}")
    return 0 if await check.neighbours(settings, chosen.image) else 1


async def _migrate(chosen: argparse.Namespace) -> int:
    settings = load()
    own = settings.db.mongodb_uri
    uri = chosen.uri or (own.get_secret_value() if own else None)
    if uri is None:
        raise Misconfigured("The settings name no MongoDB: say where the tasks are by --uri.")
    store = make_store(settings)
    try:
        await store.open()
        return await migrate.migrate(uri, store, chosen.issuer)
    finally:
        await store.close()


async def _print_settings(_chosen: argparse.Namespace) -> int:
    print(table(), end="")
    return 0


# --- run ---


async def _run(chosen: argparse.Namespace) -> int:
    data = chosen.data_dir.absolute()
    listening = _listen("127.0.0.1", chosen.port)
    files = data / "files"
    files.mkdir(parents=True, exist_ok=True)
    pulsar = OwnPulsar(data / "pulsar")
    choice = await _choose_engine()
    environment = _environment(data, files, pulsar, choice.kind)
    settings = load(environ=environment)
    configure_log(settings)
    server = await _opened(build(settings))
    async with contextlib.AsyncExitStack() as stack:
        await pulsar.start()
        stack.push_async_callback(pulsar.stop)
        version = await _version(settings, pulsar)
        base = f"http://localhost:{chosen.port}"
        _introduce(base, data, f"{pulsar.url}, version {version}, log {pulsar.log}", choice)
        return await _serve_example(_http_server(settings, server), listening, files, chosen.once)


async def _version(settings: Settings, pulsar: OwnPulsar) -> str:
    """Wait for our Pulsar. The server's own way there opens only once it serves."""
    runner = make_runner(settings)
    try:
        return await pulsar.wait_until_up(runner)
    finally:
        await runner.close()


async def _choose_engine() -> engines.Choice:
    """Take the engine the operator named, or else the first that works."""
    if named := os.environ.get("CONTAINER_TYPE") or os.environ.get("TESP_CONTAINER__TYPE"):
        return engines.Choice(named, "named by CONTAINER_TYPE")
    container = load(environ={**os.environ, "FASTAPI_PROFILE": _profile()}).container
    return await engines.choose(
        example.IMAGE, global_args=container.global_args, run_args=container.run_args
    )


def _profile() -> str:
    """Return the profile of `run`: `local` of the settings file here, if there is one."""
    chosen = os.environ.get("FASTAPI_PROFILE")
    return chosen or ("local" if Path("settings.toml").is_file() else "default")


def _environment(data: Path, files: Path, pulsar: OwnPulsar, engine: str) -> dict[str, str]:
    """Return the environment with what `run` decides by itself laid over it."""
    return {
        "TESP_LOGGING__LEVEL": "WARNING",
        **os.environ,
        "FASTAPI_PROFILE": _profile(),
        "CONTAINER_TYPE": engine,
        "TESP_DB__SQLITE_PATH": str(data / "tesp.sqlite"),
        "TESP_PULSAR__URL": pulsar.url,
        "TESP_PULSAR__PRIVATE_TOKEN": pulsar.token,
        "TESP_STORAGE__FILE__ROOTS": f'["{files}"]',
    }


def _introduce(base: str, data: Path, pulsar: str, choice: engines.Choice) -> None:
    print(f"API          {base} (TES 1.1 at {base}/ga4gh/tes/v1, Swagger UI at {base}/)")
    print(f"store        {data / 'tesp.sqlite'}")
    print(f"Pulsar       {pulsar}")
    if choice.kind == "host":
        print("engine       host: WARNING, no container engine works here, images are ignored")
        print(f"             ({choice.why})")
    else:
        print(f"engine       {choice.kind}: {choice.why}", flush=True)


async def _serve_example(
    http: uvicorn.Server, listening: socket.socket, files: Path, once: bool
) -> int:
    """Serve, run the example, go on serving unless it is to be done `once`."""
    serving = asyncio.create_task(http.serve(sockets=[listening]), name="http")
    while not http.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(STARTED_POLL_S)
    if serving.done():
        await serving
        return 1
    port = listening.getsockname()[1]
    ran = asyncio.create_task(example.run(f"http://127.0.0.1:{port}", files), name="example")
    await asyncio.wait({serving, ran}, return_when=asyncio.FIRST_COMPLETED)
    if not ran.done():
        ran.cancel()
        return 130
    ended = await ran
    example.show(ended)
    if not once:
        print(f"serving      until Ctrl-C; your files: {files}", flush=True)
        await serving
        return 0
    http.should_exit = True
    await serving
    return 0 if ended["state"] == "COMPLETE" else 1
