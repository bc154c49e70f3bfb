"""Where the faults are tried: a ledger, a Pulsar, servers, and whoever looks for what is left."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pymongo

from tests.amqp_pulsars import AmqpPulsar
from tests.e2e.stack import containers_of, environment
from tests.faults.bucket import CountedBucket, counted
from tests.faults.ledger import Ledger, ledger
from tests.faults.replica import Nursery, Replica, nursery
from tests.faults.table import Row
from tests.needs import missing, need
from tests.pulsars import LivePulsar, processes_of, until
from tests.servers.s3 import minio

PATIENCE_S: Final = 120.0
CLIENTS: Final = 32
QUICK: Final = {
    "TESP_DISPATCH__LEASE_S": "1.5",
    "TESP_PULSAR__CLIENT_TIMEOUT": "2",
    "TESP_DISPATCH__HEARTBEAT_S": "1",
    "TESP_DISPATCH__SILENCE_S": "6",
    "TESP_PULSAR__STATUS__POLL_INTERVAL": "1",
    "TESP_RETENTION__SWEEP_S": "2",
}
"""What takes minutes elsewhere takes seconds here."""


@dataclass(kw_only=True)
class Ground:
    """`address` is where the containers of `engine` see the ledger."""

    directory: Path
    transport: str
    engine: str
    address: str
    ledger: Ledger
    pulsar: LivePulsar
    nursery: Nursery
    pool: ThreadPoolExecutor
    settings: dict[str, str] = field(default_factory=dict)

    def replica(self, name: str, *, wrong_s: float = 0.0, **settings: str) -> Replica:
        """Return a server, not begun yet; its store is a file unless the settings name another."""
        base = environment(self.engine, self.pulsar, self.directory)
        environ = {**base, **QUICK, **self.settings, **settings}
        return Replica(self.nursery, self.directory / name, environ, wrong_s=wrong_s)

    def left_of(self, ids: Sequence[str]) -> list[str]:
        """Name whatever of the tasks is on the node; processes only of these tasks."""
        names = [path.name for path in self.pulsar.staging.glob("tes-*")]
        own = {one: True for one in ids}
        found = [name for name in names if name.split("-")[1] in own]
        if self.engine in {"docker", "podman"}:
            found += containers_of(*ids)
        if self.ledger.bucket is not None:
            found += self.ledger.bucket.pending_of(ids)
        return found + processes_of(*ids)

    def expect_nothing_of(self, ids: Sequence[str], row: Row) -> None:
        """Count what is still there when everything should have been removed."""
        try:
            until(lambda: not self.left_of(ids), PATIENCE_S, lambda: "", 0.3)
        except AssertionError:
            row.leftovers += self.left_of(ids)


def _pulsar(
    transport: str, directory: Path, broker: str = "", **app: Any
) -> tuple[LivePulsar, dict[str, str]]:
    """Return a Pulsar that is reached so, and the settings for it."""
    if transport == "REST":
        return LivePulsar(directory), {}
    need("rabbitmq")
    broker = broker or os.environ["TESP_TEST_AMQP_URL"]
    pulsar = AmqpPulsar(directory, broker, **app)
    return pulsar, {"TESP_PULSAR__AMQP_URL": broker, "TESP_PULSAR__MANAGER": pulsar.managers[0]}


@contextmanager
def ground(engine: str = "", transport: str = "REST", **amqp: Any) -> Iterator[Ground]:
    """Prepare one; the engine that starts fastest here unless it is named.

    `amqp` are a `broker`, and more of what a Pulsar by messages is told.
    """
    need("pulsar")
    engine = engine or ("host" if missing("userns") is None else "docker")
    with ExitStack() as exits:
        directory = Path(tempfile.mkdtemp(prefix="tesp-faults-"))
        exits.callback(shutil.rmtree, directory, ignore_errors=True)
        pulsar, settings = _pulsar(transport, directory / "pulsar", **amqp)
        pulsar.begin()
        exits.callback(pulsar.stop)
        made = Ground(
            directory=directory,
            transport=transport,
            engine=engine,
            address=gateway() if engine == "docker" else "127.0.0.1",
            ledger=exits.enter_context(ledger()),
            pulsar=pulsar,
            nursery=exits.enter_context(nursery(directory / "nursery.log")),
            pool=exits.enter_context(ThreadPoolExecutor(CLIENTS)),
            settings=settings,
        )
        pulsar.wait_until_up()
        yield made


@contextmanager
def bucket_on(place: Ground) -> Iterator[CountedBucket]:
    """Give the place an S3 server, counted like everything else, and its servers the keys."""
    directory = place.directory / "minio"
    directory.mkdir()
    with minio(directory) as s3, counted(s3.bucket("outputs")) as made:
        place.ledger.bucket = made
        place.settings |= made.settings
        yield made


def gateway() -> str:
    """Return where Docker's containers see this machine."""
    form = "{{(index .IPAM.Config 0).Gateway}}"
    asked = ["docker", "network", "inspect", "bridge", "--format", form]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def database() -> Iterator[Mapping[str, str]]:
    """Give the settings of a MongoDB database of one's own."""
    need("mongodb")
    server = os.environ["TESP_TEST_MONGODB_URI"].rstrip("/")
    name = f"tesp_test_{uuid4().hex[:16]}"
    yield over(f"{server}/{name}")
    with pymongo.MongoClient(server) as client:
        client.drop_database(name)


def over(uri: str) -> Mapping[str, str]:
    """Return the settings of a server over this MongoDB."""
    return {"TESP_DB__SQLITE_PATH": "", "TESP_DB__MONGODB_URI": uri}


@contextmanager
def begun(*replicas: Replica) -> Iterator[None]:
    """Stop them in the end."""
    try:
        for one in replicas:
            one.start()
        for one in replicas:
            one.wait_until_up()
        yield
    finally:
        for one in replicas:
            one.stop()
