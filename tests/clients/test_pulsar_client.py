"""Pulsar's own TES client, which Galaxy uses: the library is real, its images are stand-ins."""

import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pytest
from pulsar.client.coexecution_manager import build_client_manager

from tests.e2e.stack import Stack, begin_stack, shell
from tests.needs import need
from tests.pulsars import until

STAGING: Final = "tesp-test/pulsar-staging:1"
"""Has programs named like those of Pulsar's staging image. They leave a command for the tool's
container in the volume that they share, and look at what it did."""
INSTALL: Final = r"""
cat >/usr/bin/pulsar-submit <<'PROGRAM'
#!/bin/sh
mkdir /pulsar_staging/job && echo 'echo by the tool >/pulsar_staging/job/out' \
    >/pulsar_staging/job/command_line
PROGRAM
printf '#!/bin/sh\ncat /pulsar_staging/job/out\n' >/usr/bin/pulsar-finish
chmod 755 /usr/bin/pulsar-*
"""


@pytest.fixture(scope="module")
def staging_image() -> Iterator[str]:
    need("docker")
    container = f"tesp-test-{STAGING.partition('/')[2].replace(':', '-')}"
    docker("rm", "--force", container)
    docker("run", "--name", container, "--network", "none", "alpine:latest", "sh", "-c", INSTALL)
    docker("commit", container, STAGING)
    docker("rm", container)
    yield STAGING
    docker("image", "rm", "--force", STAGING)


def docker(*arguments: str) -> None:
    subprocess.run(("docker", *arguments), capture_output=True, check=True)


@pytest.fixture(scope="module")
def galaxy_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server as it is set up for Galaxy: one place at Pulsar, so that a second task queues."""
    need("pulsar")
    need("docker")
    stack = begin_stack(
        tmp_path_factory.mktemp("galaxy"),
        "docker",
        TESP_PULSAR__MAX_JOBS="1",
        TESP_COMPAT__QUEUED_AS_INITIALIZING="true",
    )
    stack.pulsar.wait_until_up()
    stack.api.wait_until_up()
    yield stack
    stack.stop()


def client_of(stack: Stack, image: str, task_id: str | None = None) -> Any:
    """Return what Galaxy holds of a job; `task_id` is what it recorded when it launched it."""
    parameters = {"tes_url": stack.api.base, "pulsar_container_image": image}
    client = build_client_manager(tes_enabled=True).get_client(parameters, "job")
    client.external_id = task_id
    return client


def launch(stack: Stack, image: str) -> str:
    launched = client_of(stack, image).launch(
        "echo hello", container_info={"container_id": "ubuntu:20.04"}, remote_staging={}
    )
    return str(launched.external_id)


def test_a_launched_job_is_seen_until_it_is_complete(
    galaxy_stack: Stack, staging_image: str
) -> None:
    task_id = launch(galaxy_stack, staging_image)
    client = client_of(galaxy_stack, staging_image, task_id)
    seen: list[str] = []

    def is_complete() -> bool:
        looked = client.raw_check_complete()
        seen.append(looked["status"])
        return bool(looked["complete"] == "true")

    until(is_complete, 60, lambda: f"{seen} {galaxy_stack.api.get(task_id)}")

    ended = galaxy_stack.api.get(task_id)
    assert seen[-1] == "complete", ended
    assert set(seen) <= {"preprocessing", "running", "complete"}
    assert [log["exit_code"] for log in ended["logs"][0]["logs"]] == [0, 0, 0]
    assert ended["logs"][0]["logs"][2]["stdout"] == "by the tool\n"


def test_a_queued_job_is_not_taken_for_failed_and_a_killed_one_is_cancelled(
    galaxy_stack: Stack, staging_image: str
) -> None:
    first = galaxy_stack.api.post(shell("sleep 300"))
    galaxy_stack.api.wait(first, frozenset({"RUNNING"}))
    task_id = launch(galaxy_stack, staging_image)
    client = client_of(galaxy_stack, staging_image, task_id)

    queued = client.raw_check_complete()
    listed = galaxy_stack.api.list(state="INITIALIZING")["tasks"]
    client.kill()

    assert queued == {"status": "preprocessing", "complete": "false"}
    assert [task["id"] for task in listed] == [task_id]
    assert galaxy_stack.api.list(state="QUEUED")["tasks"] == []
    assert galaxy_stack.api.wait(task_id)["state"] == "CANCELED"
    assert client.raw_check_complete() == {"status": "cancelled", "complete": "true"}
    client.kill()
    galaxy_stack.api.cancel(first)
    galaxy_stack.wait_until_nothing_is_left(first, task_id)


def test_a_failed_tool_is_a_failed_job(galaxy_stack: Stack) -> None:
    task_id = launch(galaxy_stack, "ubuntu:20.04")
    galaxy_stack.api.wait(task_id)

    looked = client_of(galaxy_stack, "ubuntu:20.04", task_id).raw_check_complete()

    assert looked == {"status": "failed", "complete": "true"}
