"""Issuers put together by hand: a server that answers each path with the very bytes given."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.auth.keys import Signer

Answer = bytes | Callable[[asyncio.StreamWriter], Awaitable[None]]
DESCRIPTION = "/.well-known/openid-configuration"
KEYS = "/keys"


def answer(body: Any, status: str = "200 OK", *headers: str) -> bytes:
    """Return an HTTP answer; what is no bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + content


class Web:
    """`answers` by path, `requests` as they came: the first line and all headers."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []

    @property
    def paths(self) -> list[str]:
        return [request.split(" ")[1] for request in self.requests]

    def publish(self, *signers: Signer, **description: Any) -> None:
        """Be an issuer whose keys are those of `signers`; `description` changes what it says."""
        said = {"issuer": self.url, "jwks_uri": self.url + KEYS, **description}
        self.answers[DESCRIPTION] = answer(said)
        self.answers[KEYS] = answer({"keys": [signer.jwk() for signer in signers]})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            found = self.answers.get(self.paths[-1], answer(b"", "404 Not Found"))
            if isinstance(found, bytes):
                writer.write(found)
                await writer.drain()
            else:
                await found(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client left
        finally:
            writer.close()


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None, name: str = "127.0.0.1") -> AsyncIterator[Web]:
    web = Web()
    serving: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(web.serve(reader, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    web.url = f"{'https' if tls else 'http'}://{name}:{port}"
    try:
        yield web
    finally:
        server.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def for_ever(writer: asyncio.StreamWriter) -> None:
    """Answer nothing, and hold the connection."""
    await asyncio.Event().wait()


def drops(
    what: Sequence[bytes], every_s: float
) -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    """Send `what`, then one byte after the other, without an end."""

    async def drip(writer: asyncio.StreamWriter) -> None:
        for piece in what:
            writer.write(piece)
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(every_s)

    return drip
