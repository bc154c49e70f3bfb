"""Pulsar over AMQP: a JobRunner that sends messages, and knows what the store has heard.

Pulsar tells of a job when it runs and when it has ended; nobody polls. Over AMQP it can neither
read a file nor remove one, so both are errands: small jobs of ours beside the old directory.
"""

import asyncio
import contextlib
import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar

from tesp_api.domain.errors import LeaseLapsed, RunnerUnreachable
from tesp_api.domain.task import JobId
from tesp_api.ports import JobNews, Permit, Phase, Sighting, Traces, always
from tesp_api.pulsar import chores, hearsay, messages, wire
from tesp_api.pulsar.amqp import Broker
from tesp_api.pulsar.asking import MISSED_S, SILENT_S, Watch, Watches, is_due
from tesp_api.pulsar.errands import Errands
from tesp_api.pulsar.hearsay import FINAL, Heard
from tesp_api.pulsar.janitor import SWEEP_S, Janitor
from tesp_api.pulsar.mailbox import Mailbox
from tesp_api.pulsar.messages import Queue

CLOSING_S: Final = 3.0
Found = TypeVar("Found")


class AmqpRunner:
    """JobRunner over the queues of one of Pulsar's managers. `news` is where what is heard is kept.

    `timeout_s` bounds each wait: for the broker, and for an answer of Pulsar's. `permit` is
    asked right before each message; `silent_s` and `sweep_s` are explained in `asking`, `janitor`.
    """

    def __init__(
        self,
        url: str,
        news: JobNews,
        *,
        manager: str = "_default_",
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
        permit: Permit = always,
        silent_s: float = SILENT_S,
        sweep_s: float = SWEEP_S,
    ) -> None:
        self._mail = Mailbox(news)
        self._broker = Broker(
            url, manager, self._mail.hear, timeout_s=timeout_s, tls=tls, permit=permit
        )
        self._errands = Errands(self._broker, self._mail, timeout_s)
        self._janitor = Janitor(self._errands, self._mail, sweep_s)
        self._watches = Watches(silent_s)
        self._parcels = wire.Parcels(small=True)
        self._timeout_s = timeout_s
        self._permit = permit
        self.name = self._broker.name

    def listen(self, told: Callable[[JobId], None]) -> None:
        """Connect, take in updates, clean up."""
        self._mail.told = told
        self._broker.begin()
        self._janitor.begin()

    async def start(self, job: JobId, order: Mapping[str, Any], *, again: bool = True) -> None:
        """Send one message with everything in it, unless one was sent already.

        Where it is unknown whether the first arrived, a second does no harm: Pulsar has started
        the first before it looks at the second.
        """
        heard = await self._mail.heard(job)
        if heard is not None and not _may_start_again(heard):
            return
        with self._expecting(job):
            # A large order takes long to be packed, and nothing else may wait for it.
            setup = await asyncio.to_thread(self._setup, job, order)
            await self._broker.send(Queue.SETUP, setup)
            self._permit()
            sent = await self._mail.change(job, hearsay.sent)
        self._watches.of(job, sent, time.monotonic())

    async def has_unbegun(self, job: JobId) -> bool:
        """Have a small job see whether Pulsar still has what it starts the job with."""
        return await self._read(job, chores.unbegun)

    async def look(self, job: JobId) -> Sighting:
        """Return what was heard; Pulsar is asked where that is long ago."""
        heard = await self._mail.glance(job)
        if heard is None or heard.doomed:
            return Sighting(phase=Phase.UNKNOWN)
        if heard.phase in FINAL:
            self._watches.drop(job)
            return heard.sighting()
        now = time.monotonic()
        watch = self._watches.of(job, heard, now)
        if is_due(watch, now):
            heard = await self._tend(job, watch, now)
        self._complain(watch, now)
        return heard.sighting()

    async def kill(self, job: JobId) -> None:
        """Have it killed, and its id taken where Pulsar may not have it yet.

        Pulsar forgets a kill that comes before the job, and reads both from queues of their own:
        `look` repeats it until something is heard of an end.
        """
        heard = await self._mail.heard(job)
        if heard is not None and (heard.doomed or heard.phase in {Phase.ENDED, Phase.KILLED}):
            return
        if heard is not None and not heard.known:
            # Not behind its back: the id taken anew would cost a job that runs its files.
            heard = await self._errands.status(job, heard.said)
        with self._expecting(job):
            self._permit()
            await self._mail.change(job, hearsay.killed)
        if hearsay.needs_occupying(heard):
            await self._broker.send(Queue.SETUP, messages.setup(job, wire.OCCUPY))
        await self._end(job)

    async def settle(self, job: JobId) -> Traces:
        """Have a small job read the runner's files."""
        return await self._read(job, chores.traces)

    async def forget(self, job: JobId) -> None:
        """Have a small job remove it soon, with others; until then that is kept in the store."""
        await self._mail.change(job, hearsay.doomed)
        self._watches.drop(job)
        self._janitor.begin()
        self._janitor.remove(job)

    async def ping(self) -> str:
        """Ask for a job that never was; the answer has Pulsar's version."""
        nobody = chores.nobody()
        try:
            await self._mail.change(nobody, lambda old: old or Heard())
            return (await self._errands.status(nobody, 0)).version
        finally:
            await self._mail.drop(nobody)

    async def close(self) -> None:
        """Let removals under way end, then disconnect."""
        await self._janitor.close(CLOSING_S)
        await self._broker.close()

    async def _read(self, job: JobId, understand: Callable[[str], Found | None]) -> Found:
        found = understand(await self._errands.run(chores.reading(job)))
        if found is None:
            raise RunnerUnreachable(f"{self._broker.pulsar} could not read files of {job}.")
        return found

    @contextlib.contextmanager
    def _expecting(self, job: JobId) -> Iterator[None]:
        """Take in what comes of the job, unless the lease lapses.

        Others may have ended it by then, and forgotten what it told.
        """
        self._mail.expect(job)
        try:
            yield
        except LeaseLapsed:
            self._mail.expect_no_more(job)
            raise

    def _setup(self, job: JobId, order: Mapping[str, Any]) -> Mapping[str, Any]:
        name = f"{secrets.token_hex(4)}-{wire.PARCEL}"
        parcel = {name: self._parcels.pack(order)}
        return messages.setup(job, messages.command(name), parcel)

    async def _tend(self, job: JobId, watch: Watch, now: float) -> Heard:
        """Send what is due: another kill, or a question."""
        if watch.heard.killed:
            await self._end(job)
        elif self._is_missed(watch):
            return await self._mail.change(job, hearsay.vanished)
        else:
            await self._ask(job)
        watch.asked(now, self._timeout_s)
        return watch.heard

    def _is_missed(self, watch: Watch) -> bool:
        """Whether Pulsar does not know a job that no message can bring any more.

        It says so too where the job still waits in the queue. An errand sent later has passed
        there when it ended; such a one is sent, and then Pulsar is asked once more.
        """
        heard = watch.heard
        if not heard.lost or heard.known:
            return False
        if self._janitor.passed_at <= watch.since:
            self._janitor.begin()
            self._janitor.probe()
        elif watch.proof is None:
            watch.proof, watch.pause_s = heard.said, MISSED_S
        else:
            return heard.said > watch.proof
        return False

    async def _end(self, job: JobId) -> None:
        await self._broker.send(Queue.KILL, messages.kill(job))
        await self._ask(job)

    async def _ask(self, job: JobId) -> None:
        await self._broker.send(Queue.STATUS, messages.status(job), expires_s=self._timeout_s)

    def _complain(self, watch: Watch, now: float) -> None:
        """Raise where Pulsar leaves questions unanswered, or jobs unread."""
        if watch.asked_at is not None and now - watch.asked_at > self._timeout_s:
            raise RunnerUnreachable(
                f"{self._broker.pulsar} has answered nothing for {now - watch.asked_at:.0f} s."
            )
        stuck_s = self._janitor.stuck_s(now)
        if watch.heard.lost and not watch.heard.known and stuck_s > self._timeout_s:
            raise RunnerUnreachable(
                f"{self._broker.pulsar} answers, but has taken no job for {stuck_s:.0f} s: one"
                " message that it cannot read stops it; see its log, and purge its queue of set-ups"
                " before it is started again."
            )


def _may_start_again(heard: Heard) -> bool:
    unstarted = heard.phase in {Phase.UNKNOWN, Phase.SET_UP}
    return unstarted and not heard.killed and not heard.doomed
