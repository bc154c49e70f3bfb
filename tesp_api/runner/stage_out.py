"""The second, short job: it sends what the task's own job has left on the node."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tesp_api.runner.patience import Outdated
from tesp_api.runner.report import VERSION, now
from tesp_api.runner.transfer import Sent
from tesp_api.runner.transfers import Transfers, check_scheme
from tesp_api.runner.tree import Tree, uproot
from tesp_api.runner.trouble import DataTrouble, NodeTrouble, Trouble, operators_turn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tesp_api.runner.crew import Errand, Hand
    from tesp_api.runner.order import Order, Sending
    from tesp_api.runner.transfer import Place


class StageOut:
    """Sends the files that the order names from the tree of the job `order.of`."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.home = os.path.join(os.path.realpath("../.."), order.of or "", "working", "task")
        self.log: list[str] = []
        self._tree = Tree(f"{self.home}/root")
        self._transfers = Transfers(order, self._tree, self.log)
        self._sent: dict[int, Sent] = {}
        self._etags: dict[int, dict[int, str]] = {}
        self._started_at = now()
        self.turn: str | None = None  # who can do something about a failure

    def work(self) -> tuple[str, str | None]:
        """Send all of them; return the outcome and the reason."""
        try:
            self._check()
            self._transfers.work(self._errands())
        except Outdated as error:
            return "stale", str(error)
        except Trouble as error:
            self.turn = error.turn()
            return "system_error", str(error)
        except OSError as error:
            self.turn = operators_turn()
            return "system_error", f"the node failed: {error.strerror or error}"
        return "complete", None

    def _check(self) -> None:
        if not os.path.isdir(self._tree.top):
            raise NodeTrouble("what the task has left to be sent is not on the node any more")
        for one in self.order.sendings:
            for place in (one.place, *one.parts[:1]):
                if place:
                    check_scheme(place)

    def _errands(self) -> Iterator[Errand]:
        for number, one in enumerate(self.order.sendings):
            self._check_size(one)
            if one.place:
                yield self._whole(number, one, one.place)
            for index, place in enumerate(one.parts):
                yield self._part(number, one, index, place)

    def _check_size(self, one: Sending) -> None:
        file = self._tree.open(one.path, os.O_RDONLY)
        try:
            if os.fstat(file).st_size != one.size_bytes:
                raise NodeTrouble(f"output {one.path} has changed since the task's end")
        finally:
            os.close(file)

    def _whole(self, number: int, one: Sending, place: Place) -> Errand:
        def errand(hand: Hand) -> None:
            self._transfers.put_file(hand, place, one.path)
            self._sent[number] = Sent(one.name, one.path, one.size_bytes)

        return errand

    def _part(self, number: int, one: Sending, index: int, place: Place) -> Errand:
        offset = index * one.part_bytes
        part = (offset, max(0, min(one.part_bytes, one.size_bytes - offset)))

        def errand(hand: Hand) -> None:
            etag, _ = self._transfers.put_file(hand, place, one.path, part)
            if not etag:
                raise DataTrouble(
                    f"output {place.name}: part {index + 1} was answered without an ETag"
                )
            etags = self._etags.setdefault(number, {})
            etags[index] = etag
            if len(etags) == len(one.parts):
                self._sent[number] = Sent(one.name, one.path, one.size_bytes)

        return errand

    def report(self, outcome: str, reason: str | None) -> dict[str, Any]:
        """Return what the server is to know."""
        whole = [number for number in sorted(self._etags) if number in self._sent]
        return {
            "version": VERSION,
            "job": self.order.job,
            "outcome": outcome,
            "reason": reason,
            "turn": self.turn,
            "started_at": self._started_at,
            "ended_at": now(),
            "executors": [],
            "outputs": [self._sent[number]._asdict() for number in sorted(self._sent)],
            "etags": [[one, [tag for _, tag in sorted(self._etags[one].items())]] for one in whole],
            "log": self.log,
            "metadata": {"host": os.uname().nodename},
        }

    def clean(self) -> str | None:
        """Remove the tree; return why it cannot be."""
        try:
            uproot(self.home)
        except OSError as error:
            return f"{self.home} could not be removed: {error}"
        return None
