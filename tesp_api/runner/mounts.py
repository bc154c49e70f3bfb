"""Which of the container's paths are the task's own, and what is bound there."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.order import Order, is_below

if TYPE_CHECKING:
    from collections.abc import Iterable

# An image keeps its own things here: a file declared just there is bound alone, beside them.
SHARED_PLACES = frozenset(
    (
        *("/", "/var", "/var/lib", "/var/log", "/var/cache", "/var/run", "/var/spool", "/var/opt"),
        *("/home", "/root", "/run", "/mnt", "/media", "/srv"),
    )
)

SHARED_TREES = (
    "/etc",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/boot",
)


class Mount(NamedTuple):
    """What is to be seen at a path of the container."""

    host: str
    container: str
    kind: str  # "file" or "directory"


def is_shared_place(path: str) -> bool:
    """Tell whether an image keeps things of its own in the directory `path`."""
    return path in SHARED_PLACES or any(is_below(path, top) for top in SHARED_TREES)


def workdir_of(path: str, order: Order) -> str | None:
    """Return the topmost workdir above `path`: the program makes directories there itself."""
    tops = {
        one.workdir for one in order.executors if one.workdir and not is_shared_place(one.workdir)
    }
    return min((top for top in tops if path != top and is_below(path, top)), key=len, default=None)


def mounts(order: Order, root: str) -> list[Mount]:
    """Return what to bind, parents first, no path below another.

    One bind for each *home*: the parent of a declared file, as the task's own writable directory,
    so that a program finds inputs, outputs and its scratch files on one file system. Where an
    image keeps its own things, the file alone.
    """
    directories, files = {"/tmp", *order.volumes}, set()
    streams = [path for one in order.executors for path in (one.stdout, one.stderr) if path]
    stdins = [one.stdin for one in order.executors if one.stdin]
    for kind, path in (
        *((one.kind, one.path) for one in order.inputs),
        *((one.kind, one.path) for one in order.outputs),
        *(("FILE", path) for path in streams),
        *(("STDIN", path) for path in stdins),
    ):
        home = workdir_of(path, order) or (path if kind == "DIRECTORY" else posixpath.dirname(path))
        if kind == "DIRECTORY" or not is_shared_place(home):
            directories.add(home)
        elif kind == "FILE":
            files.add(path)
    tops = [path for path in directories if not covered(path, directories - {path})]
    alone = [path for path in files if not covered(path, directories)]
    plan = [Mount(root + path, path, "directory") for path in tops]
    plan += [Mount(root + path, path, "file") for path in alone]
    return sorted(plan, key=lambda mount: mount.container)


def covered(path: str, directories: Iterable[str]) -> bool:
    """Tell whether `path` is one of the directories or lies below one."""
    return any(is_below(path, directory) for directory in directories)


def inexpressible(kind: str, path: str) -> str | None:
    """Return why the engine `kind` cannot bind `path`, or None if it can."""
    if kind != "host" and "\r\n" in path:
        # The engines read --mount by Go's encoding/csv, which drops a return before a line feed.
        return f"{kind} cannot bind a path with a carriage return before a line feed: {path!r}"
    return None


def csv_field(text: str) -> str:
    """Return `text` as one field of a CSV record."""
    return '"' + text.replace('"', '""') + '"' if re.search(r'[,"\r\n]|^\s', text) else text


def mount_option(mount: Mount) -> str:
    """Return the value of --mount: one CSV record, in which `:` and `,` and quotes mean nothing."""
    fields = ("type=bind", f"source={mount.host}", f"target={mount.container}")
    return ",".join(csv_field(field) for field in fields)
