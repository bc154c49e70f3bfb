"""Files of the node, only below the roots that the operator opened."""

from __future__ import annotations

import os
import posixpath
import stat
from typing import TYPE_CHECKING

from tesp_api.runner.order import Input, Order, is_below
from tesp_api.runner.streams import copy
from tesp_api.runner.transfer import Parcel, public_url
from tesp_api.runner.tree import lstat
from tesp_api.runner.trouble import Trouble, disk_is_full

if TYPE_CHECKING:
    from typing import NoReturn

    from tesp_api.runner.transfers import Transfers


# Files of the node, only below the roots that the operator opened.
def file_path(url: str) -> str:
    """Return the path that a file URL or a bare path names."""
    if url.startswith("/"):
        return url
    from urllib.parse import unquote

    host, slash, path = url[len("file://") :].partition("/")
    if host not in {"", "localhost"} or not slash:
        raise Trouble(f"{url} names another host")
    return "/" + unquote(path, errors="surrogateescape")


def allowed(path: str, order: Order) -> str:
    """Return `path` with links resolved; raises Trouble if that is outside of every root."""
    real = os.path.realpath(path)
    if not any(is_below(real, root) for root in order.file_roots):
        raise Trouble(f"{path} is not below a directory that this node opens to tasks")
    return real


def opened_path(file: int) -> str:
    """Return where the open `file` lies: the truth after links, whoever changes them meanwhile."""
    return os.readlink(f"/proc/self/fd/{file}")


def fetch_file(transfers: Transfers, one: Input, url: str) -> None:
    """Copy a file or directory of the node."""
    path = allowed(file_path(url), transfers.order)
    if one.kind == "DIRECTORY":
        if not os.path.isdir(path):
            raise Trouble(f"input {public_url(url)} is not a directory")
        copy_directory(transfers, path, one.path)
    else:
        try:
            copy_file(transfers, path, one.path)
        except OSError as error:
            if disk_is_full(error):
                raise
            raise Trouble(f"input {public_url(url)} cannot be read: {error.strerror}") from error


def copy_file(transfers: Transfers, path: str, target: str) -> None:
    """Copy the regular file at `path` into the tree."""
    source = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        allowed(opened_path(source), transfers.order)
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise Trouble(f"{path} is not a regular file")
        sink = transfers.tree.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755)
        try:
            copy(source, sink)
        finally:
            os.close(sink)
    finally:
        os.close(source)


def copy_directory(transfers: Transfers, top: str, target: str) -> None:
    """Copy the directory `top` into the tree; a link stays a link and may not leave it."""
    for where, directories, names in os.walk(top, onerror=_fail):
        inside = target + where[len(top) :]
        transfers.tree.make_directory(inside)
        for name in (*directories, *names):
            path = os.path.join(where, name)
            if os.path.islink(path):
                real = os.path.realpath(path)
                if not is_below(real, top):
                    raise Trouble(f"{path} is a link that leads out of {top}")
                os.symlink(os.path.relpath(real, where), f"{transfers.tree.top}{inside}/{name}")
            elif name in names:
                copy_file(transfers, path, f"{inside}/{name}")


def _fail(error: OSError) -> NoReturn:
    raise error


def make_place(order: Order, path: str) -> int:
    """Open the directory `path` below one of the roots, made where it is missing."""
    directory = _make_path(allowed(path, order))
    allowed(opened_path(directory), order)
    return directory


def send_file(transfers: Transfers, parcel: Parcel) -> None:
    """Write a file of the node beside its place and rename it: nobody sees half of it."""
    path = allowed(file_path(parcel.url), transfers.order)
    beside, name = f".{transfers.order.job}.{os.getpid()}.part", posixpath.basename(path)
    mode = 0o777 if os.fstat(parcel.file).st_mode & 0o111 else 0o666
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        directory = make_place(transfers.order, posixpath.dirname(path))
        sink = os.open(beside, flags, mode, dir_fd=directory)
        try:
            copy(parcel.file, sink)
            os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            os.unlink(beside, dir_fd=directory)
            raise
        finally:
            os.close(sink)
            os.close(directory)
    except OSError as error:
        raise Trouble(f"output {parcel.url} cannot be written: {error.strerror}") from error


def _make_path(path: str) -> int:
    """Open the directory `path`, made where it is missing; no step of it may be a link."""
    here = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    for step in path.split("/"):
        if not step:
            continue
        try:
            os.mkdir(step, dir_fd=here)
        except FileExistsError:
            pass
        except OSError:
            if lstat(step, here) is None:
                raise
        below = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
        os.close(here)
        here = below
    return here
