"""Pulsar's messages over AMQP: queues and bodies. Pure.

The parcel travels as base64 text in the job's environment statements, which Pulsar writes into the
job's script. Staging it by Pulsar (`remote_staging`) would be done in a thread beside the queue:
for a moment such a job is in none of Pulsar's lists, and a second message of the same id, met just
then, is carried out too, over the files of the first. A job without staging is started before the
next message is looked at.
"""

import base64
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from tesp_api.domain.task import JobId
from tesp_api.pulsar import wire

EXCHANGE: Final = "pulsar"
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+")
_END: Final = "TESP-END"
"""Ends a here-document; base64 has no `-`."""


class Queue(StrEnum):
    """A manager's queues, by the end of their names."""

    SETUP = "setup"
    KILL = "kill"
    STATUS = "status"
    UPDATE = "status_update"


def queue_name(manager: str, queue: Queue) -> str:
    """Return the name of a manager's queue, which is its routing key too."""
    prefix = "pulsar_" if manager == "_default_" else f"pulsar_{manager}_"
    return f"{prefix}_{queue}"


def setup(job: JobId, command: str, files: Mapping[str, bytes] | None = None) -> Mapping[str, Any]:
    """Return what has Pulsar run `command` as `job`, with `files` in its inputs."""
    return {
        "job_id": job,
        "command_line": command,
        "setup_params": {"job_id": job},
        "env": [{"execute": _statement(*file)} for file in (files or {}).items()],
    }


def kill(job: JobId) -> Mapping[str, Any]:
    """Return what ends a job that was started; of any other it is forgotten."""
    return {"job_id": job}


def status(job: JobId) -> Mapping[str, Any]:
    """Return what makes Pulsar send an update."""
    return {"request": "status", "job_id": job}


def command(parcel: str) -> str:
    """Return the command line that runs the delivered file of that name.

    What was delivered with it may hold credentials: it goes from where Pulsar has written it.
    """
    return f"echo {{}} > ../launch_config; rm -f ../command.sh; {wire.command(parcel)}"


def _statement(name: str, content: bytes) -> str:
    assert _PLAIN.fullmatch(name), "our own names need no quotes"
    text = base64.encodebytes(content).decode()
    return f"base64 -d > \"$_GALAXY_JOB_DIR/../inputs/{name}\" << '{_END}'\n{text}{_END}"
