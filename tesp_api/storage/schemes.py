"""URLs by scheme: what is refused when a task is created, and what the node is told.

What only the other side knows (no such bucket, no such file) is not asked here: it fails the task
later, with what the other side said.
"""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol
from urllib.parse import SplitResult, quote, unquote, urlsplit

from tesp_api.domain.errors import OutOfReach
from tesp_api.domain.rules import is_pattern
from tesp_api.domain.tes import FileType, Input, Output

Order = Mapping[str, Any]


class Scheme(Protocol):
    """One kind of URL. `names` are its schemes, `""` being the bare absolute path."""

    names: frozenset[str]

    def refusal(self, url: SplitResult, item: Input | Output) -> str | None:
        """Return why the URL cannot be served, as a sentence, or None."""

    def order(self, url: SplitResult) -> Order:
        """Return what the runner needs beside path and type."""

    def served(self) -> Sequence[str]:
        """Return what service-info says of it."""


class HttpScheme:
    """http and https: GET for inputs; PUT, or a form's POST where PUT is refused, for outputs."""

    names = frozenset({"http", "https"})

    def refusal(self, url: SplitResult, item: Input | Output) -> str | None:
        """Refuse what names no host, and directories, which HTTP does not have."""
        if not url.hostname:
            return "names no host"
        if item.type is FileType.DIRECTORY:
            return "is a directory, and directories are not served over http(s)"
        return None

    def order(self, url: SplitResult) -> Order:
        """Pass the URL on as it is."""
        return {"url": url.geturl()}

    def served(self) -> Sequence[str]:
        """Both spellings."""
        return ("http://", "https://")


class FileScheme:
    """Files of the node, `file:///path` or a bare path, below the roots the operator allows."""

    names = frozenset({"file", ""})

    def __init__(self, roots: Iterable[str]) -> None:
        self._roots = tuple(PurePosixPath(root) for root in roots)

    def refusal(self, url: SplitResult, _item: Input | Output) -> str | None:
        """Refuse other hosts and names that are not below a root; the node checks links."""
        if url.netloc not in ("", "localhost"):
            return "names a host, and files are only served from the node itself"
        if url.query or url.fragment:
            return "has a query or fragment; in a file's name ? is written %3F, and # %23"
        path = _path(url)
        if not path.is_absolute() or ".." in path.parts:
            return "is no absolute path without '..'"
        if not self._roots:
            return "is a file of the node, and this server allows none (setting storage.file.roots)"
        if not any(path.is_relative_to(root) for root in self._roots):
            return f"is not below {' or '.join(map(str, self._roots))}"
        return None

    def order(self, url: SplitResult) -> Order:
        """Spell a bare path as the URL it is."""
        return {"url": "file://" + quote(str(_path(url)))}

    def served(self) -> Sequence[str]:
        """The roots, as URLs."""
        return tuple(f"file://{root}" for root in self._roots)


class UrlStorage:
    """Storage: finds the scheme of a URL and lets it answer."""

    def __init__(self, *schemes: Scheme) -> None:
        self._by_name = {name: scheme for scheme in schemes for name in scheme.names}
        self._schemes = schemes

    def refusal(self, item: Input | Output) -> str | None:
        """Return a sentence on the URL of `item`, or None if it is served or literal."""
        if _is_literal(item):
            return None
        try:
            url = _split(item.url or "")
        except ValueError:
            return f"{item.url!r} is no URL"
        scheme = self._by_name.get(url.scheme)
        if scheme is None:
            return f"the scheme {url.scheme!r} is not served here; served are: {self._known()}"
        problem = scheme.refusal(url, item)
        return None if problem is None else f"the URL {problem}"

    def fetch_order(self, item: Input) -> Order:
        """Return the content itself where there is one: then the URL is ignored (TES 1.1)."""
        place = {"path": item.path, "type": item.type.value}
        if _is_literal(item):
            return {**place, "content": item.content}
        return {**place, **self._order(item)}

    def send_order(self, item: Output) -> Order:
        """Return where the node sends the output."""
        if is_pattern(item.path):
            raise OutOfReach(f"{item.path}: this server does not send outputs by wildcards yet.")
        return {"path": item.path, "type": item.type.value, **self._order(item)}

    def served(self) -> Sequence[str]:
        """Return all that is served, for service-info."""
        return [line for scheme in self._schemes for line in scheme.served()]

    def _known(self) -> str:
        """Name the schemes that lead somewhere as the server is configured."""
        names = {name for scheme in self._schemes if scheme.served() for name in scheme.names}
        return ", ".join(sorted(name or "a bare path" for name in names))

    def _order(self, item: Input | Output) -> Order:
        # Asked again: the settings may have changed since the task was created.
        if (why := self.refusal(item)) is not None:
            raise OutOfReach(f"{item.path}: {why}.")
        url = _split(item.url or "")
        return self._by_name[url.scheme].order(url)


def _is_literal(item: Input | Output) -> bool:
    """Whether an input is its content: one with an empty content and a URL is fetched."""
    return isinstance(item, Input) and bool(
        item.content or (item.content is not None and not item.url)
    )


def _split(text: str) -> SplitResult:
    """Split a URL; a bare path is taken whole, `?` and `#` in it are letters of a name."""
    if text.startswith("/"):
        return SplitResult("", "", text, "", "")
    url = urlsplit(text)
    _ = url.port  # raises ValueError where it is no number
    return url


def _path(url: SplitResult) -> PurePosixPath:
    text = unquote(url.path) if url.scheme else url.path
    return PurePosixPath(posixpath.normpath(text) if ".." not in text.split("/") else text)
