"""The inputs, into the tree before anything runs."""

from __future__ import annotations

import itertools
import os
import posixpath
from typing import TYPE_CHECKING

from tesp_api.runner.transfers import Transfers, check_scheme
from tesp_api.runner.trouble import DataTrouble, NodeTrouble, Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tesp_api.runner.crew import Errand, Hand
    from tesp_api.runner.order import Input, Order
    from tesp_api.runner.transfer import Entry, Place
    from tesp_api.runner.tree import Tree

DEEPEST = 100  # directories in each other; a link of the other side to itself has no end

MOST = 1_000_000  # entries of all directories

GB = 10**9


class Inputs:
    """Brings all inputs; a file is written beside the tree and moved into it when whole."""

    def __init__(self, order: Order, tree: Tree, log: list[str]) -> None:
        self.order = order
        self.tree = tree
        self.transfers = Transfers(order, tree, log)
        self._beside = f"{os.path.dirname(tree.top)}/arriving"
        self._numbers = itertools.count()
        self._entries = 0

    def check(self) -> None:
        """Raise Trouble for what cannot be done at all."""
        for one in self.order.inputs:
            for place in (one.place, *(file.place for file in (one.files or ())[:1])):
                if place:
                    check_scheme(place)

    def check_room(self) -> None:
        """Raise Trouble if the node has not the disk that the task asks for."""
        wanted = self.order.disk_gb
        room = os.statvfs(self.tree.top)
        free = room.f_bavail * room.f_frsize / GB
        if wanted and wanted > free:
            raise NodeTrouble(
                f"the task asks for {wanted:g} GB of disk, the node has {free:.1f} free"
            )

    def fetch(self) -> None:
        """Bring all inputs; raises Trouble for the first that cannot be had."""
        self.check_room()
        elsewhere = []
        for one in self.order.inputs:
            if one.bind:
                continue
            if one.place is None and one.files is None:
                self._write(one)
            else:
                elsewhere.append(one)
        if elsewhere:
            os.makedirs(self._beside)
            self.transfers.work(errand for one in elsewhere for errand in self._errands(one))
            os.rmdir(self._beside)

    def _write(self, one: Input) -> None:
        file = self.tree.open(one.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755)
        with open(file, "wb") as sink:
            sink.write((one.content or "").encode("utf-8", "surrogateescape"))

    def _errands(self, one: Input) -> Iterator[Errand]:
        if one.kind == "DIRECTORY":
            self.tree.make_directory(one.path)
        for name in one.directories:
            self._make_directory(f"{one.path}/{name}", one.name)
        for file in one.files or ():
            yield self._file(file.place, f"{one.path}/{file.name}")
        if one.place:
            yield (
                self._directory(one.place, one.path, 0, one.path)
                if one.kind == "DIRECTORY"
                else self._file(one.place, one.path)
            )

    def _file(self, place: Place, path: str) -> Errand:
        def errand(hand: Hand) -> None:
            beside = f"{self._beside}/{next(self._numbers)}"
            self.transfers.get_file(hand, f"input {place.name}", place, beside)
            try:
                self.tree.adopt(beside, path)
            except OSError as error:
                raise _no_place(place.name, path, error) from error

        return errand

    def _directory(self, place: Place, path: str, depth: int, top: str) -> Errand:
        def errand(hand: Hand) -> Iterator[Errand]:
            what, way = f"input {place.name}", hand.way(place.url)
            found = self.transfers.patiently(what, place, lambda: list(way.entries(place)))
            self._entries += len(found)
            if depth > DEEPEST or self._entries > MOST:
                raise DataTrouble(
                    f"{what} has no end: too many directories in each other, or entries"
                )
            return self._inside(found, path, depth, top)

        return errand

    def _inside(self, found: list[Entry], path: str, depth: int, top: str) -> Iterator[Errand]:
        for entry in found:
            inner = f"{path}/{_step(entry)}"
            if entry.kind == "DIRECTORY":
                self._make_directory(inner, entry.place.name)
                yield self._directory(entry.place, inner, depth + 1, top)
            elif entry.kind == "LINK":
                self._link(entry, inner, top)
            else:
                yield self._file(entry.place, inner)

    def _make_directory(self, path: str, name: str) -> None:
        try:
            self.tree.make_directory(path)
        except OSError as error:
            raise _no_place(name, path, error) from error

    def _link(self, entry: Entry, path: str, top: str) -> None:
        """Make a link that stays within the directory that was asked for."""
        leads = posixpath.normpath(posixpath.join(posixpath.dirname(path), entry.target))
        if entry.target.startswith("/") or not f"{leads}/".startswith(f"{top}/"):
            raise DataTrouble(f"input {entry.place.name} is a link that leads out of its directory")
        try:
            self.tree.link(path, entry.target)
        except OSError as error:
            raise _no_place(entry.place.name, path, error) from error


def _step(entry: Entry) -> str:
    """Return the name of an entry; raises Trouble if it could lead elsewhere."""
    if entry.name in {"", ".", ".."} or "/" in entry.name or "\0" in entry.name:
        raise DataTrouble(f"input {entry.place.name}: {entry.name!r} is no name of a file")
    return entry.name


def _no_place(name: str, path: str, error: OSError) -> Trouble:
    return Trouble(f"input {name} cannot be put at {path}: {error.strerror}")
