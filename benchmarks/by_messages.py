"""A client of a Pulsar behind a broker that does what must be done for a job, and nothing else."""

import asyncio
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aio_pika
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

from tesp_api.domain.task import JobId
from tesp_api.pulsar import messages, wire
from tesp_api.pulsar.messages import EXCHANGE, Queue, queue_name
from tests.amqp_pulsars import AmqpPulsar

PARCEL: Final = f"bare-{wire.PARCEL}"


class Messages:
    """Sends set-ups to the second manager, and hears its updates; the first one is the server's."""

    def __init__(self, pulsar: AmqpPulsar) -> None:
        self._url = pulsar.amqp_url
        self._manager = pulsar.managers[1]
        self._staging: Path = pulsar.staging
        self._parcels = wire.Parcels(small=True)
        self._ends: dict[str, asyncio.Future[Mapping[str, Any]]] = {}
        self._exchange: AbstractExchange | None = None

    async def open(self) -> None:
        """Connect and listen."""
        self._connection = await aio_pika.connect(self._url)
        channel = await self._connection.channel(publisher_confirms=True)
        self._exchange = await channel.get_exchange(EXCHANGE, ensure=False)
        updates = await channel.declare_queue(queue_name(self._manager, Queue.UPDATE), durable=True)
        await updates.bind(EXCHANGE, updates.name)
        await updates.consume(self._hear)

    async def run(self, job: JobId, order: Mapping[str, Any]) -> None:
        """Send the runner with an order."""
        parcel = await asyncio.to_thread(self._parcels.pack, order)
        await self._send(messages.setup(job, messages.command(PARCEL), {PARCEL: parcel}))

    async def begin(self, job: JobId, command: str) -> None:
        """Send a bare command."""
        await self._send(messages.setup(job, command))

    async def end(self, job: JobId, *, closely: bool = False) -> Mapping[str, Any]:
        """Wait for the end and return what Pulsar says of it; it tells as closely as it can."""
        del closely
        return await self._end(job)

    async def delete(self, job: JobId) -> None:
        """Remove the job's directory, which no message can, once Pulsar is done with it."""
        self._ends.pop(job, None)
        place = self._staging / job
        while not (place / "postprocessed").exists() and place.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()

    async def _send(self, body: Mapping[str, Any]) -> None:
        assert self._exchange is not None
        message = aio_pika.Message(
            json.dumps(body).encode(),
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        key = queue_name(self._manager, Queue.SETUP)
        await self._exchange.publish(message, key, mandatory=True)

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        status = json.loads(message.body)
        if status.get("complete") == "true":
            end = self._end(status["job_id"])
            if not end.done():
                end.set_result(status)
        await message.ack()

    def _end(self, job: str) -> asyncio.Future[Mapping[str, Any]]:
        return self._ends.setdefault(job, asyncio.get_running_loop().create_future())


def broker() -> str:
    """Return the URL of the broker to measure with."""
    return os.environ["TESP_TEST_AMQP_URL"]
