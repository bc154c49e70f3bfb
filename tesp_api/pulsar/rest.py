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
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from tesp_api.domain.errors import RunnerUnreachable
from tesp_api.domain.task import JobId
from tesp_api.ports import Permit, Phase, Sighting, Traces, always
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
UNSUBMITTED: Final = frozenset({Phase.UNKNOWN, Phase.SET_UP})


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

    async def start(self, job: JobId, order: Mapping[str, Any]) -> None:
        """Upload the parcel, then submit: two calls, since a submit sets up what is not there yet.

        A failed upload leaves at most a directory; a submit of unknown outcome may be repeated. The
        file has another name each time: a late copy of an upload must not change what already runs.
        """
        parcel, name = self._parcels.pack(order), f"{secrets.token_hex(4)}-{wire.PARCEL}"
        await self._call(
            "POST", f"{self._jobs}/{job}/files", {"name": name, "type": "input"}, parcel
        )
        await self._submit(job, wire.command(name))

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
        if (await self.look(job)).phase in UNSUBMITTED:
            await self._submit(job, wire.OCCUPY)
        await self._call("PUT", f"{self._jobs}/{job}/cancel")

    async def settle(self, job: JobId) -> Traces:
        """Read the runner's files.

        Pulsar answers 500 for one that is not there, and also when it is in trouble itself. So
        what seems to be missing is asked for again, between two proofs that it gives files of this
        job: an executor that was started must not be taken for one that was not.
        """
        found = {name: await self._file(job, f"tes_{name}") for name in TRACES}
        missing = [name for name, text in found.items() if text is None]
        if missing:
            proof = secrets.token_hex(4)
            query = {"name": PROOF, "type": "output"}
            await self._call("POST", f"{self._jobs}/{job}/files", query, proof.encode())
            await self._prove(job, proof)
            found |= {name: await self._file(job, f"tes_{name}") for name in missing}
            await self._prove(job, proof)
        return Traces(**found)

    async def _prove(self, job: JobId, proof: str) -> None:
        if await self._file(job, PROOF) != proof:
            raise RunnerUnreachable(f"{self.name} does not give files of {job}.")

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

    async def _file(self, job: JobId, name: str) -> str | None:
        """Return one of the runner's files, or None where Pulsar does not give it."""
        path = f"{self._jobs}/{job}/files"
        answer = await self._ask("GET", path, {"name": name, "type": "output"})
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
