"""A proxy that does harm: between a client and a server of the test, one fault a connection.

    with faulty(server.port) as proxy:
        proxy.next(Answer(503), Cut(after=100_000))     # the first two connections; then none
        proxy.always(Silence())                         # or all of them

Faults on what bytes say (`Answer`, `Length`, `Corrupt`) are for plain HTTP; the others for
anything that speaks TCP.
"""

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from tests.servers.process import HOST

CHUNK: Final = 1 << 16
END: Final = b"\r\n\r\n"
AT_ONCE: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Pass:
    """No fault."""


@dataclass(frozen=True, slots=True)
class Delay:
    """Every chunk of the answer comes so much later."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Cut:
    """A reset after so many bytes of the answer, its head included."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class CutUpload:
    """A reset after so many bytes of the request, its head included."""

    after: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """An orderly end after so many bytes of the answer, its head included."""

    after: int


@dataclass(frozen=True, slots=True)
class Silence:
    """The request is read, and nothing ever answered."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The request is read to its end and answered here."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Length:
    """The answer's Content-Length is said to be so much more (or less, below 0) than it is."""

    by: int


@dataclass(frozen=True, slots=True)
class Corrupt:
    """The byte at that place of the answer's body is another one."""

    at: int


Fault = Pass | Delay | Cut | CutUpload | Truncate | Silence | Answer | Length | Corrupt
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proxy:
    """`connections` is how many there have been."""

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self.connections = 0
        self._upstream = upstream
        self._next: deque[Fault] = deque()
        self._always: Fault = Pass()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def url(self, path: str = "", scheme: str = "http") -> str:
        return f"{scheme}://{HOST}:{self.port}{path}"

    def next(self, *faults: Fault) -> None:
        """Give the connections to come one fault each."""
        self._next.extend(faults)

    def always(self, fault: Fault) -> None:
        """Give that fault to all connections that `next` has none for."""
        self._always = fault

    def cut(self) -> None:
        """End all connections there are, by a reset; may be called from any thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._end_all)

    def _end_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def serve(self, started: Callable[[], None], stop: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        started()
        await stop.wait()
        server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        fault = self._next.popleft() if self._next else self._always
        self._writers.add(writer)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            async with _closing(writer):
                await self._handle((reader, writer), fault)
        self._writers.discard(writer)

    async def _handle(self, client: Streams, fault: Fault) -> None:
        match fault:
            case Silence():
                while await client[0].read(CHUNK):
                    pass
            case Answer():
                await _answer(client, fault)
            case Cut(after=0):
                _reset(client[1])
            case _:
                await self._relay(client, fault)

    async def _relay(self, client: Streams, fault: Fault) -> None:
        server = await asyncio.open_connection(HOST, self._upstream)
        self._writers.add(server[1])
        try:
            async with _closing(server[1]), asyncio.TaskGroup() as tasks:
                up = tasks.create_task(_up(client, server, fault))
                await _down(client, server, fault)
                up.cancel()
        except* ConnectionError:
            _reset(client[1])
        self._writers.discard(server[1])


@contextmanager
def faulty(upstream: int) -> Iterator[Proxy]:
    """Run a proxy before the server on port `upstream`."""
    proxy = Proxy(upstream)
    loop, stop, started = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(proxy.serve(started.set, stop))

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def _up(client: Streams, server: Streams, fault: Fault) -> None:
    passed = 0
    async for chunk in _chunks(client[0]):
        left = fault.after - passed if isinstance(fault, CutUpload) else len(chunk)
        server[1].write(chunk[:left])
        await server[1].drain()
        passed += len(chunk)
        if left < len(chunk):
            _reset(server[1])
            raise ConnectionResetError
    with suppress(OSError):
        server[1].write_eof()


async def _down(client: Streams, server: Streams, fault: Fault) -> None:
    match fault:
        case Length() | Corrupt():
            await _rewritten(client, server, fault)
        case Cut(after=after) | Truncate(after=after):
            await _part(client, server, after, reset=isinstance(fault, Cut))
        case _:
            async for chunk in _chunks(server[0]):
                await asyncio.sleep(fault.seconds if isinstance(fault, Delay) else 0)
                client[1].write(chunk)
                await client[1].drain()


async def _part(client: Streams, server: Streams, after: int, *, reset: bool) -> None:
    """Pass so many bytes on and then break off; less than that is passed on whole."""
    left = after
    async for chunk in _chunks(server[0]):
        client[1].write(chunk[:left])
        await client[1].drain()
        left -= len(chunk)
        if left <= 0:
            break
    if left <= 0 and reset:
        await _until_taken(client[1])
        _reset(client[1])


async def _rewritten(client: Streams, server: Streams, fault: Length | Corrupt) -> None:
    """Pass one answer on, changed; then the connection is at its end."""
    head = await server[0].readuntil(END)
    length = _length(head)
    if isinstance(fault, Length):
        old, new = (f"Content-Length: {n}\r\n".encode() for n in (length, length + fault.by))
        assert old in head, head
        head = head.replace(old, new)
    body = bytearray(await server[0].readexactly(length))
    if isinstance(fault, Corrupt):
        body[fault.at] ^= 0xFF
    client[1].write(head + body)
    await client[1].drain()


async def _answer(client: Streams, fault: Answer) -> None:
    """Read what was asked, or the client could not write it and would not see the answer."""
    head = await client[0].readuntil(END)
    if b"100-continue" not in head:
        await client[0].readexactly(_length(head))
    headers = {
        "Content-Length": str(len(fault.body)),
        "Connection": "close",
        **fault.headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    client[1].write(f"HTTP/1.1 {fault.status} Fault\r\n{lines}\r\n".encode() + fault.body)
    await client[1].drain()


def _length(head: bytes) -> int:
    """Return the Content-Length, or 0 where none is said."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while chunk := await reader.read(CHUNK):
        yield chunk


async def _until_taken(writer: asyncio.StreamWriter) -> None:
    """Wait until the kernel has it all: a reset throws away what it has not sent."""
    writer.transport.set_write_buffer_limits(0)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End the connection by RST instead of FIN."""
    sock: socket.socket = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    writer.transport.abort()


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
