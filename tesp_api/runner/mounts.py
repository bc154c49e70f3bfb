"""Which of the container's paths are the task's own, and what is bound there."""

from __future__ import annotations

import os
import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.order import Input, Order, is_below
from tesp_api.runner.patterns import base
from tesp_api.runner.roots import resolved
from tesp_api.runner.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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
    readonly: bool = False
    bound: bool = False  # of the node itself, nothing of the task's own


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
    """Return what to bind, parents first; only inputs of the node itself lie below another path.

    One bind for each *home*: the parent of a declared file, as the task's own writable directory,
    so that a program finds inputs, outputs and its scratch files on one file system. Where an
    image keeps its own things, the file alone. Raises Trouble for an input that cannot be bound.
    """
    bound = [_bound(one) for one in order.inputs if one.bind]
    tops, alone = homes(order), {path for kind, path in declared(order) if kind == "FILE"}
    given = {mount.container for mount in bound if mount.kind == "directory"}
    tops = {path for path in tops if not covered(path, tops - {path}) and not covered(path, given)}
    alone -= {mount.container for mount in bound}
    alone = {path for path in alone if not covered(path, tops | given)}
    plan = [Mount(root + path, path, "directory") for path in tops]
    plan += [Mount(root + path, path, "file") for path in alone]
    return sorted([*plan, *bound], key=lambda mount: mount.container)


def declared(order: Order) -> Iterator[tuple[str, str]]:
    """Yield the paths that the task names: FILE, DIRECTORY, PATTERN, or BOUND, STDIN to be read."""
    for given in order.inputs:
        # A directory of the node brings all of itself; a file wants a home like any other.
        yield ("BOUND" if given.bind and given.kind == "DIRECTORY" else given.kind), given.path
    for made in order.outputs:
        yield ("PATTERN" if made.path_prefix else made.kind), made.path
    for one in order.executors:
        yield from (("FILE", path) for path in (one.stdout, one.stderr) if path)
        if one.stdin:
            yield "STDIN", one.stdin


def homes(order: Order) -> set[str]:
    """Return the directories that are the task's own, whatever the image has there."""
    found = {"/tmp", *order.volumes}
    for kind, path in declared(order):
        workdir = workdir_of(path, order)
        if workdir or (kind != "BOUND" and not is_shared_place(home_of(kind, path))):
            found.add(workdir or home_of(kind, path))
        elif kind == "DIRECTORY":
            found.add(path)
    return found


def home_of(kind: str, path: str) -> str:
    """Return the directory that must be there for what is declared at `path`."""
    if kind in {"DIRECTORY", "BOUND"}:
        return path
    return base(path) if kind == "PATTERN" else posixpath.dirname(path)


def must_exist(order: Order, plan: Sequence[Mount]) -> list[str]:
    """Return the directories that the program may rely on, whatever it makes in its workdir."""
    closed = {mount.container for mount in plan if mount.readonly}
    found = [
        home_of(kind, path)
        for kind, path in declared(order)
        if kind not in {"BOUND", "STDIN"} and not workdir_of(path, order)
    ]
    return [path for path in found if not covered(path, closed)]


def _bound(one: Input) -> Mount:
    """Return the mount of an input that is not copied; raises Trouble if there is nothing."""
    if one.place is None or one.place.scheme() != "file":
        raise Trouble(f"input {one.name} cannot be bound: it is not on the node")
    real = resolved(one.place)
    if not (os.path.isdir(real) if one.kind == "DIRECTORY" else os.path.isfile(real)):
        raise Trouble(f"input {one.name} cannot be bound: there is no such {one.kind.lower()}")
    return Mount(real, one.path, one.kind.lower(), readonly=one.bind != "rw", bound=True)


def impossible(order: Order, plan: Sequence[Mount]) -> str | None:
    """Return why the task's paths cannot all be as declared, or None."""
    wild = [path for kind, path in declared(order) if kind == "PATTERN"]
    for path in wild:
        if not any(is_below(base(path), mount.container) for mount in plan):
            return f"output {path} selects among what the image keeps in {base(path)}"
    inputs = [one.path for one in order.inputs]
    for mount in plan:
        if mount.bound:
            inner = [*(path for path in inputs if path != mount.container), *order.volumes]
            for path in inner:
                if is_below(path, mount.container):
                    return (
                        f"{path} lies in the input {mount.container}, which is not the task's own"
                    )
    return None


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
    """Return the value of --mount: one CSV record, in which `:` and `,` and quotes mean nothing.

    Raises Trouble if a link has come into the way to what is bound from the node.
    """
    if mount.bound and os.path.realpath(mount.host) != mount.host:
        raise Trouble(f"what shall be bound at {mount.container} has been moved")
    fields = ["type=bind", f"source={mount.host}", f"target={mount.container}"]
    return ",".join(csv_field(field) for field in fields + ["ro"] * mount.readonly)
