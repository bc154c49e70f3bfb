"""When Pulsar is asked for a job of which nothing is heard, and when an order is repeated.

All of it is in memory and may be lost: it only decides how soon the next message goes out.
"""

from dataclasses import dataclass
from typing import Final

from tesp_api.domain.task import JobId
from tesp_api.ports import Phase
from tesp_api.pulsar.hearsay import Heard

SILENT_S: Final = 60.0
"""A job that says nothing for so long is asked for, unless told otherwise; then more seldom."""
DYING_S: Final = 1.0
"""A kill that met no job yet was forgotten by Pulsar: it is repeated, more and more seldom."""
MISSED_S: Final = 1.0
"""Pulsar may say `lost` for a moment: it is asked again."""
LONGEST_S: Final = 900.0


@dataclass(slots=True)
class Watch:
    """What is remembered of a job between two looks. Moments are monotonic seconds."""

    since: float
    """When this process first saw it, or sent it: no message with it was sent later."""
    heard: Heard
    at: float
    """When the last message went out, or news came."""
    pause_s: float
    asked_at: float | None = None
    """When it was first asked for, if no word came since."""
    proof: int | None = None
    """What it had said when Pulsar was known to have begun all that was sent before."""

    def asked(self, now: float, patience_s: float) -> None:
        """Remember a question; one without an answer is repeated as long as that lasts."""
        if self.asked_at is None:
            self.asked_at = now
        else:
            self.pause_s = min(self.pause_s, patience_s)


class Watches:
    """One for each job that is looked at; `silent_s` is how long silence is borne at first."""

    def __init__(self, silent_s: float = SILENT_S) -> None:
        self._all: dict[JobId, Watch] = {}
        self._silent_s = silent_s

    def of(self, job: JobId, heard: Heard, now: float) -> Watch:
        """Return the job's watch, told of what is heard."""
        watch = self._all.get(job)
        if watch is None:
            watch = self._all[job] = Watch(
                since=now, heard=heard, at=now, pause_s=self._first(heard)
            )
        if heard.said != watch.heard.said:
            watch.asked_at = None
        if _kind(heard) != _kind(watch.heard):
            watch.at, watch.pause_s = now, self._first(heard)
        watch.heard = heard
        return watch

    def drop(self, job: JobId) -> None:
        """Nobody looks at it any more."""
        self._all.pop(job, None)

    def _first(self, heard: Heard) -> float:
        if heard.killed:
            return DYING_S
        return MISSED_S if heard.phase is Phase.UNKNOWN else self._silent_s


def is_due(watch: Watch, now: float) -> bool:
    """Whether it is time for another message; then the next is due later."""
    if now - watch.at < watch.pause_s:
        return False
    watch.at, watch.pause_s = now, min(2 * watch.pause_s, LONGEST_S)
    return True


def _kind(heard: Heard) -> tuple[Phase, bool]:
    return heard.phase, heard.killed
