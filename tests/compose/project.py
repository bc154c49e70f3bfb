"""A project of `docker compose` of the test's own, and ways to look at it."""

import contextlib
import json
import os
import secrets
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final

from tesp_api.local import example
from tesp_api.local.own_pulsar import free_port

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 30
SLEEPER: Final = {"executors": [{"image": example.IMAGE, "command": ["sleep", "600"]}]}


@dataclass(frozen=True, kw_only=True)
class Project:
    """docker-compose.yaml with one more profile; `directory` is the host's for Pulsar."""

    name: str
    port: int
    directory: Path
    profile: str

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pulsar(self) -> str:
        """The service that runs the tasks."""
        return {"pulsar": "pulsar_rest", "amqp": "pulsar_amqp"}[self.profile]

    def compose(self, *arguments: str) -> str:
        """Return what the command printed; fail with all it said if it did."""
        ours = {
            "COMPOSE_PROJECT_NAME": self.name,
            "API_PORT": str(self.port),
            "PULSAR_DIRECTORY": str(self.directory),
        }
        return said(["docker", "compose", *arguments], {**os.environ, **ours})

    def whole(self, *arguments: str) -> str:
        return self.compose("--profile", self.profile, *arguments)

    def down(self) -> None:
        self.whole("down", "--volumes", "--rmi", "local")


@contextlib.contextmanager
def project(directory: Path, profile: str) -> Iterator[Project]:
    """Give a project, and take it down at the end."""
    made = Project(
        name=f"tesp-test-{secrets.token_hex(4)}",
        port=free_port("127.0.0.1"),
        directory=directory,
        profile=profile,
    )
    try:
        yield made
    finally:
        made.down()


def said(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def docker(*arguments: str) -> list[str]:
    return said(["docker", *arguments]).split()


@contextlib.contextmanager
def logs_on_failure(project: Project) -> Iterator[None]:
    try:
        yield
    except BaseException:
        print(project.whole("logs", "--no-color", "--tail", "40"))
        raise


def call(project: Project, path: str, body: object = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    url = f"{project.base}/ga4gh/tes/v1{path}"
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def status(project: Project, host: str) -> int:
    connection = HTTPConnection("127.0.0.1", project.port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET", "/ga4gh/tes/v1/tasks", headers={"Host": host})
        return connection.getresponse().status


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s"
        time.sleep(0.2)


def inspected(project: Project) -> dict[str, Mapping[str, Any]]:
    found = json.loads(said(["docker", "inspect", *project.whole("ps", "-aq").split()]))
    return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}


def users(container: str) -> set[str]:
    _, *users = said(["docker", "top", container, "-eo", "uid,pid"]).splitlines()
    return {line.split()[0] for line in users}


def rights(project: Project) -> list[list[str]]:
    """Return the broker's users with what they may configure, write and read."""
    words = "exec -T rabbitmq rabbitmqctl -q list_permissions -p tesp --no-table-headers"
    return sorted(line.split("\t") for line in project.whole(*words.split()).splitlines())


def secret_files(project: Project) -> str:
    """Return name, mode, owner and checksum of each secret."""
    script = "cd /run/tesp && for f in */*; do stat -c '%n %a %u' $f; sha256sum <$f; done"
    said = project.whole(
        "run", "--rm", "--no-deps", "--cap-add", "DAC_READ_SEARCH", "secrets", "sh", "-c", script
    )
    words = said.replace("-", " ").split()
    return "\n".join(" ".join(words[i : i + 4]) for i in range(0, len(words), 4))


def left(project: str) -> list[str]:
    """Return what Docker still has of the project of that name."""
    mine = ("--filter", f"label=com.docker.compose.project={project}")
    return [
        *docker("ps", "-aq", *mine),
        *docker("volume", "ls", "-q", *mine),
        *docker("network", "ls", "-q", *mine),
        *docker("image", "ls", "-q", f"{project}-*"),
    ]
