"""What servers call the contents of a directory: MLSD, and the lists that are for people."""

from __future__ import annotations

import re
from typing import NamedTuple

UNIX = re.compile(
    r"(?P<kind>[-dl])[-rwxsStTlL]{9}[+.@]?\s+\d+\s+.*?\s(?P<size>\d+)\s+"
    r"(?:[A-Z][a-z]{2}\s+\d{1,2}\s+(?:\d{4}|\d{1,2}:\d{2})|\d{4}-\d{2}-\d{2}\s+\d{2}:\d{2})"
    r"\s(?P<name>.+)",
    re.DOTALL,
)
DOS = re.compile(
    r"\d\d-\d\d-\d{2,4}\s+\d\d:\d\d(?:[AP]M)?\s+(?:<(?P<kind>DIR)>|(?P<size>\d+))\s+(?P<name>.+)",
    re.DOTALL,
)
KINDS = {"d": "DIRECTORY", "DIR": "DIRECTORY", "l": "LINK"}


class Listed(NamedTuple):
    """One line of a listing."""

    name: str
    kind: str | None  # FILE, DIRECTORY, LINK, or None where the line does not tell
    size_bytes: int | None = None


def machine_listed(lines: list[str]) -> list[Listed]:
    """Return what the lines of MLSD say, without the directory itself and the one above."""
    found = []
    for line in lines:
        facts, _, name = line.partition(" ")
        said = {
            key.lower(): value for key, _, value in (f.partition("=") for f in facts.split(";"))
        }
        kind = said.get("type", "").lower()
        if kind not in {"cdir", "pdir"}:
            size = said.get("size", "")
            kinds = {"file": "FILE", "dir": "DIRECTORY"}
            size_bytes = int(size) if size.isdigit() else None
            found.append(Listed(name, kinds.get(kind, "LINK"), size_bytes))
    return found


def human_listed(lines: list[str]) -> list[Listed] | None:
    """Return what the lines of LIST say, as Unix and DOS write them, or None for another form."""
    found = []
    for line in lines:
        if re.fullmatch(r"total \d+", line):
            continue
        said = UNIX.fullmatch(line) or DOS.fullmatch(line)
        if not said:
            return None
        kind = KINDS.get(said["kind"] or "", "FILE")
        name = said["name"].partition(" -> ")[0] if kind == "LINK" else said["name"]
        found.append(Listed(name, kind, int(said["size"]) if kind == "FILE" else None))
    return found


def bare_listed(lines: list[str], directory: str) -> list[Listed]:
    """Return what the lines of NLST say, which may be whole paths."""
    prefix = directory.rstrip("/") + "/"
    names = (line[len(prefix) :] if line.startswith(prefix) else line for line in lines)
    return [Listed(name, None) for name in names]
