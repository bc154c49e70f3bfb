"""Files of the node, `file:///path` or a bare path, below the roots the operator allows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import SplitResult, quote

from tesp_api.domain.errors import OutOfReach
from tesp_api.domain.tes import Input, Output
from tesp_api.storage.grants import EVERYBODY, Grant, Grants
from tesp_api.storage.places import Place, file_path, path_place
from tesp_api.storage.scheme import Order

Mode = Literal["copy", "bind", "bind_rw"]

BINDS: Final = MappingProxyType({"copy": None, "bind": "ro", "bind_rw": "rw"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A directory of the node, perhaps with `{owner}` in it, and how its files become inputs."""

    path: str
    owners: frozenset[str] = EVERYBODY
    mode: Mode = "copy"


class FileScheme:
    """What a URL of a file may name; the node itself looks after links."""

    names = frozenset({"file", ""})
    uploads = None

    def __init__(self, roots: Iterable[Root] = ()) -> None:
        granted = [(Grant(prefixes=(root.path,), owners=root.owners), root) for root in roots]
        self._grants = Grants(granted, lambda path: path_place(PurePosixPath(path)))

    def refusal(self, url: SplitResult, _item: Input | Output, owner: str | None) -> str | None:
        """Refuse other hosts, and names that are not below a root of this owner."""
        if url.netloc not in ("", "localhost"):
            return "names a host, and files are only served from the node itself"
        if url.query or url.fragment:
            return "has a query or fragment; in a file's name ? is written %3F, and # %23"
        path = file_path(url)
        if not path.is_absolute() or ".." in path.parts:
            return "is no absolute path without '..'"
        return None if self._grants.find(path_place(path), owner) else self._not_below(owner)

    async def fetch_order(self, url: SplitResult, _item: Input, owner: str | None) -> Order:
        """Return the URL, the root that links must not leave, and how the file gets in."""
        prefix, root = self._granted(url, owner)
        return {**_order(url, prefix), "bind": BINDS[root.mode]}

    async def send_order(self, url: SplitResult, _item: Output, owner: str | None) -> Order:
        """Return the URL and the root that links must not leave."""
        return _order(url, self._granted(url, owner)[0])

    def served(self) -> Sequence[str]:
        """Return everybody's roots, as URLs."""
        return [f"file://{root}" for root in self._grants.public()]

    def _not_below(self, owner: str | None) -> str:
        if own := [_path(prefix) for prefix, _ in self._grants.all_of(owner)]:
            return f"is not below {' or '.join(own)}"
        return "is a file of the node, and this server allows you none (setting storage.file.roots)"

    def _granted(self, url: SplitResult, owner: str | None) -> tuple[Place, Root]:
        found = self._grants.find(path_place(file_path(url)), owner)
        if found is None:
            raise OutOfReach(f"The URL {self._not_below(owner)}.")
        return found


def _order(url: SplitResult, root: Place) -> Order:
    """Spell a bare path as the URL it is."""
    shown = "file://" + quote(str(file_path(url)))
    return {"name": shown, "url": shown, "root": _path(root)}


def _path(place: Place) -> str:
    return "/" + "/".join(place.names)
