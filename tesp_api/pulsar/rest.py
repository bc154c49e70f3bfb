"""Pulsar over REST. The only file that knows httpx.

httpx 0.28 scans its whole pool at each request, so many connections in one client are slow; and
Pulsar's web server has four threads, so more than a few gain nothing. Hence a handful of clients
with one connection each, the warmest taken first.

Every argument travels in the query string, the token too (Pulsar reads no other place): URLs of
these calls are never logged, and errors are told without them.
"""

import asyncio
import json
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import httpx

from tesp_api.domain.errors import RunnerUnreachable
from tesp_api.domain.task import JobId
from tesp_api.ports import UNSTARTED, Permit, Sighting, Traces, always
from tesp_api.pulsar import wire
from tesp_api.pulsar.tls import client_context

CONNECTIONS: Final = 6
OK: Final = 200
UNAUTHORIZED: Final = 401
MISSING: Final = 500
"""Pulsar's answer to a download of what is not there."""
TRACES: Final = ("report", "heartbeat", "journal", "watch")
PROOF: Final = "tes_proof"
"""A file of ours beside the runner's."""
SENT: Final = "tes_sent"
"""Another: the name of what was sent last, where it was sent more than once."""


class Place(NamedTuple):
    """A directory of a job, and what Pulsar calls it where a file comes or goes."""

    directory: str
    written_as: str
    read_as: str


OUTPUTS: Final = Place("outputs", "output", "output")
METADATA: Final = Place("metadata", "metadata", "output_metadata")
"""Pulsar copies outputs and working directory beside themselves when a job starts, this one not."""


class RestRunner:
    """JobRunner over Pulsar's REST interface.

    `url` is Pulsar's base address, `manager` one of its managers (`_default_` answers on plain
    `/jobs`). `timeout_s` bounds each call, `permit` is asked right before it. Safe to repeat after
    any error, as the port promises: Pulsar ignores a second submit of an id it knows, but for one
    that was running when it was restarted; so whoever repeats a start looks first.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        manager: str = "_default_",
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
        permit: Permit = always,
    ) -> None:
        base = httpx.URL(url)
        self.name = str(base.copy_with(userinfo=b"", query=None)).rstrip("/")
        self._token = {"private_token": token} if token else {}
        self._jobs = "/jobs" if manager == "_default_" else f"/managers/{manager}/jobs"
        self._parcels = wire.Parcels()
        self._timeout_s = timeout_s
        self._permit = permit
        verify = tls or client_context()
        self._clients = [
            httpx.AsyncClient(
                base_url=base,
                timeout=timeout_s,
                verify=verify,
                trust_env=False,
                limits=httpx.Limits(max_connections=1, keepalive_expiry=20.0),
            )
            for _ in range(CONNECTIONS)
        ]
        self._idle: asyncio.LifoQueue[httpx.AsyncClient] = asyncio.LifoQueue()
        for client in self._clients:
            self._idle.put_nowait(client)

    def listen(self, told: Callable[[JobId], None]) -> None:
        """Over REST Pulsar tells nothing by itself."""

    async def start(self, job: JobId, order: Mapping[str, Any], *, again: bool = True) -> None:
        """Upload the parcel, then submit: two calls, since a submit sets up what is not there yet.

        A failed upload leaves at most a directory; a submit of unknown outcome may be repeated. A
        repeated one has a file of another name each time: a late copy of an upload must not change
        what already runs. It lies where Pulsar gives files back from, and makes no copy.
        """
        parcel = self._parcels.pack(order)
        name = f"{secrets.token_hex(4)}-{wire.PARCEL}" if again else wire.PARCEL
        await self._put(job, METADATA, name, parcel)
        if again:
            await self._put(job, METADATA, SENT, name.encode())
        await self._submit(job, wire.command(name, METADATA.directory))

    async def has_unbegun(self, job: JobId) -> bool:
        """Ask for what was uploaded: the runner removes it first of all, and its files may be lost.

        Where the upload was repeated, the word on that has to do: it tells of the latter.
        """
        found = await self._files(job, METADATA, (wire.PARCEL, SENT))
        return any(text is not None for text in found.values())

    async def look(self, job: JobId) -> Sighting:
        """Ask for the status. Pulsar answers 200 also for a job it never heard of."""
        answer = await self._call("GET", f"{self._jobs}/{job}/status")
        try:
            return wire.sighting(json.loads(answer))
        except (ValueError, AttributeError) as error:
            raise RunnerUnreachable(
                f"{self.name} answered a status request without a status."
            ) from error

    async def kill(self, job: JobId) -> None:
        """Cancel it; an id without a job is first taken by one that does nothing.

        A cancel of an unknown id is not remembered by Pulsar, but a second submit of an id that has
        a job is ignored. Not so after a restart of Pulsar: there it would wipe the files of a job
        that was running, so the id is taken only where nothing was ever submitted.
        """
        if (await self.look(job)).phase in UNSTARTED:
            await self._submit(job, wire.OCCUPY)
        await self._call("PUT", f"{self._jobs}/{job}/cancel")

    async def settle(self, job: JobId) -> Traces:
        """Read the runner's files."""
        found = await self._files(job, OUTPUTS, [f"tes_{name}" for name in TRACES])
        return Traces(**{name: found[f"tes_{name}"] for name in TRACES})

    async def _files(self, job: JobId, place: Place, names: Iterable[str]) -> dict[str, str | None]:
        """Return what stands in each, None for one that is not there.

        Pulsar answers 500 for those, and also when it is in trouble itself. So what seems to be
        missing is asked for again, between two proofs that it gives files of this job: an executor
        that was started must not be taken for one that was not.
        """
        found = {name: await self._file(job, place, name) for name in names}
        missing = [name for name, text in found.items() if text is None]
        if missing:
            proof = secrets.token_hex(4)
            await self._put(job, place, PROOF, proof.encode())
            await self._prove(job, place, proof)
            found |= {name: await self._file(job, place, name) for name in missing}
            await self._prove(job, place, proof)
        return found

    async def _prove(self, job: JobId, place: Place, proof: str) -> None:
        if await self._file(job, place, PROOF) != proof:
            raise RunnerUnreachable(f"{self.name} does not give files of {job}.")

    async def _put(self, job: JobId, place: Place, name: str, content: bytes) -> None:
        """Write a file into one of the job's directories."""
        query = {"name": name, "type": place.written_as}
        await self._call("POST", f"{self._jobs}/{job}/files", query, content)

    async def forget(self, job: JobId) -> None:
        """Delete the job's directory. Pulsar says OK whether or not it could; `look` tells."""
        await self._call("DELETE", f"{self._jobs}/{job}")

    async def ping(self) -> str:
        """Return Pulsar's version."""
        answer = await self._call("GET", "/healthz")
        try:
            return str(json.loads(answer)["version"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunnerUnreachable(f"What answers at {self.name} is not a Pulsar.") from error

    async def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            await client.aclose()

    async def _submit(self, job: JobId, command: str) -> None:
        await self._call("POST", f"{self._jobs}/{job}/submit", wire.submission(job, command))

    async def _file(self, job: JobId, place: Place, name: str) -> str | None:
        """Return what stands in a file, or None where Pulsar does not give it."""
        path = f"{self._jobs}/{job}/files"
        answer = await self._ask("GET", path, {"name": name, "type": place.read_as})
        if answer.status_code == MISSING:
            return None
        return self._understood(answer, "GET", path).text

    async def _call(
        self, method: str, path: str, query: Mapping[str, str] = {}, body: bytes | None = None
    ) -> bytes:
        answer = await self._ask(method, path, query, body)
        return self._understood(answer, method, path).content

    def _understood(self, answer: httpx.Response, method: str, path: str) -> httpx.Response:
        if answer.status_code == UNAUTHORIZED:
            raise RunnerUnreachable(f"{self.name} refuses our token: check pulsar.private_token.")
        if answer.status_code != OK:
            raise RunnerUnreachable(
                f"{self.name} answered {answer.status_code} to {method} {path}."
            )
        return answer

    async def _ask(
        self, method: str, path: str, query: Mapping[str, str], body: bytes | None = None
    ) -> httpx.Response:
        async with self._connection() as client:
            self._permit()
            try:
                async with asyncio.timeout(self._timeout_s):  # httpx times each read alone
                    return await client.request(
                        method, path, params={**query, **self._token}, content=body
                    )
            except (TimeoutError, httpx.TimeoutException) as error:
                raise RunnerUnreachable(
                    f"{self.name} did not answer within {self._timeout_s:g} s."
                ) from error
            except httpx.HTTPError as error:
                what = str(error) or type(error).__name__
                raise RunnerUnreachable(f"{self.name} cannot be reached: {what}.") from error

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[httpx.AsyncClient]:
        client = await self._idle.get()
        try:
            yield client
        finally:
            self._idle.put_nowait(client)
