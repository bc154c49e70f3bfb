"""What the machine under the tests can really do, asked once a session.

`need("docker")` lets a test go on or skips it with a reason; TESP_TEST_REQUIRE=all makes it fail.
A component counts as there only when it did some real work, not when its program is in the PATH.
"""

import asyncio
import importlib.util
import os
import pwd
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

import aio_pika
import pymongo
import pymongo.errors
import pytest

PREFIX: Final = "needs "
"""How the reason of such a skip begins; the summary goes by it."""

IMAGE: Final = "ubuntu:20.04"
PROBE_TIMEOUT_S: Final = 60
OIDC_ISSUER: Final = Path(__file__).parent / "components" / "oidc_issuer.mjs"

NAMESPACES: Final = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.getuid(), os.getgid()
def done(result):
    if result:
        raise SystemExit(os.strerror(ctypes.get_errno()))
done(libc.unshare(0x10000000 | 0x00020000))
for name, text in ("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1"):
    with open("/proc/self/" + name, "w") as file:
        file.write(text)
done(libc.mount(b"none", b"/", None, 0x40000 | 0x4000, None))
done(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
"""


def required() -> bool:
    """Tell whether a missing component is a failure instead of a skip."""
    return os.environ.get("TESP_TEST_REQUIRE") == "all"


def need(component: str) -> None:
    """Go on only where `component` is really usable; skip or fail otherwise, with the reason."""
    reason = missing(component)
    if reason is None:
        return
    message = f"{PREFIX}{component}: {reason}"
    if required():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@cache
def missing(component: str) -> str | None:
    """Return why `component` cannot be used here, or None if it can."""
    return _PROBES[component]()


def _works(*command: str) -> str | None:
    """Run a command that proves something; return None, or its last words."""
    try:
        # Nothing to read: a probe must not eat the terminal's input.
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=PROBE_TIMEOUT_S,
        )
    except FileNotFoundError:
        return f"{command[0]} is not installed"
    except subprocess.TimeoutExpired:
        return f"`{shlex.join(command)}` took more than {PROBE_TIMEOUT_S} s"
    if done.returncode == 0:
        return None
    words = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
    return words[-1] if words else f"`{shlex.join(command)}` ended with {done.returncode}"


def _arguments(variable: str) -> list[str]:
    return shlex.split(os.environ.get(variable, ""))


def _docker() -> str | None:
    run = ("docker", "run", "--rm", "--network", "none", "--pull", "never", IMAGE, "true")
    return _works("docker", "info") or _works(*run)


def _compose() -> str | None:
    """Whether `docker compose` is there, and here what its images are built on."""
    bases = ("python:3.12-slim", "docker:28-cli", "mongo:7", "rabbitmq:4-alpine")
    version = ("docker", "compose", "version")
    return _docker() or _works(*version) or _works("docker", "image", "inspect", *bases)


def _podman() -> str | None:
    with_global = ("podman", *_arguments("TESP_TEST_PODMAN_GLOBAL_ARGS"))
    run_args = _arguments("TESP_TEST_PODMAN_RUN_ARGS")
    return _works(
        *with_global,
        "run",
        "--rm",
        *run_args,
        "--network",
        "none",
        "--pull",
        "never",
        IMAGE,
        "true",
    )


def _apptainer(program: str) -> str | None:
    root = os.environ.get("TESP_TEST_APPTAINER_IMAGE_ROOT")
    if root is None:
        return (
            _works(program, "--version")
            or "TESP_TEST_APPTAINER_IMAGE_ROOT names no directory of images"
        )
    image = Path(root) / f"{IMAGE.replace(':', '-')}.sif"
    return _works(program, "exec", "--no-home", str(image), "true")


def _mongodb() -> str | None:
    uri = os.environ.get("TESP_TEST_MONGODB_URI")
    if uri is None:
        return "TESP_TEST_MONGODB_URI is not set"
    try:
        with pymongo.MongoClient(uri, serverSelectionTimeoutMS=5000) as client:
            # Not a ping, which does not reach the storage behind a front end.
            client.list_database_names()
    except pymongo.errors.PyMongoError as error:
        return f"TESP_TEST_MONGODB_URI does not answer: {str(error).partition(' (')[0]}"
    return None


def _rabbitmq() -> str | None:
    url = os.environ.get("TESP_TEST_AMQP_URL")
    if url is None:
        return "TESP_TEST_AMQP_URL is not set"
    # A loop of its own in a thread of its own: the caller may be a coroutine.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _greets(url)).result()


async def _greets(url: str) -> str | None:
    try:
        async with await aio_pika.connect(url, timeout=10) as connection:
            await connection.channel()
    except (aio_pika.exceptions.AMQPError, OSError, TimeoutError) as error:
        return f"TESP_TEST_AMQP_URL does not answer: {error}"
    return None


def _userns() -> str | None:
    return _works(sys.executable, "-c", NAMESPACES)


def _pulsar() -> str | None:
    wanted = [name for name in ("pulsar", "gunicorn") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(wanted)} cannot be imported (the extra `local`)" if wanted else None


def _root() -> str | None:
    return "the tests do not run as root" if os.geteuid() else None


def _user() -> str | None:
    """Whether there is an ordinary account, member of the group docker, to run a Pulsar as."""
    name = os.environ.get("TESP_TEST_PULSAR_USER")
    if name is None:
        return "TESP_TEST_PULSAR_USER is not set"
    try:
        pwd.getpwnam(name)
    except KeyError:
        return f"there is no user {name}"
    return _root()


def _oidc() -> str | None:
    """Whether an issuer of tokens comes up; without input it ends at once."""
    directory = os.environ.get("TESP_TEST_OIDC_DIR")
    if directory is None:
        return "TESP_TEST_OIDC_DIR names no directory with oauth2-mock-server"
    return _works("node", str(OIDC_ISSUER), directory)


def _py_tes_0_4() -> str | None:
    python = os.environ.get("TESP_TEST_PY_TES_0_4")
    if python is None:
        return "TESP_TEST_PY_TES_0_4 names no Python with py-tes 0.4"
    return _works(python, "-c", "import tes")


def _seaweedfs() -> str | None:
    program = os.environ.get("TESP_TEST_WEED")
    return "TESP_TEST_WEED is not set" if program is None else _works(program, "version")


def _minio() -> str | None:
    program = os.environ.get("TESP_TEST_MINIO")
    return "TESP_TEST_MINIO is not set" if program is None else _works(program, "--version")


def _rclone() -> str | None:
    program = os.environ.get("TESP_TEST_RCLONE")
    return "TESP_TEST_RCLONE is not set" if program is None else _works(program, "version")


def _vsftpd() -> str | None:
    """Whether vsftpd and a way for it to check a password are there, and root to start it."""
    if "TESP_TEST_FTP_PASSWORD" not in os.environ:
        return "TESP_TEST_FTP_PASSWORD is not set"
    return _root() or _works("vsftpd", "-v")


def _dts() -> str | None:
    """Whether `docker compose` is there, and here the images of the data transfer stack."""
    images = _arguments("TESP_TEST_DTS_IMAGES")
    if not images:
        return _compose() or "TESP_TEST_DTS_IMAGES is not set"
    return _compose() or _works("docker", "image", "inspect", *images)


def _snakemake() -> str | None:
    program = os.environ.get("TESP_TEST_SNAKEMAKE")
    image = os.environ.get("TESP_TEST_SNAKEMAKE_IMAGE")
    if program is None or image is None:
        return "TESP_TEST_SNAKEMAKE or TESP_TEST_SNAKEMAKE_IMAGE is not set"
    return _works(program, "--version") or _works("docker", "image", "inspect", image)


_PROBES: Final[Mapping[str, Callable[[], str | None]]] = MappingProxyType(
    {
        "docker": _docker,
        "compose": _compose,
        "podman": _podman,
        "apptainer": lambda: _apptainer("apptainer"),
        "singularity": lambda: _apptainer("singularity"),
        "mongodb": _mongodb,
        "rabbitmq": _rabbitmq,
        "userns": _userns,
        "pulsar": _pulsar,
        "root": _root,
        "user": _user,
        "oidc": _oidc,
        "py-tes-0.4": _py_tes_0_4,
        "seaweedfs": _seaweedfs,
        "snakemake": _snakemake,
        "minio": _minio,
        "rclone": _rclone,
        "nginx": lambda: _works("nginx", "-v"),
        "chromium": lambda: _works("chromium", "--version"),
        "vsftpd": _vsftpd,
        "dts": _dts,
    }
)
