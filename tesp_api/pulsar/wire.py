"""Pulsar's messages: what we send and how we read what it says. Pure; both transports share it.

Facts are those of pulsar-app 0.16.0. The command line of a job is a constant but for the parcel's
name, which is ours: whatever belongs to a task travels in the uploaded parcel, so nothing of it
meets Pulsar's shell or its process list.
"""

import importlib.util
import io
import json
import marshal
import re
import zipfile
from collections.abc import Mapping
from importlib import resources
from types import CodeType, MappingProxyType
from typing import Any, Final

from tesp_api.domain.task import JobId
from tesp_api.ports import Phase, Sighting

PARCEL: Final = "run.pyz"
"""How the name of an uploaded parcel ends."""
OCCUPY: Final = "true"
"""What a job does whose id only has to be taken, so that a late submit of it is ignored."""

_PHASES: Final[Mapping[str, Phase]] = MappingProxyType(
    {
        "preprocessing": Phase.SET_UP,
        "queued": Phase.WAITING,
        "running": Phase.RUNNING,
        "postprocessing": Phase.RUNNING,
        "complete": Phase.ENDED,
        "failed": Phase.FAILED,
        "cancelled": Phase.KILLED,
        "lost": Phase.UNKNOWN,
    }
)


_OURS: Final = re.compile(r"[A-Za-z0-9-]{1,200}")


def is_ours(name: str) -> bool:
    """Whether `name` could be a job of ours: it needs no quotes and leads to no other directory."""
    return _OURS.fullmatch(name) is not None


def sighting(document: Mapping[str, Any]) -> Sighting:
    """Read a status document. A status we do not know counts as running: it has not ended."""
    phase = _PHASES.get(str(document.get("status")), Phase.RUNNING)
    if document.get("complete") != "true":
        return Sighting(phase=phase)
    code = document.get("returncode")
    return Sighting(
        phase=phase,
        output=str(document.get("job_stdout") or ""),
        complaint=str(document.get("stderr") or document.get("job_stderr") or "").strip(),
        exit_code=code if isinstance(code, int) else None,
    )


def command(parcel: str, directory: str = "inputs") -> str:
    """Return the command line that runs the uploaded file of that name; nothing of a user is in it.

    `-I`: what lies in the working directory is not imported; `-S`: no site, a faster start.
    Standard output is Pulsar's `job_stdout`, where only the framed report goes: one byte there that
    is not UTF-8 would make every later status call fail.
    """
    return f"python3 -IS ../{directory}/{parcel} 2> ../metadata/tool_stderr"


def submission(job: JobId, command: str) -> Mapping[str, str]:
    """Return the query of a submit that sets the job up too (`setup_params`)."""
    return {"command_line": command, "setup_params": json.dumps({"job_id": job})}


class Parcels:
    """Packs the runner and an order into one zip file that Python runs as it is.

    The runner's byte code is in it for nodes that have this Python; another Python finds the wrong
    magic number and compiles the source beside it (documented behaviour of zipimport).
    """

    def __init__(self, *, small: bool = False) -> None:
        """Make what is the same in all; `small` ones are unpacked by the node."""
        members: dict[str, bytes] = {"tesp_api/__init__.py": b""}
        for module in resources.files("tesp_api").joinpath("runner").iterdir():
            if module.name.endswith(".py"):
                place = "" if module.name == "__main__.py" else "tesp_api/runner/"
                members |= _compiled(place + module.name, module.read_bytes())
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in members.items():
                method = zipfile.ZIP_DEFLATED if small else zipfile.ZIP_STORED
                archive.writestr(zipfile.ZipInfo(name), content, method)
        self._empty = buffer.getvalue()

    def pack(self, order: Mapping[str, Any]) -> bytes:
        """Return the zip file; `order` is JSON in its member `order.json`."""
        buffer = io.BytesIO(self._empty)
        with zipfile.ZipFile(buffer, "a") as archive:
            text = json.dumps(order, ensure_ascii=True, separators=(",", ":"))
            archive.writestr(zipfile.ZipInfo("order.json"), text, zipfile.ZIP_DEFLATED)
        return buffer.getvalue()


def _compiled(name: str, source: bytes) -> Mapping[str, bytes]:
    code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    return {name: source, f"{name}c": _bytecode(code)}


def _bytecode(code: CodeType) -> bytes:
    """Return a .pyc that is never compared with a source (PEP 552, unchecked hash)."""
    unchecked_hash = 0b01
    flags = unchecked_hash.to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + flags + bytes(8) + marshal.dumps(code)
