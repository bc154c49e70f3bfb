"""The stack of docker-compose.yaml: built, brought up, used, taken down; what is seen meanwhile."""

import asyncio
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

import pytest

from tesp_api.local import example
from tesp_api.local.own_pulsar import free_port
from tests.needs import need

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 30
SLEEPER: Final = {"executors": [{"image": example.IMAGE, "command": ["sleep", "600"]}]}
DEV: Final = ("-f", "docker-compose.yaml", "-f", "docker/docker-compose.dev.yaml")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A project of `docker compose` of our own; `directory` is the host's directory for Pulsar."""

    project: str
    port: int
    directory: Path

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def compose(self, *arguments: str) -> str:
        """Return what the command printed; fail with all it said if it did."""
        ours = {
            "COMPOSE_PROJECT_NAME": self.project,
            "API_PORT": str(self.port),
            "PULSAR_DIRECTORY": str(self.directory),
        }
        return _said(["docker", "compose", *arguments], {**os.environ, **ours})

    def whole(self, *arguments: str) -> str:
        return self.compose("--profile", "pulsar", *arguments)

    def down(self) -> None:
        self.whole("down", "--volumes", "--rmi", "local")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one life of the stack showed; by service where it is a mapping."""

    ended: Mapping[str, Any]
    sent: str
    containers: Mapping[str, Mapping[str, Any]]
    users: Mapping[str, set[str]]
    network: Mapping[str, Any]
    status_of_other_host: int
    secrets_at_first: str
    secrets_later: str
    sleepers: list[str]
    left: list[str]
    left_of_sleeper: list[str]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    need("compose")
    stack = Stack(
        project=f"tesp-test-{secrets.token_hex(4)}",
        port=free_port("127.0.0.1"),
        directory=tmp_path_factory.mktemp("pulsar"),
    )
    yield stack
    stack.down()


@pytest.fixture(scope="module")
def seen(stack: Stack) -> Seen:
    """Live through it all once; the tests look at what was seen."""
    stack.whole("build")
    with _logs_on_failure(stack):
        stack.whole("up", "--detach", "--wait")
        at_first = _secrets(stack)
        stack.whole("up", "--detach", "--wait")
        ended = asyncio.run(example.run(stack.base, stack.directory / "files"))
        sleeper = _call(stack, "/tasks", SLEEPER)["id"]
        label = f"label=tesp.task={sleeper}"
        _until(lambda: _call(stack, f"/tasks/{sleeper}")["state"] == "RUNNING")
        _until(lambda: bool(_docker("ps", "-q", "--filter", label)))
        containers = _inspected(stack)
        alive = {
            "containers": containers,
            "users": {
                service: _users(one["Id"])
                for service, one in containers.items()
                if one["State"]["Running"]
            },
            "network": json.loads(
                _said(["docker", "network", "inspect", f"{stack.project}_default"])
            )[0],
            "status_of_other_host": _status(stack, host="attacker.example"),
            "secrets_later": _secrets(stack),
            "sleepers": _docker("ps", "-q", "--filter", label),
        }
    stack.down()
    return Seen(
        ended=ended,
        sent=(stack.directory / "files/greeting.sha1").read_text(),
        secrets_at_first=at_first,
        left=_left(stack),
        left_of_sleeper=_docker("ps", "-aq", "--filter", label),
        **alive,
    )


# --- the stack ---


@pytest.mark.slow
def test_the_readmes_example_is_complete_and_its_output_on_the_host(seen: Seen) -> None:
    (log,) = seen.ended["logs"]
    assert (seen.ended["state"], log["logs"][0]["exit_code"]) == ("COMPLETE", 0)
    assert seen.sent.split() == ["3cdb8a61717890743e100d34e92304993abbb5d0", "greeting.txt"]


@pytest.mark.slow
def test_only_the_api_is_published_and_on_loopback(seen: Seen, stack: Stack) -> None:
    published = {
        service: one["HostConfig"]["PortBindings"]
        for service, one in seen.containers.items()
        if one["HostConfig"]["PortBindings"]
    }
    there = [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]
    assert published == {"tesp-api": {"8080/tcp": there}}


@pytest.mark.slow
def test_the_api_answers_to_its_own_names_alone(seen: Seen) -> None:
    assert seen.status_of_other_host == 421


@pytest.mark.slow
def test_nothing_is_privileged(seen: Seen) -> None:
    for one in seen.containers.values():
        assert one["HostConfig"]["Privileged"] is False
        assert "no-new-privileges:true" in one["HostConfig"]["SecurityOpt"]


@pytest.mark.slow
def test_api_and_pulsar_run_as_ordinary_users(seen: Seen) -> None:
    assert seen.users["tesp-api"] == {"10001"}
    assert len(seen.users["pulsar_rest"]) == 1
    assert not seen.users["pulsar_rest"] & {"0", "root"}


@pytest.mark.slow
def test_each_secret_is_its_readers_alone_and_made_once(seen: Seen) -> None:
    lines = [line.split() for line in seen.secrets_at_first.splitlines()]
    assert [(name, mode, uid) for name, mode, uid, _ in lines] == [
        ("mongodb_password", "400", "999"),
        ("pulsar_token", "400", "0"),
        ("tesp_api.toml", "400", "10001"),
    ]
    assert seen.secrets_later == seen.secrets_at_first


@pytest.mark.slow
def test_no_secret_is_in_an_environment_or_a_command_line(seen: Seen) -> None:
    told = {
        variable.partition("=")[0]
        for service in ("tesp-api", "pulsar_rest", "secrets")
        for variable in seen.containers[service]["Config"]["Env"]
    }
    assert not {name for name in told if "TOKEN" in name or "PASSWORD" in name or "URI" in name}
    database = dict(v.split("=", 1) for v in seen.containers["tesp-db"]["Config"]["Env"])
    assert "MONGO_INITDB_ROOT_PASSWORD" not in database


@pytest.mark.slow
def test_the_network_has_the_mtu_that_is_asked_for(seen: Seen) -> None:
    assert seen.network["Options"]["com.docker.network.driver.mtu"] == "1442"


@pytest.mark.slow
def test_down_leaves_nothing_not_even_the_container_of_a_running_task(seen: Seen) -> None:
    assert len(seen.sleepers) == 1
    assert (seen.left, seen.left_of_sleeper) == ([], [])


# --- the files ---


def test_without_a_profile_there_are_api_and_database_alone(stack: Stack) -> None:
    assert sorted(stack.compose("config", "--services").split()) == [
        "secrets",
        "tesp-api",
        "tesp-db",
    ]


def test_the_override_for_work_on_the_api_mounts_its_sources(stack: Stack) -> None:
    merged = json.loads(stack.compose(*DEV, "config", "--format", "json"))
    mounts = merged["services"]["tesp-api"]["volumes"]
    sources = {mount["source"]: mount["target"] for mount in mounts if mount["type"] == "bind"}
    assert sources == {
        str(ROOT / "tesp_api"): "/app/tesp_api",
        str(ROOT / "settings.toml"): "/app/settings.toml",
    }


# --- means ---


def _said(command: list[str], environment: Mapping[str, str] | None = None) -> str:
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


def _docker(*arguments: str) -> list[str]:
    return _said(["docker", *arguments]).split()


@contextlib.contextmanager
def _logs_on_failure(stack: Stack) -> Iterator[None]:
    try:
        yield
    except BaseException:
        print(stack.whole("logs", "--no-color", "--tail", "40"))
        raise


def _call(stack: Stack, path: str, body: object = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    url = f"{stack.base}/ga4gh/tes/v1{path}"
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def _status(stack: Stack, host: str) -> int:
    connection = HTTPConnection("127.0.0.1", stack.port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET", "/ga4gh/tes/v1/tasks", headers={"Host": host})
        return connection.getresponse().status


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s"
        time.sleep(0.2)


def _inspected(stack: Stack) -> dict[str, Mapping[str, Any]]:
    found = json.loads(_said(["docker", "inspect", *stack.whole("ps", "-aq").split()]))
    return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}


def _users(container: str) -> set[str]:
    _, *users = _said(["docker", "top", container, "-eo", "uid,pid"]).splitlines()
    return {line.split()[0] for line in users}


def _secrets(stack: Stack) -> str:
    """Return name, mode, owner and checksum of each secret."""
    script = "cd /run/tesp/secrets && for f in *; do stat -c '%n %a %u' $f; sha256sum <$f; done"
    said = stack.whole(
        "run", "--rm", "--no-deps", "--cap-add", "DAC_READ_SEARCH", "secrets", "sh", "-c", script
    )
    words = said.replace("-", " ").split()
    return "\n".join(" ".join(words[i : i + 4]) for i in range(0, len(words), 4))


def _left(stack: Stack) -> list[str]:
    """Return what Docker still has of the project."""
    mine = ("--filter", f"label=com.docker.compose.project={stack.project}")
    return [
        *_docker("ps", "-aq", *mine),
        *_docker("volume", "ls", "-q", *mine),
        *_docker("network", "ls", "-q", *mine),
        *_docker("image", "ls", "-q", f"{stack.project}-*"),
    ]
