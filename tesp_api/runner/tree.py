"""The task's files, below one directory that mirrors the container's paths."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.mounts import Mount, impossible, must_exist
from tesp_api.runner.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tesp_api.runner.order import Order


class Bound(NamedTuple):
    """What the task sees of the node itself at a path of its own."""

    host: str
    writable: bool


class Tree:
    """The task's files; a link is followed as in the container, so never out of the tree.

    A task may leave links, FIFOs and devices here. Nothing is opened but regular files and
    directories, and each step of a path is opened for itself without following a link.
    """

    LINKS = 40
    UNTOUCHED_NS = (
        10**18
    )  # the modification time of an output file that the task has not yet written

    def __init__(self, top: str) -> None:
        self.top = top
        self.bound: dict[str, Bound] = {}  # by the path in the container

    def _place(self, steps: Sequence[str]) -> tuple[str, Sequence[str], bool]:
        """Return where on the node to go from, the steps from there, and if all may be written."""
        for length in range(len(steps) if self.bound else 0, 0, -1):
            bound = self.bound.get("/" + "/".join(steps[:length]))
            if bound:
                return bound.host, steps[length:], bound.writable
        return self.top, steps, True

    def _is_own(self, steps: Sequence[str]) -> bool:
        """Tell whether a file is the task's own, so that all users of containers may write it."""
        return self._place(steps)[0] == self.top

    def _path(self, steps: Sequence[str]) -> str:
        top, rest, _ = self._place(steps)
        return "/".join([top, *rest])

    def _real(self, path: str) -> list[str]:
        """Return the steps to `path` with all links resolved inside the tree."""
        done: list[str] = []
        todo, links = path.split("/")[::-1], 0
        while todo:
            step = todo.pop()
            if step == "..":
                done = done[:-1]
            elif step not in {"", "."}:
                target = link_target(self._path([*done, step]))
                if target is None:
                    done.append(step)
                    continue
                links += 1
                if links > self.LINKS:
                    raise OSError(errno.ELOOP, "too many symbolic links", path)
                done = [] if target.startswith("/") else done
                todo += target.split("/")[::-1]
        return done

    def _descend(self, steps: Sequence[str], *, make: bool = False) -> int:
        top, rest, writable = self._place(steps)
        here = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        for step in rest:
            try:
                if make and writable:
                    _make_directory(step, here, 0o777 if top == self.top else None)
                below = os.open(step, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            finally:
                os.close(here)
            here = below
        return here

    def kind(self, path: str) -> str | None:
        """Return "FILE", "DIRECTORY", "other", or None for nothing, or an output never written."""
        try:
            found = os.lstat(self._path(self._real(path)))
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                return None
            if error.errno in {errno.ELOOP, errno.ENAMETOOLONG}:
                return "other"
            raise
        if stat.S_ISDIR(found.st_mode):
            return "DIRECTORY"
        if not stat.S_ISREG(found.st_mode):
            return "other"
        return None if found.st_size == 0 and found.st_mtime_ns == self.UNTOUCHED_NS else "FILE"

    def is_link(self, path: str) -> bool:
        """Tell whether `path` itself is a link, wherever it leads."""
        above, _, name = path.rpartition("/")
        return link_target(self._path([*self._real(above), name])) is not None

    def names(self, path: str) -> list[str]:
        """Return the names in the directory `path`; none if it is no directory."""
        return os.listdir(self._path(self._real(path))) if self.kind(path) == "DIRECTORY" else []

    def make_directory(self, path: str, mode: int = 0o777) -> None:
        """Make the directory `path` and those above it; only a new one gets `mode`."""
        new, steps = self.kind(path) is None, self._real(path)
        os.close(self._descend(steps, make=True))
        if new and self._is_own(steps):
            os.chmod(self._path(steps), mode)

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        """Open the regular file at `path`; raises OSError, also for a FIFO or a device."""
        steps = self._real(path)
        make = bool(flags & os.O_CREAT)
        if flags & (os.O_WRONLY | os.O_RDWR) and not self._place(steps)[2]:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        here, name = self._parent(steps, make=make)
        try:
            found = lstat(name, here)
            if found and not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            file = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode, dir_fd=here)
        finally:
            os.close(here)
        if make and self._is_own(steps):
            os.fchmod(file, mode)
        os.set_blocking(file, True)
        return file

    def adopt(self, source: str, path: str) -> None:
        """Move the finished file `source` of the node to `path`."""
        steps = self._real(path)
        if not self._is_own(steps):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        here, name = self._parent(steps, make=True)
        try:
            os.rename(source, name, dst_dir_fd=here)
        finally:
            os.close(here)

    def link(self, path: str, target: str) -> None:
        """Make the symbolic link `path` in a directory that is there."""
        above, _, name = path.rpartition("/")
        here = self._descend(self._real(above))
        try:
            os.symlink(target, name, dir_fd=here)
        finally:
            os.close(here)

    def _parent(self, steps: Sequence[str], *, make: bool) -> tuple[int, str]:
        """Open the directory above; what is bound has another one, and perhaps another name."""
        top, rest, _ = self._place(steps)
        if rest:
            return self._descend(steps[:-1], make=make), rest[-1]
        above, name = posixpath.split(top)
        return os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW), name

    def expect(self, path: str) -> None:
        """Put an empty file at `path` for an engine to bind, unless there is one."""
        if self.kind(path) is None:
            os.close(self.open(path, os.O_WRONLY | os.O_CREAT))
            os.utime(
                self.top + path, ns=(self.UNTOUCHED_NS, self.UNTOUCHED_NS), follow_symlinks=False
            )

    def files(self, path: str) -> Iterator[tuple[str, str | None]]:
        """Yield what is to be sent of the directory `path`, by its name below it, and its kind.

        FILE; DIRECTORY, one without anything in it; "other" and None for what cannot be sent: no
        file, a link that leads to nothing in the tree or back to a directory that it lies in.
        Links to directories are followed.
        """
        todo: list[tuple[str, tuple[str, ...]]] = [("", ())]
        visits = 0
        while todo:
            name, above = todo.pop()
            real = self._path(self._real(f"{path}/{name}"))
            if real in above:
                yield name, "other"
                continue
            visits += 1
            if len(f"{self.top}{path}/{name}") >= DEEPEST or visits > MOST_DIRECTORIES:
                raise Trouble(f"{path} holds directories nested too deeply or too often to be sent")
            names = sorted(os.listdir(real))
            if name and not names:
                yield name, "DIRECTORY"
            for entry in names:
                inner = f"{name}/{entry}" if name else entry
                kind = self.kind(f"{path}/{inner}")
                if kind == "DIRECTORY":
                    todo.append((inner, (*above, real)))
                else:
                    yield inner, kind


DEEPEST = 3800  # characters of a path: a program can nest deeper than a path can be long
MOST_DIRECTORIES = 1_000_000  # links can make billions of a few


def walk(top: str) -> Iterator[os.DirEntry[str]]:
    """Yield all that lies below the directory `top`; not recursive, for a task can nest deeply."""
    todo = [top]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                yield entry
                if entry.is_dir(follow_symlinks=False) and len(entry.path) < DEEPEST:
                    todo.append(entry.path)


def link_target(path: str) -> str | None:
    """Return what the link `path` says, or None for what is no link."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def lstat(name: str, directory: int) -> os.stat_result | None:
    """Return what `name` in the open `directory` is itself, or None for nothing."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _make_directory(name: str, directory: int, mode: int | None) -> None:
    """Make a directory with this mode, or None for the usual one, unless there is one."""
    try:
        os.mkdir(name, dir_fd=directory)
    except FileExistsError:
        return
    if mode is not None:
        os.chmod(name, mode, dir_fd=directory)


def plant(order: Order, tree: Tree, plan: Sequence[Mount]) -> None:
    """Make the directories and empty files that the task may rely on before its first executor.

    Raises Trouble for what cannot be bound. What is bound from the node gets a point to mount on.
    """
    refused = impossible(order, plan)
    if refused:
        raise Trouble(refused)
    copied = {one.path for one in order.inputs if not one.bind}
    for mount in plan:
        if mount.kind == "directory":
            shared = mount.container in {"/tmp", "/var/tmp"}
            tree.make_directory(mount.container, 0o1777 if shared else 0o777)
        elif mount.container not in copied:
            tree.expect(mount.container)
    tree.bound = {
        mount.container: Bound(mount.host, not mount.readonly) for mount in plan if mount.bound
    }
    for path in must_exist(order, plan):
        if tree.kind(path) is None:
            tree.make_directory(path)


def uproot(top: str) -> None:
    """Remove the directory `top` and all below it, deeper than any stack or path may be.

    Directories found in a directory are moved up to `top` first, so that the depth never grows.
    """
    if not os.path.isdir(top):
        return
    os.chmod(top, 0o700)
    shelf = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        moved = 0
        while True:
            names = os.listdir(shelf)
            if not names:
                break
            for name in names:
                moved = _discard(shelf, name, moved)
    finally:
        os.close(shelf)
    os.rmdir(top)


def _discard(shelf: int, name: str, moved: int) -> int:
    """Remove `name` from the directory `shelf`; directories below it come to stand on the shelf."""
    if not _is_directory(shelf, name):
        os.unlink(name, dir_fd=shelf)
        return moved
    # Owner's rights first: a task may have taken them away, and a directory can only be moved by
    # who may write it.
    os.chmod(name, 0o700, dir_fd=shelf)
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=shelf)
    try:
        for entry in os.listdir(inner):
            if _is_directory(inner, entry):
                moved += 1
                os.chmod(entry, 0o700, dir_fd=inner)
                os.rename(
                    entry,
                    f".moved-{moved}-{time.monotonic_ns()}",
                    src_dir_fd=inner,
                    dst_dir_fd=shelf,
                )
            else:
                os.unlink(entry, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=shelf)
    return moved


def _is_directory(directory: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
