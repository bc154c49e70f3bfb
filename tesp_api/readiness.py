"""Whether this server can do its work now: do store and Pulsar answer?

However many ask, each of the two is asked once at a time and its answer believed for a moment, so
that probes are no load. What is told names no address; the log has the errors.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from loguru import logger

from tesp_api.domain.errors import LeaseLapsed, Unreachable
from tesp_api.domain.task import TaskId
from tesp_api.domain.tes import View
from tesp_api.ports import Clock, JobRunner, TaskStore

BELIEVED_S: Final = 1.0
PATIENCE_S: Final = 3.0

Ask = Callable[[], Awaitable[object]]


def neighbours(store: TaskStore, runner: JobRunner) -> Mapping[str, Ask]:
    """Return whom a server needs."""
    return {
        "The store": lambda: store.document(TaskId(""), View.MINIMAL, None),
        "Pulsar": runner.ping,
    }


class Readiness:
    """Asks the neighbours, named as a sentence begins with them: each raises Unreachable or not.

    `patience_s` is how long one may take to answer.
    """

    def __init__(
        self, neighbours: Mapping[str, Ask], clock: Clock, *, patience_s: float = PATIENCE_S
    ) -> None:
        self._neighbours = neighbours
        self._clock = clock
        self._patience_s = patience_s
        self._asking: asyncio.Task[Sequence[str]] | None = None
        self._answered_at = float("-inf")
        self._told: Sequence[str] = ()

    async def reasons(self) -> Sequence[str]:
        """Return a sentence for each neighbour that does not answer; none: the server is ready."""
        if self._clock.monotonic() - self._answered_at < BELIEVED_S:
            return self._told
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all(), name="readiness")
        return await asyncio.shield(self._asking)  # others may wait for the same answer

    async def _ask_all(self) -> Sequence[str]:
        answers = await asyncio.gather(*map(self._trouble, self._neighbours))
        found = [answer for answer in answers if answer is not None]
        if found != self._told:
            logger.warning("readiness changed: {}", " ".join(found) or "ready")
        self._told, self._answered_at = found, self._clock.monotonic()
        return found

    async def _trouble(self, name: str) -> str | None:
        try:
            async with asyncio.timeout(self._patience_s):
                await self._neighbours[name]()
        except TimeoutError:
            return f"{name} does not answer within {self._patience_s:g} s."
        except LeaseLapsed:
            return "This process may not use Pulsar now: it could not renew its lease in the store."
        except Unreachable as error:
            logger.debug("not ready: {}", error)
            return f"{name} does not answer."
        return None
