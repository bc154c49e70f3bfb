"""A real Pulsar that is reached only through a message broker."""

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp

from tesp_api.ports import JobNews
from tesp_api.pulsar.amqp_runner import AmqpRunner
from tesp_api.pulsar.messages import Queue, queue_name
from tests.pulsars import MANAGER, LivePulsar


class AmqpPulsar(LivePulsar):
    """pulsar-main, which no port of its machine leads to: it only takes messages from a broker.

    Its managers bear names of their own unless told otherwise, since they share the broker.
    """

    def __init__(
        self, directory: Path, amqp_url: str, *, managers: Sequence[str] = (), **app: Any
    ) -> None:
        super().__init__(directory)
        self.amqp_url = amqp_url
        self.managers = managers or (f"m{secrets.token_hex(4)}", f"n{secrets.token_hex(4)}")
        self._more = app

    def runner(
        self,
        news: JobNews | None = None,
        *,
        token: str | None = None,
        manager: str | None = None,
        timeout_s: float = 20.0,
        **more: Any,
    ) -> AmqpRunner:
        assert news is not None, "what is heard is kept somewhere"
        assert token is None, "there are none over AMQP"
        manager = manager or self.managers[0]
        return AmqpRunner(self.amqp_url, news, manager=manager, timeout_s=timeout_s, **more)

    def stop(self) -> None:
        super().stop()
        with contextlib.suppress(Exception), self.channel() as channel:
            for queue in self._queues():
                channel.queue_delete(queue)

    def workers(self) -> list[int]:
        """It serves by itself; its children are jobs."""
        return []

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """Give a channel of py-amqp, which needs no event loop."""
        parts = urlsplit(self.amqp_url)
        connection = amqp.Connection(
            host=f"{parts.hostname}:{parts.port}",
            userid=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            virtual_host=unquote(parts.path[1:]) or "/",
        )
        with connection, connection.channel() as channel:
            yield channel

    def publish(self, queue: Queue, body: bytes, **properties: Any) -> None:
        """Put a message of any kind into one of the first manager's queues."""
        name = queue_name(self.managers[0], queue)
        with self.channel() as channel:
            channel.basic_publish(amqp.Message(body, **properties), routing_key=name)

    def tell(self, queue: Queue, document: Mapping[str, Any]) -> None:
        """Put in a message as it should be."""
        self.publish(
            queue,
            json.dumps(document).encode(),
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
        )

    def depth(self, queue: Queue) -> int:
        """Return how many messages wait in one of the first manager's queues."""
        with self.channel() as channel:
            name = queue_name(self.managers[0], queue)
            return int(channel.queue_declare(name, passive=True).message_count)

    def _program(self) -> list[str]:
        return ["-m", "pulsar.main", "--app_conf_path", str(self._directory / "app.yml")]

    def _app(self) -> dict[str, Any]:
        return {
            "message_queue_url": self.amqp_url,
            "managers": {name: dict(MANAGER) for name in self.managers},
            **self._more,
        }

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.tail()
        try:
            with self.channel() as channel:
                read = [channel.queue_declare(name, passive=True) for name in self._read()]
                return all(queue.consumer_count for queue in read)
        except (amqp.exceptions.AMQPError, OSError):
            return False

    def _read(self) -> list[str]:
        kinds = (Queue.SETUP, Queue.KILL, Queue.STATUS)
        return [queue_name(manager, kind) for manager in self.managers for kind in kinds]

    def _queues(self) -> list[str]:
        return [queue_name(manager, kind) for manager in self.managers for kind in Queue]
