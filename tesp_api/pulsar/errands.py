"""Sends small jobs of ours to Pulsar and waits for what they print.

They stand in the same queue as all others and Pulsar starts one after another: when an errand has
ended, whatever was sent before it has been started too.
"""

from collections.abc import Mapping
from typing import Final

from tesp_api.domain.errors import RunnerUnreachable
from tesp_api.domain.task import JobId
from tesp_api.ports import Phase
from tesp_api.pulsar import chores, messages
from tesp_api.pulsar.amqp import Broker
from tesp_api.pulsar.hearsay import FINAL, Heard
from tesp_api.pulsar.mailbox import Mailbox
from tesp_api.pulsar.messages import Queue

NUDGE_S: Final = 5.0
"""After this an errand is asked for: its last word may have been lost."""


class Errands:
    """Runs them; each is waited for no longer than `timeout_s`."""

    def __init__(self, broker: Broker, mail: Mailbox, timeout_s: float) -> None:
        self._broker = broker
        self._mail = mail
        self._timeout_s = timeout_s
        self._script: Mapping[str, bytes] = chores.script()

    async def run(self, command: str) -> str:
        """Return what it printed. Raises RunnerUnreachable: it may still be done later."""
        errand = chores.new_chore()
        await self._mail.change(errand, lambda old: old or Heard())
        try:
            setup = messages.setup(errand, command, self._script)
            # Of no use to anybody once it is not waited for: they would gather at a Pulsar away.
            await self._broker.send(Queue.SETUP, setup, expires_s=self._timeout_s)
            return (await self._end(errand)).output
        finally:
            await self._mail.drop(errand)

    async def status(self, job: JobId, said: int) -> Heard:
        """Ask Pulsar for the job, and return what is known after its next word."""
        await self._broker.send(Queue.STATUS, messages.status(job), expires_s=self._timeout_s)
        try:
            return await self._mail.wait(job, lambda heard: heard.said > said, self._timeout_s)
        except TimeoutError as error:
            raise self._silent() from error

    async def _end(self, errand: JobId) -> Heard:
        try:
            return await self._mail.wait(errand, _has_ended, min(NUDGE_S, self._timeout_s))
        except TimeoutError:
            await self._broker.send(
                Queue.STATUS, messages.status(errand), expires_s=self._timeout_s
            )
        try:
            return await self._mail.wait(errand, _has_ended, self._timeout_s)
        except TimeoutError as error:
            raise self._silent() from error

    def _silent(self) -> RunnerUnreachable:
        return RunnerUnreachable(
            f"{self._broker.pulsar} did not answer within {self._timeout_s:g} s."
        )


def _has_ended(heard: Heard) -> bool:
    return heard.phase in FINAL or heard.phase is Phase.UNKNOWN
