"""Small constant jobs of ours, which do at Pulsar what no message can: read files, remove them."""

import base64
import json
import secrets
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Final

from tesp_api.domain.task import JobId
from tesp_api.ports import Traces
from tesp_api.pulsar import wire

MARK: Final = "TESCHORE1 "
SCRIPT: Final = "chore.py"
MOST_BYTES: Final = 32 * 2**20
_CHORE: Final = "tes-chore-"
_NOBODY: Final = "tes-ping-"


def script() -> Mapping[str, bytes]:
    """Return the file that every chore runs."""
    return {SCRIPT: resources.files("tesp_api").joinpath("pulsar/node_chores.py").read_bytes()}


def reading(job: JobId) -> str:
    """Return the command line that tells what is left of a job."""
    return _command("read", job)


def removal(jobs: Sequence[JobId]) -> str:
    """Return the command line that removes jobs' directories."""
    return _command("remove", *jobs)


def new_chore() -> JobId:
    """Return a name that no job ever had."""
    return JobId(f"{_CHORE}{secrets.token_hex(8)}")


def nobody() -> JobId:
    """Return the name of a job that never was, and never will be."""
    return JobId(f"{_NOBODY}{secrets.token_hex(8)}")


def is_passing(job: JobId) -> bool:
    """Whether what is heard of the job is of use only to the process that made up its name."""
    return job.startswith((_CHORE, _NOBODY))


def traces(output: str) -> Traces | None:
    """Return what a reading chore printed; None where it did not come to that."""
    answer = _answer(output)
    if answer is None:
        return None
    return Traces(
        **{name: answer.get(name) for name in ("report", "heartbeat", "journal", "watch")}
    )


def unbegun(output: str) -> bool | None:
    """Return whether the job that a reading chore looked at has not begun; None as above."""
    answer = _answer(output)
    return None if answer is None else answer.get("unbegun") is True


def left(output: str) -> Sequence[str] | None:
    """Return the jobs that a removing chore could not remove; None where it did not try."""
    answer = _answer(output)
    return None if answer is None else [str(job) for job in answer.get("left", ())]


def _command(*words: str) -> str:
    assert all(map(wire.is_ours, words)), "nothing of a user's is in a command line"
    return f"python3 -IS ../inputs/{SCRIPT} {' '.join(words)}"


def _answer(output: str) -> dict[str, Any] | None:
    line = next((line for line in output.splitlines() if line.startswith(MARK)), None)
    if line is None:
        return None
    try:
        unpacker = zlib.decompressobj()
        packed = base64.b64decode(line.removeprefix(MARK).strip(), validate=True)
        answer = json.loads(unpacker.decompress(packed, MOST_BYTES))
    except (ValueError, zlib.error):
        return None
    return answer if isinstance(answer, dict) else None
