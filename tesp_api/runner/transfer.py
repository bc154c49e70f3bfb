"""The seam of transfers: what one attempt of any kind of URL gets, does, and may raise."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.streams import CHUNK, write_all
from tesp_api.runner.trouble import NodeTrouble, Trouble, disk_is_full

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


class Place(NamedTuple):
    """Where one URL leads, and with what."""

    url: str
    name: str  # the URL as people may see it: without credentials, without a signature
    headers: dict[str, str]
    username: str | None = None
    password: str | None = None
    root: str | None = None  # of a file: the real directory of the node below which it must stay
    signed: bool = False  # the URL carries a signature, which ends

    def below(self, name: str) -> Place:
        """Return the place of `name`, relative and perhaps with slashes, below this directory."""
        return self._replace(url=below_url(self.url, name), name=below_url(self.name, name))

    def scheme(self) -> str:
        """Return the scheme of the URL, in lower case; a bare path is a file."""
        return scheme(self.url)


class Terms(NamedTuple):
    """What every attempt keeps to."""

    timeout_s: float  # of each step over the network
    ca: str | None = None  # PEM: authorities trusted beside the system's
    job: str = "job"  # for names of temporary files


class Entry(NamedTuple):
    """What stands in one directory of the other side."""

    name: str  # one step of a path, decoded: no slash, neither "." nor ".."
    kind: str  # "FILE", "DIRECTORY", or "LINK"
    place: Place
    size_bytes: int | None = None
    target: str = ""  # of a LINK, which stays within the directory that was asked for


class Sent(NamedTuple):
    """A file that went out."""

    url: str
    path: str
    size_bytes: int


class Transient(Exception):
    """An attempt failed in a way that may pass; the other side may have said when."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Refused(Exception):
    """An attempt was answered, and the answer is no; `status` is 0 where there is none."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Expired(Refused):
    """A signature's time was over before the answer."""


class Stopped(Exception):
    """Another transfer failed: this one is not wanted any more."""


class Check:
    """A sum over what comes in, which the other side has announced."""

    def update(self, data: bytes) -> None:
        """Take the next piece."""
        raise NotImplementedError

    def verdict(self) -> str | None:
        """Return what is wrong, at the end, or None."""
        raise NotImplementedError


class Arrival:
    """A file on its way in, over all its attempts: what has come, and of which version it is."""

    def __init__(self, file: int, wanted: Callable[[], bool] = lambda: True) -> None:
        self.file = file
        self.received = 0
        self.version = ""  # by which the way knows, in the next attempt, that nothing has changed
        self.size: int | None = None  # of the whole, where the other side has said it
        self.checks: Sequence[Check] = ()  # have seen what has been received
        self.moved = 0  # bytes in all attempts
        self._wanted = wanted

    def restart(self, version: str = "", checks: Sequence[Check] = ()) -> None:
        """Begin with nothing."""
        os.ftruncate(self.file, 0)
        self.received, self.version, self.size, self.checks = 0, version, None, checks

    def expect(self, size_bytes: int) -> None:
        """Keep the size of the whole; raises Trouble if the node has no room for it."""
        self.size = size_bytes
        room = os.fstatvfs(self.file)
        if size_bytes - self.received > room.f_bavail * room.f_frsize:
            raise NodeTrouble(f"the disk of the node is full: {size_bytes} bytes were to come")

    def write(self, data: bytes) -> None:
        """Take the next piece; what the node's disk has against it is Trouble."""
        if not self._wanted():
            raise Stopped
        try:
            os.lseek(self.file, self.received, os.SEEK_SET)
            write_all(self.file, data)
        except OSError as error:
            raise disk_trouble(error) from error
        self.received += len(data)
        self.moved += len(data)


class Departure:
    """A file, or a part of one, on its way out; can be sent again, and by several threads."""

    def __init__(
        self,
        file: int,
        name: str,
        size: int,
        offset: int = 0,
        wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self.file = file
        self.name = name  # the last step of its path in the task
        self.size = size
        self.offset = offset
        self.moved = 0  # bytes in all attempts
        self._wanted = wanted

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """Yield it in pieces, from byte `start` of it on; Trouble if it has become shorter."""
        done = start
        while done < self.size:
            if not self._wanted():
                raise Stopped
            data = os.pread(self.file, min(CHUNK, self.size - done), self.offset + done)
            if not data:
                raise Trouble(f"{self.name} became shorter while it was sent")
            yield data
            done += len(data)
            self.moved += len(data)

    def mode(self) -> int:
        """Return the permissions of the file."""
        return os.fstat(self.file).st_mode & 0o777


class Way:
    """One kind of URL; each call is one attempt, by one thread, which keeps its Way.

    Raises Transient (ask again), Refused (an answer), Trouble (nothing helps), Stopped.
    """

    def __init__(self, terms: Terms) -> None:
        self.terms = terms

    def get(self, place: Place, arrival: Arrival) -> None:
        """Get the file: all of it, or what is missing of the same version."""
        raise NotImplementedError

    def put(self, place: Place, departure: Departure) -> str | None:
        """Send the file, directories above it included; return its ETag where there is one."""
        raise NotImplementedError

    def entries(self, place: Place) -> Iterable[Entry]:
        """Return what stands in this directory itself, in no order, nothing of what is deeper."""
        raise NotImplementedError

    def make_directory(self, place: Place) -> bool:
        """Make the directory, and those above it; False where the other side has none."""
        raise NotImplementedError

    def close(self) -> None:
        """End what is kept open between two calls."""


def disk_trouble(error: OSError) -> Trouble:
    """Return what a failure of the node's own disk is called."""
    if disk_is_full(error):
        return NodeTrouble("the disk of the node is full")
    return NodeTrouble(f"the node failed: {error.strerror or error}")


def scheme(url: str) -> str:
    """Return the scheme of `url`; a bare path is a file."""
    return "file" if url.startswith("/") else url.partition("://")[0].lower()


def public_url(url: str) -> str:
    """Return `url` without what may be a credential in it: user, password, query."""
    head, mark, rest = url.partition("://")
    if not mark or scheme(url) == "file":
        return url
    authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{head}://{authority.rpartition('@')[2]}{slash}{path}"


def below_url(url: str, name: str) -> str:
    """Return the URL of `name` below the directory `url`, joined by exactly one slash.

    A query of an HTTP URL stays where it is: it may be what gives access.
    """
    if url.startswith("/"):
        return url.rstrip("/") + "/" + name.lstrip("/")
    from urllib.parse import quote

    mark = re.search(r"[?#]", url) if scheme(url) in {"http", "https"} else None
    path, query = (url[: mark.start()], url[mark.start() :]) if mark else (url, "")
    return path.rstrip("/") + "/" + quote(os.fsencode(name.lstrip("/"))) + query
