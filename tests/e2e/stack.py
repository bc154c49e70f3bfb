"""The server as its users have it: a process of its own, settings from the environment, by HTTP."""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tesp_api.local.own_pulsar import free_port
from tests.amqp_pulsars import AmqpPulsar
from tests.needs import missing, need
from tests.pulsars import HOST, LivePulsar, processes_of, until

ENGINES: Final = ("docker", "podman", "apptainer", "host")
COMPONENT: Final = {"host": "userns"}
"""What an engine needs where it is not called like the engine."""
TRANSPORT: Final = os.environ.get("TESP_TEST_TRANSPORT", "rest")
"""How Pulsar is reached unless a test says it: the variable has the whole set go by amqp."""
TRANSPORTS: Final = tuple(dict.fromkeys((TRANSPORT, "amqp")))
WAYS: Final = (
    *((engine, TRANSPORT) for engine in ENGINES),
    *((engine, "amqp") for engine in ("docker", "host") if TRANSPORT != "amqp"),
)
"""Each engine, and how its Pulsar is reached."""
SERVERS: Final = 8
"""Most servers of one Pulsar by messages."""
IMAGE: Final = "ubuntu:20.04"
ENDS: Final = frozenset({"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED"})
Json = dict[str, Any]


class Api:
    """`tesp-api serve`. The same object may be started again: same port, store and settings."""

    def __init__(
        self, directory: Path, environ: Mapping[str, str], port: int | None = None
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port(HOST)
        self.base = f"http://{HOST}:{self.port}"
        self.log = directory / "api.log"
        self._directory = directory
        self._environ = {
            "TESP_DB__SQLITE_PATH": str(directory / "tasks.sqlite"),
            "TESP_SERVER__PORT": str(self.port),
            **environ,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(base_url=f"{self.base}/ga4gh/tes/v1", timeout=30)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def begin(self, *command: str) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *(command or ("-m", "tesp_api", "serve"))],
                cwd=self._directory,
                env={**os.environ, **self._environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_up(self) -> None:
        until(self._is_up, 30, lambda: f"the API does not come up:\n{self.tail()}")

    def start(self) -> None:
        self.begin()
        self.wait_until_up()

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def terminate(self) -> tuple[int, float]:
        """End it by SIGTERM; return its exit status and how many seconds it took."""
        assert self._process is not None
        begun = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60), time.monotonic() - begun

    def stop(self) -> None:
        self._http.close()
        if self._process is not None and self._process.poll() is None:
            self.terminate()

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def speak_as(self, token: str) -> None:
        """Send that bearer token from now on."""
        self._http.headers["Authorization"] = f"Bearer {token}"

    # --- TES ---

    def answer(self, task: Mapping[str, Any]) -> httpx.Response:
        """Return the answer to a task that may be refused."""
        return self._http.post("/tasks", json=task)

    def post(self, task: Mapping[str, Any]) -> str:
        answer = self._http.post("/tasks", json=task)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def get(self, task_id: str, view: str = "FULL") -> Json:
        answer = self._http.get(f"/tasks/{task_id}", params={"view": view})
        assert answer.status_code == 200, answer.text
        document: Json = answer.json()
        return document

    def list(self, **query: str) -> Json:
        answer = self._http.get("/tasks", params=query)
        assert answer.status_code == 200, answer.text
        document: Json = answer.json()
        return document

    def cancel(self, task_id: str) -> httpx.Response:
        return self._http.post(f"/tasks/{task_id}:cancel")

    def state(self, task_id: str) -> str:
        return str(self.get(task_id, "MINIMAL")["state"])

    def wait(
        self, task_id: str, states: Sequence[str] | frozenset[str] = ENDS, patience_s: float = 60
    ) -> Json:
        """Return the task, FULL, as soon as it is in one of `states`."""
        until(
            lambda: self.state(task_id) in states,
            patience_s,
            lambda: f"{self.get(task_id)} is not yet {'/'.join(states)}:\n{self.tail()}",
        )
        return self.get(task_id)

    def run(self, task: Mapping[str, Any], patience_s: float = 60) -> Json:
        return self.wait(self.post(task), patience_s=patience_s)

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.tail()
        with contextlib.suppress(httpx.TransportError):
            return self._http.get("/service-info").status_code in (200, 401)
        return False


class Messenger(AmqpPulsar):
    """A Pulsar behind the session's broker. Each server has one of its managers for itself."""

    def __init__(self, directory: Path) -> None:
        names = [f"m{secrets.token_hex(4)}" for _ in range(SERVERS)]
        super().__init__(directory, os.environ["TESP_TEST_AMQP_URL"], managers=names)
        self._free = iter(names)

    def settings(self) -> dict[str, str]:
        """Return what one more server needs to know."""
        return {
            "TESP_PULSAR__AMQP_URL": self.amqp_url,
            "TESP_PULSAR__MANAGER": next(self._free),
        }


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A server, its Pulsar, and the directory that tasks may reach by `file://`."""

    engine: str
    transport: str
    pulsar: LivePulsar
    api: Api
    files: Path

    @property
    def name(self) -> str:
        return f"{self.engine}-{self.transport}"

    def left_of(self, *task_ids: str) -> list[str]:
        """Name whatever of the tasks is still on the node: containers, processes, directories."""
        directories = [name for one in task_ids for name in self.pulsar.directories(one)]
        return [*containers_of(*task_ids), *processes_of(*task_ids), *directories]

    def wait_until_nothing_is_left(self, *task_ids: str, patience_s: float = 30) -> None:
        until(
            lambda: not self.left_of(*task_ids),
            patience_s,
            lambda: f"left: {self.left_of(*task_ids)}\n{self.api.tail()}",
        )

    def stop(self) -> None:
        self.api.stop()
        self.pulsar.stop()


def begin_stack(directory: Path, engine: str, transport: str = TRANSPORT, **settings: str) -> Stack:
    """Start both without waiting for them; `settings` are further TESP_… variables."""
    files = directory / "files"
    files.mkdir(parents=True)
    pulsar = _pulsar(transport, directory / "pulsar")
    pulsar.begin()
    api = Api(directory / "api", {**environment(engine, pulsar, files), **settings})
    api.begin()
    return Stack(engine=engine, transport=transport, pulsar=pulsar, api=api, files=files)


def _pulsar(transport: str, directory: Path) -> LivePulsar:
    if transport == "rest":
        return LivePulsar(directory)
    need("rabbitmq")
    return Messenger(directory)


def environment(engine: str, pulsar: LivePulsar, files: Path) -> dict[str, str]:
    """Return the settings that all tests share, for one server.

    Leases and time-outs are short for the restarts.
    """
    return {
        "CONTAINER_TYPE": engine,
        **_engine_settings(engine),
        **_pulsar_settings(pulsar),
        "TESP_PULSAR__MAX_JOBS": "8",
        "TESP_PULSAR__CLIENT_TIMEOUT": "10",
        "TESP_DISPATCH__LEASE_S": "5",
        "TESP_STORAGE__FILE__ROOTS": str(files),
    }


def _pulsar_settings(pulsar: LivePulsar) -> dict[str, str]:
    if isinstance(pulsar, Messenger):
        return pulsar.settings()
    return {"TESP_PULSAR__URL": pulsar.url, "TESP_PULSAR__PRIVATE_TOKEN": pulsar.token}


def _engine_settings(engine: str) -> dict[str, str]:
    if engine == "podman":
        return {
            "TESP_CONTAINER__GLOBAL_ARGS": os.environ.get("TESP_TEST_PODMAN_GLOBAL_ARGS", ""),
            "TESP_CONTAINER__RUN_ARGS": os.environ.get("TESP_TEST_PODMAN_RUN_ARGS", ""),
        }
    if engine == "apptainer":
        roots = os.environ.get("TESP_TEST_APPTAINER_IMAGE_ROOT", "")
        return {"TESP_CONTAINER__IMAGE_ROOTS": roots}
    return {}


def fastest() -> str:
    """Return the engine that starts fastest here, for what does not depend on the engine."""
    return "host" if missing("userns") is None else "docker"


def containers_of(*task_ids: str) -> list[str]:
    """Name the tasks' containers, in any state, of every engine that has a list of them."""
    found = []
    for engine in ("docker", "podman"):
        with contextlib.suppress(FileNotFoundError):
            listed = subprocess.run(
                [engine, "ps", "--all", "--format", "{{.Names}}"],
                capture_output=True,
                check=False,
                text=True,
                stdin=subprocess.DEVNULL,
            )
            found += [f"{engine} {name}" for name in listed.stdout.split()]
    return [name for name in found if any(task_id in name for task_id in task_ids)]


def task(*command: str, **more: Any) -> Json:
    """Return a task with one executor; what belongs to the executor goes there."""
    own = {"workdir", "stdin", "stdout", "stderr", "env", "ignore_error", "image"}
    executor = {key: more.pop(key) for key in own & more.keys()}
    return {"executors": [{"image": IMAGE, "command": list(command), **executor}], **more}


def shell(line: str, **more: Any) -> Json:
    """Return a task whose executor is a line for the shell."""
    return task("sh", "-c", line, **more)
