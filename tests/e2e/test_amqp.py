"""A Pulsar that reaches nothing but the broker and the places of data, and is reached by nobody."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.e2e.data_sides import Site, write_secrets
from tests.e2e.island import Secluded, island
from tests.e2e.stack import Api, Stack, environment, shell
from tests.needs import need
from tests.pulsars import until

CONNECT: Final = """
import socket, sys
for address in sys.argv[1:]:
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), 5).close()
    except OSError as error:
        print(type(error).__name__, error.errno)
    else:
        print("connected")
"""
ELSEWHERE: Final = "198.51.100.1:80"
"""An address for documentation; here no packet would even set out."""
ONE: Final = random.Random(5).randbytes(2 << 20)


@dataclass(frozen=True)
class Remote:
    """The stack, and what stands for the name space of its Pulsar."""

    stack: Stack
    network: str
    doors: tuple[int, ...]


@pytest.fixture(scope="module")
def remote(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    for component in ("pulsar", "rabbitmq", "root", "userns"):
        need(component)
    directory = tmp_path_factory.mktemp("remote")
    broker = os.environ["TESP_TEST_AMQP_URL"]
    doors = tuple(map(port_of, (broker, site.web.base, site.minio.endpoint)))
    with island(*doors) as network:
        pulsar = Secluded(directory / "pulsar", broker, network)
        write_secrets(directory / "api", site.entries)
        reached = {"TESP_PULSAR__AMQP_URL": broker, "TESP_PULSAR__MANAGER": pulsar.managers[0]}
        environ = {**environment("host", pulsar, directory), **site.environment, **reached}
        api = Api(directory / "api", environ)
        stack = Stack(engine="host", transport="amqp", pulsar=pulsar, api=api, files=directory)
        try:
            pulsar.begin()
            api.begin()
            pulsar.wait_until_up()
            api.wait_until_up()
            yield Remote(stack, network, doors)
        finally:
            stack.stop()


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def test_there_is_no_way_from_pulsar_to_the_api_nor_anywhere_but_through_the_doors(
    remote: Remote,
) -> None:
    doors = [f"127.0.0.1:{port}" for port in remote.doors]
    inside = ["nsenter", f"--net={remote.network}", sys.executable, "-c", CONNECT]
    closed = [f"127.0.0.1:{remote.stack.api.port}", ELSEWHERE]

    done = subprocess.run([*inside, *doors, *closed], check=True, capture_output=True, text=True)

    refused, unreachable = 111, 101
    assert done.stdout.splitlines() == [
        *["connected"] * len(doors),
        f"ConnectionRefusedError {refused}",
        f"OSError {unreachable}",
    ]


def test_content_http_and_s3_go_in_and_out_where_only_messages_come_and_go(
    remote: Remote, site: Site
) -> None:
    web, s3 = site.sides["http"], site.sides["minio"]
    web.put("remote/one.bin", ONE)
    s3.put("remote/tree/a.txt", b"alpha\n")
    s3.put("remote/tree/deep/b.txt", b"beta\n")

    ended = remote.stack.api.run(
        shell(
            "cat /in/text /in/tree/a.txt /in/tree/deep/b.txt > /out/text && cp /in/one /out/one"
            " && mkdir -p /out/tree/deep && cp /in/one /out/tree/deep/one && cat /out/text",
            inputs=[
                {"path": "/in/text", "content": "žluťoučký\n"},
                {"path": "/in/one", "url": web.url("remote/one.bin")},
                {"path": "/in/tree", "url": s3.url("remote/tree"), "type": "DIRECTORY"},
            ],
            outputs=[
                {"path": "/out/text", "url": web.url("remote/out/text")},
                {"path": "/out/one", "url": s3.url("remote/out/one")},
                {"path": "/out/tree", "url": s3.url("remote/out/tree"), "type": "DIRECTORY"},
            ],
        )
    )

    assert ended["state"] == "COMPLETE", ended
    (executor,) = ended["logs"][0]["logs"]
    assert executor["stdout"] == "žluťoučký\nalpha\nbeta\n"
    assert web.get("remote/out/text").decode() == executor["stdout"]
    assert s3.get("remote/out/one") == ONE
    assert s3.get("remote/out/tree/deep/one") == ONE
    remote.stack.wait_until_nothing_is_left(ended["id"])


def test_a_running_task_is_canceled_and_nothing_stays_not_even_our_own_jobs(
    remote: Remote,
) -> None:
    stack = remote.stack
    running = stack.api.post(shell("sleep 300 & sleep 300"))
    stack.api.wait(running, {"RUNNING"})

    assert stack.api.cancel(running).status_code == 200

    assert stack.api.wait(running)["state"] == "CANCELED"
    stack.wait_until_nothing_is_left(running)
    staging = stack.pulsar.staging
    until(lambda: not list(staging.iterdir()), 30, lambda: str(list(staging.iterdir())))
