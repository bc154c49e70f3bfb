"""A real Pulsar for tests: a process on a loopback port, to be killed and started again."""

import configparser
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tesp_api.local.own_pulsar import free_port
from tesp_api.ports import JobNews, JobRunner, Permit, always
from tesp_api.pulsar.rest import RestRunner

HOST: Final = "127.0.0.1"
START_S: Final = 60.0
STOP_S: Final = 5.0
SECOND_MANAGER: Final = "second"
MANAGER: Final = MappingProxyType({"type": "queued_python"})


class LivePulsar:
    """pulsar-serve with REST; `directory` keeps its configuration, its jobs and its log.

    Port and token stay the same over restarts. There are two managers, `_default_` and `second`.
    """

    def __init__(self, directory: Path) -> None:
        self.port = free_port(HOST)
        self.token = secrets.token_urlsafe(32)
        self.url = f"http://{HOST}:{self.port}"
        self.staging = directory / "staging"
        self.log = directory / "pulsar.log"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start it; `wait_until_up` comes after."""
        self._configure()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._program()],
                cwd=self._directory,
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_up(self) -> None:
        until(self._is_up, START_S, lambda: f"Pulsar does not come up:\n{self.tail()}")

    def kill(self, *, jobs: bool = False) -> None:
        """kill -9 of the server's own processes; the jobs live on unless `jobs`."""
        assert self._process is not None
        own = (self._process.pid, *self.workers())
        for pid in self.processes() if jobs else own:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def is_up(self) -> bool:
        """Whether the process has not ended."""
        return self._process is not None and self._process.poll() is None

    def workers(self) -> list[int]:
        """Return the pids of the processes that serve; there is one."""
        assert self._process is not None
        return children(self._process.pid)

    def stop(self) -> None:
        """End the server and every job under it."""
        if self._process is None or self._process.returncode is not None:
            return
        family = descendants(self._process.pid)
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        if self._process.returncode is None:
            self._process.kill()
            self._process.wait()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def runner(
        self,
        _news: JobNews | None = None,
        *,
        token: str | None = None,
        manager: str = "_default_",
        timeout_s: float = 10.0,
        permit: Permit = always,
    ) -> JobRunner:
        """Return the port's adapter for this Pulsar."""
        token = token or self.token
        return RestRunner(
            self.url, token=token, manager=manager, timeout_s=timeout_s, permit=permit
        )

    def directories(self, task_or_job: str) -> list[str]:
        """Name the job directories that belong to it."""
        return [path.name for path in self.staging.glob(f"*{task_or_job}*")]

    def processes(self) -> list[int]:
        """Return the pids of the server and of all its jobs."""
        assert self._process is not None
        return [self._process.pid, *descendants(self._process.pid)]

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.tail()
        address = f"{self.url}/healthz?private_token={self.token}"
        try:
            with urllib.request.urlopen(address, timeout=START_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _program(self) -> list[str]:
        return ["-m", "pulsar.scripts.serve", str(self._directory / "server.ini")]

    def _app(self) -> dict[str, Any]:
        managers = ("_default_", SECOND_MANAGER)
        return {"private_token": self.token, "managers": {name: dict(MANAGER) for name in managers}}

    def _configure(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        app = {
            "staging_directory": str(self.staging),
            "persistence_directory": str(self._directory / "persisted_data"),
            **self._app(),
        }
        server = configparser.ConfigParser(interpolation=None)
        server["server:main"] = {"host": HOST, "port": str(self.port)}
        server["app:main"] = {
            "paste.app_factory": "pulsar.web.wsgi:app_factory",
            "app_config": "%(here)s/app.yml",
        }
        # JSON is YAML.
        (self._directory / "app.yml").write_text(json.dumps(app), encoding="utf-8")
        with (self._directory / "server.ini").open("w", encoding="utf-8") as file:
            server.write(file)


def until(
    holds: Callable[[], bool],
    patience_s: float,
    complaint: Callable[[], str],
    pause_s: float = 0.05,
) -> float:
    """Wait until `holds()`, and return after how many seconds; fail with the complaint."""
    begun = time.monotonic()
    while not holds():
        waited = time.monotonic() - begun
        assert waited < patience_s, f"{complaint()} (after {waited:.1f} s)"
        time.sleep(pause_s)
    return time.monotonic() - begun


def children(pid: int) -> list[int]:
    return [child for child, parent in _parents() if parent == pid]


def descendants(pid: int) -> list[int]:
    """Return all children of `pid`, their children, and so on."""
    found, todo = [], [pid]
    while todo:
        below = children(todo.pop())
        found += below
        todo += below
    return found


def processes_of(*names: str) -> list[str]:
    """Describe each process with one of `names` in its arguments, environment or directory."""
    marks = [name.encode() for name in names]
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                command = (entry / "cmdline").read_bytes()
                place = os.fsencode(os.readlink(entry / "cwd"))
                known = command + (entry / "environ").read_bytes() + place
                if any(mark in known for mark in marks):
                    words = command.replace(b"\0", b" ").decode(errors="replace")
                    found.append(f"{entry.name}: {words[:200]}")
    return found


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text(errors="replace")
                # The name, in brackets, may hold anything; the parent is second behind it.
                yield int(entry.name), int(stat.rpartition(")")[2].split()[1])
