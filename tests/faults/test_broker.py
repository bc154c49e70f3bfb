"""The broker is away, silent, or begun anew, and Pulsar behind it stopped or killed.

Server and broker, and broker and Pulsar, are joined by lines that are cut, or let nothing through
in both directions, or in one: then messages arrive whose sender never hears so.
"""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import pytest

from tests.brokers import Broker
from tests.faults.between import Wire, wire_to
from tests.faults.ground import Ground, ground
from tests.faults.table import Table, whole
from tests.faults.tasks import KINDS
from tests.faults.weather import storm

pytestmark = pytest.mark.faults
HEARTBEAT_S: Final = 2
"""Who is silent for twice as long has lost the connection."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A broker of the test's own, and the lines that lead to it."""

    place: Ground
    broker: Broker
    from_server: Wire
    from_pulsar: Wire

    def clear(self) -> None:
        self.from_server.mend()
        self.from_pulsar.mend()


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    made = Broker()
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def scene(broker: Broker) -> Iterator[Scene]:
    with ExitStack() as exits:
        from_server, ours = exits.enter_context(wire_to(broker.url()))
        from_pulsar, its = exits.enter_context(wire_to(broker.url()))
        heart = {"amqp_heartbeat": HEARTBEAT_S}
        place = exits.enter_context(ground(transport="AMQP", broker=its, **heart))
        place.settings["TESP_PULSAR__AMQP_URL"] = f"{ours}?heartbeat={HEARTBEAT_S}"
        yield Scene(place=place, broker=broker, from_server=from_server, from_pulsar=from_pulsar)


def bother(line: Wire, rng: random.Random) -> None:
    """Cut it, or make it silent for seconds; what it holds back then comes late, or is lost."""
    rng.choice([line.cut, line.freeze, line.deafen])()
    time.sleep(rng.uniform(0.3, 3 * HEARTBEAT_S))
    if rng.random() < 0.5:
        line.cut()
    line.mend()
    time.sleep(rng.uniform(0.3, 3))


def our_line(scene: Scene, rng: random.Random) -> None:
    bother(scene.from_server, rng)


def its_line(scene: Scene, rng: random.Random) -> None:
    bother(scene.from_pulsar, rng)


def stop_pulsar(scene: Scene, rng: random.Random) -> None:
    pid = scene.place.pulsar.processes()[0]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(HEARTBEAT_S * rng.uniform(0.5, 4))
    os.kill(pid, signal.SIGCONT)
    time.sleep(rng.uniform(0.3, 2))


def kill_pulsar(scene: Scene, rng: random.Random) -> None:
    time.sleep(rng.uniform(0.3, 2.5))
    scene.place.pulsar.kill()
    scene.place.pulsar.begin()
    scene.place.pulsar.wait_until_up()


def restart_broker(scene: Scene, rng: random.Random) -> None:
    time.sleep(rng.uniform(0.3, 2.5))
    scene.broker.stop()
    scene.broker.start()
    time.sleep(rng.uniform(0.3, 2))


def close_connections(scene: Scene, rng: random.Random) -> None:
    time.sleep(rng.uniform(0.3, 2))
    scene.broker.ctl("close_all_connections", "a fault")


Fault = Callable[[Scene, random.Random], None]
FAULTS: Final[Mapping[str, tuple[Fault, int]]] = MappingProxyType(
    {
        "connections of the server to RabbitMQ cut, or silent, for seconds": (our_line, 30),
        "connections of Pulsar to RabbitMQ cut, or silent, for seconds": (its_line, 30),
        "SIGSTOP of a Pulsar by messages, also for longer than a heartbeat": (stop_pulsar, 15),
        "kill -9 of a Pulsar by messages and a new start": (kill_pulsar, 20),
        "RabbitMQ stopped and begun anew": (restart_broker, 10),
        "RabbitMQ closes all connections": (close_connections, 20),
    }
)
"""And how often each is done in the whole run; in the short one some are done once, together."""
ONCE: Final = "lines to RabbitMQ cut, or silent; SIGSTOP, kill -9 of Pulsar by messages: once each"
CASES: Final = [[name] for name in FAULTS] if whole() else [list(FAULTS)[:4]]


@pytest.mark.parametrize("names", CASES, ids=lambda names: names[0] if whole() else "some")
def test_messages_that_get_lost_or_come_late_change_no_task_s_end(
    names: list[str], scene: Scene, table: Table, seed: int
) -> None:
    row = table.row(names[0] if whole() else ONCE)
    replica = scene.place.replica("broker")
    with storm(scene.place, row, seed, replica) as weather:
        todo = list(names)

        def strike() -> int:
            fault, _ = FAULTS[names[0] if whole() else todo.pop(0)]
            fault(scene, weather.rng)
            return 1

        strikes = FAULTS[names[0]][1] if whole() else len(names)
        kinds = sorted(KINDS) * (3 if whole() else 1)
        weather.pass_over("broker", strike, scene.clear, strikes, kinds)

    assert not row.bad, row.bad
