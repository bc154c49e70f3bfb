"""URLs taken apart: the parts themselves, and the place they name in one spelling of many.

Places are what grants are compared by, so whatever could name two of them has none.
"""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

OBJECT_SCHEMES: Final = frozenset({"s3", "gs"})
DOTS: Final = frozenset({".", ".."})
DEFAULT_PORTS: Final = (("http", 80), ("https", 443), ("ftp", 21))

_SEPARATOR: Final = re.compile(r"[/\\]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL leads: its scheme, its host or bucket, and the names of its path, decoded."""

    scheme: str
    authority: str
    names: tuple[str, ...] = ()

    def holds(self, other: "Place") -> bool:
        """Whether `other` is this place or below it; without an authority, of any."""
        return (
            self.scheme == other.scheme
            and self.authority in ("", other.authority)
            and self.names == other.names[: len(self.names)]
        )


def split(text: str) -> SplitResult:
    """Split a URL. Raises ValueError.

    A bare path and an object's key are taken as they stand: `?`, `#` and `%` in them are letters.
    """
    if text.startswith("/"):
        return SplitResult("", "", text, "", "")
    scheme, mark, rest = text.partition("://")
    if mark and scheme.lower() in OBJECT_SCHEMES:
        bucket, slash, key = rest.partition("/")
        return SplitResult(scheme.lower(), bucket, slash + key, "", "")
    url = urlsplit(text)
    _ = url.port  # raises ValueError where it is no number
    return url


def url_place(url: SplitResult) -> Place | None:
    """Return the place of a URL with a host; None where servers differ on what it names."""
    names = tuple(map(unquote, _names(url.path)))
    if any(_wanders(name) for name in names):
        return None
    host, port = url.hostname or "", url.port
    if port is not None and (url.scheme, port) not in DEFAULT_PORTS:
        host = f"{host}:{port}"
    return Place(url.scheme, host, names)


def host_place(prefix: str) -> Place:
    """Return the place of a prefix of http or ftp URLs."""
    place = url_place(split(prefix))
    assert place is not None, "the settings have no such prefix"
    return place


def object_place(url: SplitResult) -> Place | None:
    """Return the place of an object; None where a file system behind could make another of it."""
    names = _names(url.path)
    return None if DOTS.intersection(names) else Place(url.scheme, url.netloc, names)


def bucket_place(prefix: str) -> Place:
    """Return the place of a prefix of s3 or gs URLs; `s3://` is that of all buckets."""
    place = object_place(split(prefix))
    assert place is not None, "the settings have no such prefix"
    return place


def file_path(url: SplitResult) -> PurePosixPath:
    """Return the path that a `file` URL or a bare path means; `..` is left for the caller."""
    text = unquote(url.path) if url.scheme else url.path
    return PurePosixPath(posixpath.normpath(text) if ".." not in text.split("/") else text)


def path_place(path: PurePosixPath) -> Place:
    """Return the place of an absolute path of the node."""
    return Place("file", "", _names(str(path)))


def shown(url: SplitResult) -> str:
    """Return a URL for people: without user, password and query, which may be signed."""
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def _names(path: str) -> tuple[str, ...]:
    """Return the names of a path; a slash at its end makes none."""
    return () if path in ("", "/") else tuple(path[1:].removesuffix("/").split("/"))


def _wanders(name: str) -> bool:
    """Whether some server may read a way up in it: `..`, `..;x`, `%252e.`, `x%2F..`."""
    return not DOTS.isdisjoint(_read_at_last(name))


def _read_at_last(name: str) -> Iterable[str]:
    while (decoded := unquote(name)) != name:
        name = decoded
    return (part.partition(";")[0] for part in _SEPARATOR.split(name))
