"""A server for clients, and S3 storage for the one whose jobs bring their own."""

import contextlib
import json
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.e2e.conftest import quick, stacks
from tests.needs import need
from tests.pulsars import until

__all__ = ["quick", "stacks"]

GRPC_OFFSET: Final = 10_000
"""SeaweedFS takes this port too, that far above the one it is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One bucket; `read` looks at it from behind, past S3."""

    endpoint: str
    key: str
    secret: str
    name: str
    behind: str

    def read(self, path: str) -> str | None:
        answer = httpx.get(f"{self.behind}/buckets/{self.name}/{path}")
        return answer.text if answer.status_code == 200 else None


@pytest.fixture(scope="session")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    """S3 that both this machine and Docker's containers reach: on the address of their bridge."""
    need("docker")
    need("seaweedfs")
    host = _docker_gateway()
    master, volume, filer, s3 = _free_ports(host, 4)
    bucket = Bucket(
        endpoint=f"http://{host}:{s3}",
        key=secrets.token_hex(8),
        secret=secrets.token_hex(16),
        name="workflow",
        behind=f"http://{host}:{filer}",
    )
    directory = tmp_path_factory.mktemp("s3")
    ports = [
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
        *(f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    ]
    with _weed(directory, host, _configuration(directory, bucket), ports):
        until(lambda: _is_up(bucket), 60, (directory / "log").read_text)
        yield bucket


@contextlib.contextmanager
def _weed(directory: Path, host: str, configuration: Path, ports: Sequence[str]) -> Iterator[None]:
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(os.environ["TESP_TEST_WEED"], "server", f"-ip={host}", f"-ip.bind={host}"),
                *(f"-dir={directory}", "-filer", "-s3", f"-s3.config={configuration}", *ports),
                *("-master.volumeSizeLimitMB=64", "-volume.max=20", "-master.telemetry=false"),
            ],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _configuration(directory: Path, bucket: Bucket) -> Path:
    credentials = {"accessKey": bucket.key, "secretKey": bucket.secret}
    identity = {"name": "tester", "credentials": [credentials], "actions": ["Admin"]}
    path = directory / "s3.json"
    path.write_text(json.dumps({"identities": [identity]}))
    return path


def _is_up(bucket: Bucket) -> bool:
    """Make the bucket; then its S3 side must be there, too, and refuse strangers."""
    with contextlib.suppress(httpx.TransportError):
        made = httpx.post(f"{bucket.behind}/buckets/{bucket.name}/").status_code
        seen = httpx.get(f"{bucket.endpoint}/{bucket.name}").status_code
        return made in {201, 409} and seen == 403
    return False


def _docker_gateway() -> str:
    """Return this machine's address on Docker's bridge: the first, unless it was given another."""
    shown = subprocess.run(
        ("docker", "network", "inspect", "bridge"), capture_output=True, check=True, text=True
    )
    first = json.loads(shown.stdout)[0]["IPAM"]["Config"][0]
    return first.get("Gateway") or str(ip_network(first["Subnet"])[1])


def _free_ports(host: str, number: int) -> list[int]:
    """Return ports that are free together with those that SeaweedFS takes beside them."""
    found: list[int] = []
    for port in range(12_000, 20_000):
        if _is_free(host, port) and _is_free(host, port + GRPC_OFFSET):
            found.append(port)
        if len(found) == number:
            break
    return found


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind((host, port))
        return True
    return False
