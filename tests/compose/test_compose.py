"""The stack of docker-compose.yaml: built, brought up, used, taken down; what is seen meanwhile."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import pytest

from tesp_api.local import example
from tests.compose.project import (
    ROOT,
    SLEEPER,
    Project,
    call,
    docker,
    inspected,
    left,
    logs_on_failure,
    project,
    rights,
    said,
    secret_files,
    status,
    until,
    users,
)
from tests.needs import need

PROFILES: Final = ("pulsar", "amqp")
REACHED: Final = {"pulsar": "http://pulsar_rest:8913", "amqp": "amqp://rabbitmq:5672/tesp"}
DEV: Final = ("-f", "docker-compose.yaml", "-f", "docker/docker-compose.dev.yaml")
APPTAINER: Final = ("-f", "docker-compose.yaml", "-f", "docker/docker-compose.apptainer.yaml")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What one life of the stack showed; by service where it is a mapping."""

    project: Project
    ended: Mapping[str, Any]
    sent: str
    containers: Mapping[str, Mapping[str, Any]]
    users: Mapping[str, set[str]]
    network: Mapping[str, Any]
    rights: list[list[str]]
    status_of_other_host: int
    secrets_at_first: str
    secrets_later: str
    sleepers: list[str]
    left: list[str]
    left_of_sleeper: list[str]


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Seen]]:
    """Live through it all once for each profile; the tests look at what was seen."""
    with ExitStack() as projects:

        @cache
        def life(profile: str) -> Seen:
            directory = tmp_path_factory.mktemp(profile)
            return lived(projects.enter_context(project(directory, profile)))

        yield life


@pytest.fixture(params=PROFILES)
def seen(request: pytest.FixtureRequest, lives: Callable[[str], Seen]) -> Seen:
    need("compose")
    return lives(request.param)


@pytest.fixture
def idle(tmp_path: Any) -> Iterator[Project]:
    """Whose files are only read."""
    need("compose")
    with project(tmp_path, "pulsar") as found:
        yield found


def lived(stack: Project) -> Seen:
    """First without a Pulsar, which is added to what runs."""
    stack.whole("build")
    with logs_on_failure(stack):
        stack.compose("up", "--detach", "--wait")
        at_first = secret_files(stack)
        stack.whole("up", "--detach", "--wait")
        ended = asyncio.run(example.run(stack.base, stack.directory / "files"))
        sleeper = call(stack, "/tasks", SLEEPER)["id"]
        label = f"label=tesp.task={sleeper}"
        until(lambda: call(stack, f"/tasks/{sleeper}")["state"] == "RUNNING")
        until(lambda: bool(docker("ps", "-q", "--filter", label)))
        containers = inspected(stack)
        alive = {
            "containers": containers,
            "users": {
                service: users(one["Id"])
                for service, one in containers.items()
                if one["State"]["Running"]
            },
            "network": json.loads(said(["docker", "network", "inspect", f"{stack.name}_default"]))[
                0
            ],
            "rights": rights(stack) if stack.profile == "amqp" else [],
            "status_of_other_host": status(stack, host="attacker.example"),
            "secrets_later": secret_files(stack),
            "sleepers": docker("ps", "-q", "--filter", label),
        }
    stack.down()
    return Seen(
        project=stack,
        ended=ended,
        sent=(stack.directory / "files/greeting.sha1").read_text(),
        secrets_at_first=at_first,
        left=left(stack.name),
        left_of_sleeper=docker("ps", "-aq", "--filter", label),
        **alive,
    )


# --- the stack ---


@pytest.mark.slow
def test_the_readmes_example_is_complete_and_its_output_on_the_host(seen: Seen) -> None:
    (log,) = seen.ended["logs"]
    assert (seen.ended["state"], log["logs"][0]["exit_code"]) == ("COMPLETE", 0)
    assert log["metadata"]["pulsar"] == REACHED[seen.project.profile]
    assert seen.sent.split() == ["3cdb8a61717890743e100d34e92304993abbb5d0", "greeting.txt"]


@pytest.mark.slow
def test_only_the_api_is_published_and_on_loopback(seen: Seen) -> None:
    published = {
        service: one["HostConfig"]["PortBindings"]
        for service, one in seen.containers.items()
        if one["HostConfig"]["PortBindings"]
    }
    there = [{"HostIp": "127.0.0.1", "HostPort": str(seen.project.port)}]
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
    (pulsar,) = seen.users[seen.project.pulsar]
    assert pulsar not in {"0", "root"}


@pytest.mark.slow
def test_the_broker_has_no_users_but_ours_who_may_do_what_they_have_to(
    lives: Callable[[str], Seen],
) -> None:
    need("compose")
    seen = lives("amqp")
    assert seen.users["rabbitmq"] == {"10004"}
    assert seen.rights == [
        [
            "pulsar",
            "^pulsar(__[a-z_]+)?$",
            "^pulsar(__[a-z_]+)?$",
            "^pulsar(__(setup|kill|status))?$",
        ],
        ["tesp", "^pulsar(__[a-z_]+)?$", "^pulsar(__[a-z_]+)?$", "^pulsar(__status_update)?$"],
    ]


@pytest.mark.slow
def test_each_secret_is_its_readers_alone_and_made_once(seen: Seen) -> None:
    lines = [line.split() for line in seen.secrets_at_first.splitlines()]
    assert [(name, mode, uid) for name, mode, uid, _ in lines] == [
        ("amqp/definitions.json", "400", "10004"),
        ("amqp/pulsar_url", "400", "0"),
        ("amqp/tesp_api.toml", "400", "10001"),
        ("secrets/mongodb_password", "400", "999"),
        ("secrets/pulsar_token", "400", "0"),
        ("secrets/tesp_api.toml", "400", "10001"),
    ]
    assert seen.secrets_later == seen.secrets_at_first


@pytest.mark.slow
def test_no_secret_is_in_an_environment_or_a_command_line(seen: Seen) -> None:
    told = {
        variable.partition("=")[0]
        for service in seen.containers.keys() - {"tesp-db"}
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


def test_without_a_profile_there_are_api_and_database_alone(idle: Project) -> None:
    assert sorted(idle.compose("config", "--services").split()) == [
        "secrets",
        "tesp-api",
        "tesp-db",
    ]


def test_the_override_for_work_on_the_api_mounts_its_sources(idle: Project) -> None:
    merged = json.loads(idle.compose(*DEV, "config", "--format", "json"))
    mounts = merged["services"]["tesp-api"]["volumes"]
    sources = {mount["source"]: mount["target"] for mount in mounts if mount["type"] == "bind"}
    assert sources == {
        str(ROOT / "tesp_api"): "/app/tesp_api",
        str(ROOT / "settings.toml"): "/app/settings.toml",
    }


def test_apptainer_in_pulsars_container_needs_no_docker_of_the_host(idle: Project) -> None:
    merged = json.loads(idle.compose(*APPTAINER, "--profile", "*", "config", "--format", "json"))
    for name in ("pulsar_rest", "pulsar_amqp"):
        service = merged["services"][name]
        sources = {mount["source"] for mount in service["volumes"] if mount["type"] == "bind"}
        assert sources == {str(idle.directory)}
        assert "privileged" not in service
    assert merged["services"]["tesp-api"]["environment"]["CONTAINER_TYPE"] == "apptainer"
