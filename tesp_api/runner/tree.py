"""The task's files, below one directory that mirrors the container's paths."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import time
from typing import TYPE_CHECKING

from tesp_api.runner.mounts import Mount, workdir_of
from tesp_api.runner.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tesp_api.runner.order import Order


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

    def _real(self, path: str) -> list[str]:
        """Return the steps to `path` with all links resolved inside the tree."""
        done: list[str] = []
        todo, links = path.split("/")[::-1], 0
        while todo:
            step = todo.pop()
            if step == "..":
                done = done[:-1]
            elif step not in {"", "."}:
                target = link_target("/".join([self.top, *done, step]))
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
        here = os.open(self.top, os.O_PATH | os.O_DIRECTORY)
        for step in steps:
            try:
                if make:
                    _make_directory(step, here)
                below = os.open(step, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            finally:
                os.close(here)
            here = below
        return here

    def kind(self, path: str) -> str | None:
        """Return "FILE", "DIRECTORY", "other", or None for nothing, or an output never written."""
        try:
            found = os.lstat("/".join([self.top, *self._real(path)]))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(found.st_mode):
            return "DIRECTORY"
        if not stat.S_ISREG(found.st_mode):
            return "other"
        return None if found.st_size == 0 and found.st_mtime_ns == self.UNTOUCHED_NS else "FILE"

    def make_directory(self, path: str, mode: int = 0o777) -> None:
        """Make the directory `path` and those above it; only a new one gets `mode`."""
        new = self.kind(path) is None
        os.close(self._descend(self._real(path), make=True))
        if new:
            os.chmod("/".join([self.top, *self._real(path)]), mode)

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        """Open the regular file at `path`; raises OSError, also for a FIFO or a device."""
        steps = self._real(path)
        make = bool(flags & os.O_CREAT)
        here = self._descend(steps[:-1], make=make)
        try:
            found = lstat(steps[-1], here)
            if found and not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            file = os.open(steps[-1], flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode, dir_fd=here)
        finally:
            os.close(here)
        if make:
            os.fchmod(file, mode)
        os.set_blocking(file, True)
        return file

    def expect(self, path: str) -> None:
        """Put an empty file at `path` for an engine to bind, unless there is one."""
        if self.kind(path) is None:
            os.close(self.open(path, os.O_WRONLY | os.O_CREAT))
            os.utime(
                self.top + path, ns=(self.UNTOUCHED_NS, self.UNTOUCHED_NS), follow_symlinks=False
            )

    def files(self, path: str) -> Iterator[tuple[str, str | None]]:
        """Yield all below the directory `path` but directories: its path below it, and its kind."""
        top = "/".join([self.top, *self._real(path)])
        for entry in walk(top):
            if len(entry.path) >= DEEPEST and entry.is_dir(follow_symlinks=False):
                raise Trouble(f"{path} holds directories nested too deeply to be sent")
            if not entry.is_dir(follow_symlinks=False):
                name = os.path.relpath(entry.path, top)
                yield name, self.kind(f"{path}/{name}")


DEEPEST = 3800  # characters of a path: a program can nest deeper than a path can be long


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


def _make_directory(name: str, directory: int, mode: int = 0o777) -> None:
    try:
        os.mkdir(name, dir_fd=directory)
    except FileExistsError:
        return
    os.chmod(name, mode, dir_fd=directory)


def plant(order: Order, tree: Tree, plan: Sequence[Mount]) -> None:
    """Make the directories and empty files that the task may rely on before its first executor."""
    for mount in plan:
        if mount.kind == "directory":
            tree.make_directory(
                mount.container, 0o1777 if mount.container in {"/tmp", "/var/tmp"} else 0o777
            )
    written = [(one.kind, one.path) for one in order.outputs]
    written += [
        ("FILE", path) for one in order.executors for path in (one.stdout, one.stderr) if path
    ]
    for kind, path in written:
        if not workdir_of(path, order):
            tree.make_directory(path if kind == "DIRECTORY" else posixpath.dirname(path))
    alone = {mount.container for mount in plan if mount.kind == "file"}
    for path in alone - {one.path for one in order.inputs}:
        tree.expect(path)


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
