"""What the runner on the node tells at the end: one framed line, and what it means for the task."""

import base64
import zlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict

from tesp_api.domain.lifecycle import Outcome
from tesp_api.domain.tes import ExecutorLog, OutputFileLog

MARK: Final = "TESREPORT1 "
MAX_JSON_BYTES: Final = 32 * 2**20
"""A report is at most 700 KiB packed; what unpacks to more than this is no report of our runner."""


class Verdict(StrEnum):
    """How the runner says it went."""

    COMPLETE = "complete"
    EXECUTOR_ERROR = "executor_error"
    SYSTEM_ERROR = "system_error"
    STALE = "stale"
    """Signed URLs had ended before anything was done that could not be done again."""


class Report(BaseModel):
    """The runner's report. Times are the node's."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    job: str
    outcome: Verdict
    reason: str | None = None
    turn: str | None = None
    """Who can do something about a failure, as a sentence."""
    executors: tuple[ExecutorLog, ...] = ()
    outputs: tuple[OutputFileLog, ...] = ()
    log: tuple[str, ...] = ()
    metadata: Mapping[str, str] = {}
    left: tuple[tuple[int, str, str, int], ...] = ()
    """Files still to be sent: number of the output, path, name below its URL, bytes."""
    etags: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """What a storage said of each part: number of the file in the order, part by part."""

    def told(self) -> Outcome:
        """Return what goes into the task's log; a failed executor's reason comes last there."""
        failed = self.outcome is Verdict.EXECUTOR_ERROR
        last = (self.reason, self.turn) if failed else ()
        return Outcome(
            executors=self.executors,
            outputs=self.outputs,
            log=(*self.log, *(line for line in last if line)),
            metadata=self.metadata,
        )

    def complaint(self) -> str:
        """Return why it is not complete, and whose turn it is."""
        reason = self.reason or "The runner failed without a reason."
        return f"{reason.rstrip('.')}. {self.turn}" if self.turn else reason


def unframe(text: str, job: str) -> Report | None:
    """Return the report of `job` that stands in `text`, or None where there is no whole one."""
    for line in reversed(text.splitlines()):
        if line.startswith(MARK):
            return _read(line.removeprefix(MARK).strip(), job)
    return None


def _read(packed: str, job: str) -> Report | None:
    try:
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(base64.b64decode(packed, validate=True), MAX_JSON_BYTES)
        report = Report.model_validate_json(plain)
    except (ValueError, zlib.error):
        return None
    return report if unpacker.eof and report.job == job else None
