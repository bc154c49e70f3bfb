"""The outputs, out of the tree after the last executor; some are left for a job of their own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.patience import Outdated
from tesp_api.runner.patterns import below, matches
from tesp_api.runner.transfer import Sent
from tesp_api.runner.transfers import Transfers, check_scheme
from tesp_api.runner.trouble import Trouble, operators_turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tesp_api.runner.crew import Errand, Hand
    from tesp_api.runner.order import Order, Output
    from tesp_api.runner.tree import Tree

WORDS = {None: "was not written", "FILE": "is a file", "DIRECTORY": "is a directory"}


class Left(NamedTuple):
    """A file that stays on the node until the server knows where to send it."""

    output: int
    path: str
    below: str
    size_bytes: int


class Found(NamedTuple):
    """Something of the output `number` that is there."""

    number: int
    output: Output
    path: str
    below: str  # the URL of the output; empty where that is its own


class Outputs:
    """Sends what is there of the outputs; what failed of one does not keep the others back."""

    def __init__(self, order: Order, tree: Tree, log: list[str]) -> None:
        self.order = order
        self.tree = tree
        self.log = log
        self.left: list[Left] = []
        self.missing: list[str] = []  # sentences on what was declared and is not there
        self.troubles: dict[int, tuple[str, str]] = {}  # sentence and turn, by the output
        self._sent: list[tuple[int, Sent]] = []
        self._empty: dict[int, int] = {}
        self._transfers = Transfers(order, tree, log)

    @property
    def sent(self) -> list[Sent]:
        """What was sent, in the order of the outputs and by name."""
        return [sent for _, sent in sorted(self._sent)]

    def check(self) -> None:
        """Raise Trouble for what cannot be done at all, before anything has run."""
        for one in self.order.outputs:
            if one.place:
                check_scheme(one.place)

    def send(self) -> None:
        """Send what is there, or note that it is left."""
        if self.order.outputs:
            self._transfers.work(self._errands())
        self.left.sort()
        for number, count in sorted(self._empty.items()):
            name = self.order.outputs[number].name
            self.log.append(f"output {name}: {count} empty directories have no place there")

    def _errands(self) -> Iterator[Errand]:
        for number, one in enumerate(self.order.outputs):
            try:
                yield from self._errands_of(number, one)
            except (Trouble, OSError) as error:
                self._fail(number, f"output {one.name}: {_said(error)}", error)

    def _errands_of(self, number: int, one: Output) -> Iterator[Errand]:
        for found in self._found(number, one):
            if one.kind == "DIRECTORY":
                yield from self._directory(found)
            else:
                yield from self._file(found)

    def _found(self, number: int, one: Output) -> Iterator[Found]:
        """Yield what there is of an output; what is missing, or of the other kind, is noted."""
        if one.path_prefix is None:
            kind = self.tree.kind(one.path)
            if kind == one.kind:
                yield Found(number, one, one.path, "")
            else:
                said = WORDS.get(kind, "is neither file nor directory")
                self.missing.append(f"output {one.path} ({one.kind}) {said}")
            return
        there = matches(self.tree, one.path)
        for path, kind in there:
            if kind == one.kind:
                yield Found(number, one, path, below(path, one.path_prefix))
            else:
                self._not_sent(path)
        if not any(kind == one.kind for _, kind in there):
            self.missing.append(f"output {one.path} ({one.kind}) matches nothing that was written")

    def _directory(self, top: Found) -> Iterator[Errand]:
        found = False
        for name, kind in self.tree.files(top.path):
            found = True
            inner = top._replace(path=f"{top.path}/{name}", below=f"{top.below}/{name}".lstrip("/"))
            if kind == "FILE":
                yield from self._file(inner)
            elif kind == "DIRECTORY":
                yield from self._empty_directory(inner)
            else:
                self._not_sent(inner.path)
        if not found:
            yield from self._empty_directory(top)

    def _not_sent(self, path: str) -> None:
        self.log.append(f"output {path} is no file, or a link to none: not sent")

    def _file(self, found: Found) -> Iterator[Errand]:
        most = found.output.max_bytes
        size = self._size(found.path)
        if found.output.place is None or (most is not None and size > most):
            self._leave(found, size)
        else:
            yield lambda hand: self._send(found, hand)

    def _size(self, path: str) -> int:
        file = self.tree.open(path, os.O_RDONLY)
        try:
            return os.fstat(file).st_size
        finally:
            os.close(file)

    def _leave(self, found: Found, size: int) -> None:
        self.left.append(Left(found.number, found.path, found.below, size))

    def _send(self, found: Found, hand: Hand) -> None:
        """Send one file, unless another of the same output could not be sent."""
        place = found.output.place
        if place is None or found.number in self.troubles:
            return
        place = place.below(found.below) if found.below else place
        try:
            _, size = self._transfers.put_file(hand, place, found.path)
        except Outdated:
            self._leave(found, self._size(found.path))
        except (Trouble, OSError) as error:
            prefix = "" if str(error).startswith("output ") else f"output {place.name}: "
            self._fail(found.number, f"{prefix}{_said(error)}", error)
        else:
            self._sent.append((found.number, Sent(place.name, found.path, size)))

    def _empty_directory(self, found: Found) -> Iterator[Errand]:
        """Have an empty directory made, where the other side knows directories."""

        def errand(hand: Hand) -> None:
            base = found.output.place
            if base is None or found.number in self.troubles:
                return
            place = base.below(found.below) if found.below else base
            way = hand.way(place.url)
            what = f"output {place.name}"
            try:
                made = self._transfers.patiently(what, place, lambda: way.make_directory(place))
            except Trouble as error:
                self._fail(found.number, str(error), error)
            else:
                self._count_empty(found, made)

        if found.output.place is None:
            self._count_empty(found, made=False)
        else:
            yield errand

    def _count_empty(self, found: Found, made: bool) -> None:
        if not made:
            self._empty[found.number] = self._empty.get(found.number, 0) + 1

    def _fail(self, number: int, sentence: str, error: Exception) -> None:
        turn = error.turn() if isinstance(error, Trouble) else operators_turn()
        self.troubles.setdefault(number, (sentence, turn))


def _said(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
