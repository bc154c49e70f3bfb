"""A network name space with nothing in it but a loopback address, and doors to a few of our ports.

A door is a listening socket on the inside; whoever connects there is led to the same port outside.
So the same URL is right on both sides, and everything else is out of reach: no address of this
machine, no other port, no route.
"""

import asyncio
import ctypes
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.amqp_pulsars import AmqpPulsar
from tests.pulsars import HOST

NEW_NETWORK: Final = 0x40000000
CHUNK: Final = 65536


class Secluded(AmqpPulsar):
    """A Pulsar on an island."""

    def __init__(self, directory: Path, amqp_url: str, network: str) -> None:
        super().__init__(directory, amqp_url)
        self._network = network

    def _program(self) -> list[str]:
        begin = "import os, sys; os.execvp('nsenter', ['nsenter', *sys.argv[1:]])"
        return ["-c", begin, f"--net={self._network}", sys.executable, *super()._program()]


@contextmanager
def island(*ports: int) -> Iterator[str]:
    """Give the file that stands for the name space; it ends with its first process."""
    hold = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo && exec cat"]
    holder = subprocess.Popen(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with holder, ExitStack() as doors:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"\n", "there is no name space"
        network = f"/proc/{holder.pid}/ns/net"
        doors.enter_context(_open(_listeners(network, ports)))
        yield network


def _listeners(network: str, ports: Sequence[int]) -> list[socket.socket]:
    """Make sockets on the island: only a thread moves there, and ends."""
    made: list[socket.socket] = []

    def make() -> None:
        place = os.open(network, os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(place, NEW_NETWORK) == 0:
            made.extend(socket.create_server((HOST, port)) for port in ports)
        os.close(place)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    assert len(made) == len(ports), "the doors could not be made"
    return made


@contextmanager
def _open(listeners: Sequence[socket.socket]) -> Iterator[None]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    for listener in listeners:
        made = asyncio.start_server(_lead(listener.getsockname()[1]), sock=listener)
        asyncio.run_coroutine_threadsafe(made, loop).result()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(_end(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        for listener in listeners:
            listener.close()


def _lead(port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outside = await asyncio.open_connection(HOST, port)
        async with asyncio.TaskGroup() as both:
            both.create_task(_pump(reader, outside[1]))
            both.create_task(_pump(outside[0], writer))

    return lead


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
    writer.close()


async def _end() -> None:
    own = asyncio.current_task()
    others = [task for task in asyncio.all_tasks() if task is not own]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
