"""A Pulsar of our own: a child process on a loopback port, with a random token."""

import asyncio
import contextlib
import json
import os
import random
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tesp_api.domain.errors import Misconfigured, RunnerUnreachable
from tesp_api.ports import JobRunner

START_S: Final = 60.0
STOP_S: Final = 5.0
PORTS: Final = range(20_000, 32_000)
"""Below the ephemeral ports, which outgoing connections take at any moment."""

_DIE_WITH_PARENT: Final = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent has gone")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class OwnPulsar:
    """Starts and ends Pulsar. `directory` keeps its jobs, so that they survive the next start."""

    def __init__(self, directory: Path, *, host: str = "127.0.0.1") -> None:
        self._directory = directory
        self._host = host
        self.port = free_port(host)
        self.token = secrets.token_urlsafe(32)
        self.log = directory / "pulsar.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{self._host}:{self.port}"

    async def start(self) -> None:
        """Write its configuration, readable by us alone, and start it; `wait_until_up` comes after.

        Raises Misconfigured where pulsar-app is not installed.
        """
        if find_spec("pulsar") is None or find_spec("gunicorn") is None:
            raise Misconfigured("Pulsar is not installed here: pip install 'tesp-api[local]'.")
        self._configure()
        command = ["-m", "pulsar.scripts.serve", str(self._directory / "server.ini")]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-c", _DIE_WITH_PARENT, str(os.getpid())),
                *command,
                cwd=self._directory,
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def wait_until_up(self, runner: JobRunner) -> str:
        """Return its version.

        Its port accepts before the application is loaded: the first call hangs.

        Raises Misconfigured, with the end of its log, where it does not come up.
        """
        assert self._process is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                while self._process.returncode is None:
                    with contextlib.suppress(RunnerUnreachable):
                        return await runner.ping()
                    await asyncio.sleep(0.1)
        last = self.log.read_text(errors="replace").splitlines()[-5:]
        raise Misconfigured("Pulsar does not start; its log ends so:\n" + "\n".join(last))

    async def stop(self) -> None:
        """End it and every job under it; the jobs' watchdogs remove the containers."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        family = list(_descendants(process.pid))
        process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _configure(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        app = {
            "staging_directory": str(self._directory / "staging"),
            "persistence_directory": str(self._directory / "persisted_data"),
            "private_token": self.token,
            "managers": {"_default_": {"type": "queued_python", "num_concurrent_jobs": 4}},
        }
        server = (
            f"[server:main]\nhost = {self._host}\nport = {self.port}\n\n"
            "[app:main]\npaste.app_factory = pulsar.web.wsgi:app_factory\n"
            "app_config = %(here)s/app.yml\n"
        )
        _write_privately(self._directory / "app.yml", json.dumps(app, indent=2))  # JSON is YAML
        _write_privately(self._directory / "server.ini", server)


def free_port(host: str) -> int:
    """Return a port below the ephemeral range that nobody listens on now."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                return port
    raise Misconfigured(f"No free port between {PORTS.start} and {PORTS.stop} on {host}.")


def _write_privately(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


def _descendants(pid: int) -> Iterator[int]:
    """Give the pids of all children of `pid` and theirs, as /proc tells now."""
    parents = dict(_parents())
    family = {pid}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
        yield from grown


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text(errors="replace")
                # The name, in brackets, may hold anything; the parent is second behind it.
                yield int(entry.name), int(stat.rpartition(")")[2].split()[1])
