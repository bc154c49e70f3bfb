"""The data transfer stack as a project of the test's own: other ports, gone at the end."""

import json
import os
import random
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.compose.project import left, said
from tests.needs import need
from tests.servers.process import HOST, free_port, listens
from tests.servers.s3 import S3, Bucket

FILE: Final = "docker/dts/docker-compose.yaml"
PASSIVE: Final = 10
"""How many ports FTP's data connections have; ten more than nobody else has at the time."""


@dataclass(frozen=True, kw_only=True)
class Dts:
    """Where it is. The login is there when it is up."""

    project: str
    http: int
    ftp: int
    s3: int
    console: int
    passive: str
    username: str = ""
    password: str = ""

    @property
    def environ(self) -> Mapping[str, str]:
        return {
            **os.environ,
            "COMPOSE_PROJECT_NAME": self.project,
            "DTS_HTTP_PORT": str(self.http),
            "DTS_FTP_PORT": str(self.ftp),
            "DTS_S3_PORT": str(self.s3),
            "DTS_CONSOLE_PORT": str(self.console),
            "DTS_FTP_PASSIVE": self.passive,
        }

    def compose(self, *arguments: str) -> str:
        return said(["docker", "compose", "-f", FILE, *arguments], self.environ)

    def login(self) -> tuple[str, str]:
        """Return what a person at a terminal is told."""
        told = self.compose("run", "--rm", "-T", "-e", "DTS_TELL=1", "login")
        known = dict(line.split() for line in told.splitlines())
        return known["user"], known["password"]

    def url(self, path: str) -> str:
        return f"http://{HOST}:{self.http}/{path}"

    @property
    def bucket(self) -> Bucket:
        s3 = S3(
            endpoint=f"http://{HOST}:{self.s3}",
            access_key=self.username,
            secret_key=self.password,
        )
        return Bucket(s3=s3, name="files", client=s3.client())

    def address_of(self, service: str) -> str:
        container = self.compose("ps", "-q", service).strip()
        (found,) = json.loads(said(["docker", "inspect", container]))
        (network,) = found["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    def left(self) -> list[str]:
        return left(self.project)

    def down(self) -> None:
        self.compose("down", "--volumes", "--rmi", "local")


@contextmanager
def dts() -> Iterator[Dts]:
    """Build the stack, bring it up, and take it down whatever happens."""
    need("dts")
    http, ftp, s3, console = (free_port() for _ in range(4))
    first = _free_range()
    stack = Dts(
        project=f"tesp-dts-{secrets.token_hex(4)}",
        http=http,
        ftp=ftp,
        s3=s3,
        console=console,
        passive=f"{first}-{first + PASSIVE - 1}",
    )
    try:
        stack.compose("up", "--detach", "--wait")
        username, password = stack.login()
        yield Dts(**{**vars(stack), "username": username, "password": password})
    finally:
        stack.down()


def _free_range() -> int:
    firsts = random.sample(range(12_000, 20_000, PASSIVE), 100)
    return next(first for first in firsts if not any(listens(first + n) for n in range(PASSIVE)))
