"""The message broker between us and Pulsar. The only file that knows aio_pika.

One connection, made again whenever it ends; each new one declares exchange and queues, as Pulsar
itself does and with the same properties, so that messages wait for a Pulsar that is away. A message
is sent when the broker has confirmed it, and taken off when whoever hears it has kept it: nothing
is lost by a broken connection, but some come twice.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange
from aio_pika.abc import AbstractIncomingMessage as Incoming
from aio_pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelPreconditionFailed,
    DeliveryError,
    ProbableAuthenticationError,
    PublishError,
)
from aiormq.exceptions import ChannelAccessRefused, ConnectionNotAllowed, InvalidFrameError
from loguru import logger

from tesp_api.domain.errors import OutOfReach, RunnerUnreachable
from tesp_api.ports import Permit
from tesp_api.pulsar.messages import EXCHANGE, Queue, queue_name

Hear = Callable[[bytes], Awaitable[None]]
AT_ONCE: Final = 64
"""Updates being kept at a time."""
HEARTBEAT_S: Final = 30
SHORTEST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 10.0
CLOSING_S: Final = 3.0
TROUBLE: Final = (AMQPError, OSError, RuntimeError, TimeoutError)
"""What the library raises when the broker, or the connection to it, does not do as it should; the
third is a channel closed meanwhile."""


class Broker:
    """The queues of one manager. `hear` gets each update; it is taken off when that returns.

    `url` is of the form `amqp[s]://user:password@host:port/vhost`; `tls` is used for
    amqps; `permit` is asked right before a message goes out.
    """

    def __init__(
        self,
        url: str,
        manager: str,
        hear: Hear,
        *,
        timeout_s: float,
        tls: ssl.SSLContext | None,
        permit: Permit,
    ) -> None:
        parts = urlsplit(url)
        self.name = _public(parts)
        self.pulsar = f"The Pulsar behind {self.name} (manager {manager})"
        """How to name who reads the messages."""
        self._url = _plain(parts)
        self._manager = manager
        self._hear = hear
        self._timeout_s = timeout_s
        self._tls = tls
        self._permit = permit
        self._link: asyncio.Future[AbstractExchange] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    def begin(self) -> None:
        """Connect, and stay connected. Idempotent."""
        if self._keeping is None:
            self._link = asyncio.get_running_loop().create_future()
            self._keeping = asyncio.create_task(self._keep_connected(), name="broker")

    async def close(self) -> None:
        """Disconnect. Idempotent."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def send(
        self, queue: Queue, body: Mapping[str, Any], *, expires_s: float | None = None
    ) -> None:
        """Return when the broker has the message in Pulsar's queue, on its disk.

        After `expires_s` there it is of no use any more. Raises RunnerUnreachable: it may be there
        nevertheless; OutOfReach for one that is larger than the broker takes.
        """
        content = json.dumps(body, ensure_ascii=True, separators=(",", ":")).encode()
        message = aio_pika.Message(
            content,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            expiration=expires_s,
        )
        exchange = await self._connected()
        self._permit()
        with self._publishing(queue, len(content)):
            async with asyncio.timeout(self._timeout_s):
                key = queue_name(self._manager, queue)
                await exchange.publish(message, key, mandatory=True)

    @contextlib.contextmanager
    def _publishing(self, queue: Queue, size_bytes: int) -> Iterator[None]:
        """Translate what goes wrong with a message."""
        try:
            yield
        except PublishError as error:
            self._start_anew()  # which declares what is missing
            name = queue_name(self._manager, queue)
            raise RunnerUnreachable(f"{self.name} had no queue {name}.") from error
        except DeliveryError as error:
            raise RunnerUnreachable(f"{self.name} did not take a message.") from error
        except ChannelPreconditionFailed as error:
            if "larger than" not in str(error):
                raise RunnerUnreachable(f"{self.name} closed the channel: {error}.") from error
            raise OutOfReach(
                f"The job for Pulsar is a message of {size_bytes / 2**20:.1f} MiB, more than the"
                f" broker {self.name} takes ({error})."
            ) from error
        except TimeoutError as error:
            self._start_anew()
            raise RunnerUnreachable(
                f"{self.name} did not confirm a message within {self._timeout_s:g} s."
            ) from error
        except TROUBLE as error:
            raise RunnerUnreachable(f"{self.name} was lost meanwhile: {_said(error)}.") from error

    async def _connected(self) -> AbstractExchange:
        """Return the exchange: at once, or when the attempt under way has ended."""
        self.begin()
        assert self._link is not None, "begin has made it"
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(self._link)
        except TimeoutError as error:
            raise RunnerUnreachable(
                f"{self.name} did not answer within {self._timeout_s:g} s."
            ) from error

    async def _keep_connected(self) -> None:
        pause_s = SHORTEST_PAUSE_S
        while True:
            try:
                if await self._session():
                    pause_s = SHORTEST_PAUSE_S
                    logger.warning("the connection to {} has ended", self.name)
            except Exception as error:  # noqa: BLE001 - the edge of a loop that must not end
                text = f"{self.name} {_told(error, self._timeout_s)}."
                logger.warning(text)
                self._fail(text)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            self._renew()

    async def _session(self) -> bool:
        """Be connected until that ends."""
        over = asyncio.Event()
        async with asyncio.timeout(self._timeout_s):
            connection = await aio_pika.connect(self._url, ssl_context=self._tls)
        try:
            async with asyncio.timeout(self._timeout_s):
                exchange = await self._open(connection, over)
            self._over = over
            self._arrive(exchange)
            await over.wait()
        finally:
            self._renew()
            with contextlib.suppress(*TROUBLE):
                async with asyncio.timeout(CLOSING_S):
                    await connection.close()
        return True

    async def _open(self, connection: AbstractConnection, over: asyncio.Event) -> AbstractExchange:
        def ends(*_: object) -> None:
            over.set()

        connection.close_callbacks.add(ends)
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        channel.close_callbacks.add(ends)
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(ends)
        await channel.set_qos(prefetch_count=AT_ONCE)
        exchange = await self._declare(channel)
        updates = await channel.get_queue(queue_name(self._manager, Queue.UPDATE), ensure=False)
        await updates.consume(self._take)
        return exchange

    async def _declare(self, channel: AbstractChannel) -> AbstractExchange:
        exchange = await channel.declare_exchange(
            EXCHANGE, aio_pika.ExchangeType.DIRECT, durable=True
        )
        for queue in Queue:
            name = queue_name(self._manager, queue)
            await (await channel.declare_queue(name, durable=True)).bind(exchange, name)
        return exchange

    async def _take(self, message: Incoming) -> None:
        """Take an update off its queue once it is heard; else the broker gives it again."""
        try:
            await self._hear(message.body)
        except Exception:  # noqa: BLE001 - one message's bug must not stop the others
            logger.exception("bug in hearing an update; it was dropped")
        with contextlib.suppress(*TROUBLE):
            await message.ack()

    # --- what those who want to send wait for ---

    def _arrive(self, exchange: AbstractExchange) -> None:
        if self._link is not None and not self._link.done():
            self._link.set_result(exchange)

    def _fail(self, why: str) -> None:
        """Have those who wait, or come before the next attempt, hear it at once."""
        if self._link is not None and not self._link.done():
            self._link.set_exception(RunnerUnreachable(why))
            self._link.exception()  # it need not have been waited for

    def _renew(self) -> None:
        if self._link is None or self._link.done():
            self._link = asyncio.get_running_loop().create_future()

    def _start_anew(self) -> None:
        self._over.set()
        self._renew()


def _told(error: Exception, timeout_s: float) -> str:
    """Return what the broker does, and what to do about it; no credentials."""
    match error:
        case AuthenticationError() | ProbableAuthenticationError():
            what = "refuses our user or password: check pulsar.amqp_url"
        case ConnectionNotAllowed() | ChannelAccessRefused():
            what = f"does not let us in: check pulsar.amqp_url ({_said(error)})"
        case InvalidFrameError() if "Connection.OpenOk" in str(error):  # no more is told
            what = (
                "does not let us in: check pulsar.amqp_url. There is no such virtual host,"
                " or this user may not use it"
            )
        case ChannelPreconditionFailed():
            what = (
                "has a queue or exchange of Pulsar's name that was not declared as Pulsar does it"
                " (durable, no arguments): delete it there, or give Pulsar a virtual host of its"
                f" own ({_said(error)})"
            )
        case ssl.SSLError():
            what = f"and we cannot agree on TLS: {_said(error)}"
        case TimeoutError():
            what = f"did not answer within {timeout_s:g} s"
        case _:
            what = f"cannot be reached: {_said(error)}"
    return what


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")


def _vhost(parts: SplitResult) -> str:
    """Return the virtual host. Pulsar's library writes the one called `/` as `//`."""
    return unquote(parts.path[1:]) or "/"


def _public(parts: SplitResult) -> str:
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{_scheme(parts)}://{f'[{host}]' if ':' in host else host}{port}/{_vhost(parts)}"


def _plain(parts: SplitResult) -> str:
    """Return the URL as aio_pika reads it."""
    query = parts.query or f"heartbeat={HEARTBEAT_S}"
    path = "/" + quote(_vhost(parts), safe="")
    return parts._replace(scheme=_scheme(parts), path=path, query=query).geturl()


def _scheme(parts: SplitResult) -> str:
    return parts.scheme.removeprefix("py")
