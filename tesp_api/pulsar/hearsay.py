"""What is known of a job from Pulsar's messages alone, and the rule by which news change it. Pure.

Messages come late, twice, in another order than they were sent, or not at all. Hence: an end stays
the end; nothing goes back, so a late `running` changes nothing; and `lost` means nothing as long
as Pulsar never showed that it knows the job, since an answer may overtake the job itself.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from tesp_api.domain.task import JobId
from tesp_api.ports import Phase, Sighting
from tesp_api.pulsar import wire

FINAL: Final = frozenset({Phase.ENDED, Phase.FAILED, Phase.KILLED})
_ORDER: Final[Mapping[Phase, int]] = MappingProxyType(
    {Phase.UNKNOWN: 0, Phase.SET_UP: 1, Phase.WAITING: 2, Phase.RUNNING: 3}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What was heard of a job. As it is made: it was sent, and nothing was heard yet."""

    phase: Phase = Phase.WAITING
    known: bool = False
    """Pulsar has shown that it has, or had, this job."""
    lost: bool = False
    """Pulsar said that it does not know it, and nothing else since."""
    killed: bool = False
    """We want it dead."""
    doomed: bool = False
    """Nobody asks for it any more; its directory is to be removed."""
    said: int = 0
    """Messages about it."""
    output: str = ""
    complaint: str = ""
    exit_code: int | None = None
    version: str = ""

    def sighting(self) -> Sighting:
        """Return it as the core wants it."""
        if self.doomed:
            return Sighting(phase=Phase.UNKNOWN)
        return Sighting(
            phase=self.phase,
            output=self.output,
            complaint=self.complaint,
            exit_code=self.exit_code,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One of Pulsar's messages."""

    job: JobId
    seen: Sighting
    version: str = ""


def merge(old: Heard, update: Update) -> Heard:
    """Return what is known after `update`; `old` itself where it says nothing new."""
    seen = update.seen
    if old.phase in FINAL or old.doomed:
        return old
    counted = replace(old, said=old.said + 1, version=update.version or old.version)
    if seen.phase is Phase.UNKNOWN:
        return replace(counted, lost=True, phase=Phase.UNKNOWN if old.known else old.phase)
    if old.known and seen.phase not in FINAL and _ORDER[seen.phase] < _ORDER[old.phase]:
        return counted
    return replace(
        counted,
        known=True,
        lost=False,
        phase=seen.phase,
        output=seen.output,
        complaint=seen.complaint,
        exit_code=seen.exit_code,
    )


def sent(old: Heard | None) -> Heard:
    """Return what is known once the job was given to the broker (again, if it was lost)."""
    if old is None:
        return Heard()
    if old.phase is Phase.UNKNOWN:
        return replace(old, phase=Phase.WAITING, known=False, lost=False)
    return old


def killed(old: Heard | None) -> Heard:
    """Return what is known once we want the job dead; what did not take place is not lost either.

    Behind the job goes one of the same name that does nothing: from here on `lost` is no proof,
    until Pulsar has shown that it knows the name.
    """
    old = old or Heard()
    if old.phase in FINAL or old.doomed:
        return old
    if needs_occupying(old):
        return replace(old, killed=True, known=False, lost=False, phase=Phase.WAITING)
    return replace(old, killed=True)


def needs_occupying(old: Heard | None) -> bool:
    """Whether a late copy of the job might still be carried out, as far as is known."""
    return old is None or not old.known or old.phase in {Phase.UNKNOWN, Phase.SET_UP}


def vanished(old: Heard | None) -> Heard:
    """Return what is known once it is proven that no message with the job is under way."""
    old = old or Heard()
    return replace(old, phase=Phase.UNKNOWN) if old.lost and not old.known else old


def doomed(old: Heard | None) -> Heard:
    """Return what is known of a job that nobody asks for any more: nothing."""
    return Heard(doomed=True, killed=old is not None and old.killed)


def update_of(body: bytes) -> Update | None:
    """Read a message; None where it is none of Pulsar's."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("status"), str):
        return None
    job = document.get("job_id")
    if not isinstance(job, str) or not wire.is_ours(job):
        return None
    version = document.get("pulsar_version")
    return Update(
        job=JobId(job), seen=_seen(document), version=version if isinstance(version, str) else ""
    )


def _seen(document: Mapping[str, Any]) -> Sighting:
    """Read the status; `lost` with a directory is what a restarted Pulsar says of what still runs.

    To those who ask it says `running` of the same job, for ever.
    """
    if document.get("status") == "lost" and document.get("job_directory_contents"):
        return Sighting(phase=Phase.RUNNING)
    return wire.sighting(document)


def encode(heard: Heard) -> bytes:
    """Return a JSON object, for the store."""
    return json.dumps(asdict(heard), ensure_ascii=True, separators=(",", ":")).encode()


def decode(document: bytes) -> Heard:
    """Return what `encode` was given."""
    fields = json.loads(document)
    return Heard(**{**fields, "phase": Phase(fields["phase"])})
