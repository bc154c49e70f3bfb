"""Files of the node as one more kind of URL, only below the root that is opened for them."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from tesp_api.runner.roots import check_below, opened_path, resolved
from tesp_api.runner.streams import CHUNK, write_all
from tesp_api.runner.transfer import Arrival, Departure, Entry, Place, Refused, Transient, Way

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tesp_api.runner.transfer import Terms

# What a file system that is somewhere else says when it is not there for a moment.
PASSING = frozenset({errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR})


class Files(Way):
    """Copies from and to the node itself; a link may lead anywhere below the root."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._beside = f".{terms.job}.{os.urandom(4).hex()}.part"

    def get(self, place: Place, arrival: Arrival) -> None:
        """Copy the regular file into the tree."""
        try:
            source = os.open(resolved(place), os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise _failure("cannot be read", error) from error
        try:
            check_below(opened_path(source), place)
            found = os.fstat(source)
            if not stat.S_ISREG(found.st_mode):
                raise Refused(0, "is not a regular file")
            arrival.restart()
            arrival.expect(found.st_size)
            for data in _read(source):
                arrival.write(data)
        finally:
            os.close(source)
        if arrival.received < found.st_size:
            raise Transient(f"{arrival.received} of {found.st_size} bytes read")

    def put(self, place: Place, departure: Departure) -> str | None:
        """Write beside the file's place and rename: nobody sees half of it."""
        path = resolved(place)
        try:
            directory = _made(posixpath.dirname(path), place)
            try:
                self._write(directory, posixpath.basename(path), departure)
            finally:
                os.close(directory)
        except OSError as error:
            raise _failure("cannot be written", error) from error
        return None

    def _write(self, directory: int, name: str, departure: Departure) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        mode = 0o777 if departure.mode() & 0o111 else 0o666
        sink = os.open(self._beside, flags, mode, dir_fd=directory)
        try:
            try:
                for data in departure.chunks():
                    write_all(sink, data)
            finally:
                os.close(sink)  # before the rename: a file system far away tells here what failed
            os.rename(self._beside, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(self._beside, dir_fd=directory)
            raise

    def entries(self, place: Place) -> list[Entry]:
        """Return what is in the directory; a link says where it leads from there."""
        try:
            directory = os.open(resolved(place), os.O_RDONLY | os.O_DIRECTORY)
        except NotADirectoryError as error:
            raise Refused(0, "is not a directory") from error
        except OSError as error:
            raise _failure("cannot be read", error) from error
        try:
            where = opened_path(directory)
            check_below(where, place)
            with os.scandir(directory) as found:
                return [_entry(one, place.below(one.name), where) for one in found]
        finally:
            os.close(directory)

    def make_directory(self, place: Place) -> bool:
        """Make the directory, and those above it, below the root."""
        try:
            os.close(_made(resolved(place), place))
        except OSError as error:
            raise _failure("cannot be made", error) from error
        return True


def _read(source: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(source, CHUNK)
        except OSError as error:
            raise _failure("cannot be read", error) from error
        if not data:
            return
        yield data


def _entry(one: os.DirEntry[str], place: Place, where: str) -> Entry:
    if one.is_symlink():
        real = os.path.realpath(f"{where}/{one.name}")
        return Entry(one.name, "LINK", place, target=os.path.relpath(real, where))
    if one.is_dir(follow_symlinks=False):
        return Entry(one.name, "DIRECTORY", place)
    return Entry(one.name, "FILE", place, one.stat(follow_symlinks=False).st_size)


def _failure(what: str, error: OSError) -> Exception:
    said = f"{what}: {error.strerror}"
    return Transient(said) if error.errno in PASSING else Refused(0, said)


STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW


def _made(path: str, place: Place) -> int:
    """Open the directory `path`, made where it is missing; no step of it may be a link."""
    here = os.open("/", STEP)
    for step in filter(None, path.split("/")):
        try:
            below = _step(step, here)
        finally:
            os.close(here)
        here = below
    check_below(opened_path(here), place)
    return here


def _step(name: str, directory: int) -> int:
    """Open the directory `name` in another one, made if it is missing."""
    try:
        return os.open(name, STEP, dir_fd=directory)
    except FileNotFoundError:
        with suppress(FileExistsError):  # somebody else may make it between the calls
            os.mkdir(name, dir_fd=directory)
        return os.open(name, STEP, dir_fd=directory)
