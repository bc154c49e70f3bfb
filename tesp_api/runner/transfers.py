"""What all transfers share, whatever their kind of URL: one file in, one file out, many at once."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

from tesp_api.runner.crew import Crew, Hand
from tesp_api.runner.files import Files
from tesp_api.runner.ftp import Ftp
from tesp_api.runner.patience import Patience
from tesp_api.runner.transfer import Arrival, Departure, Place, Terms, public_url
from tesp_api.runner.trouble import Trouble
from tesp_api.runner.web import Web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tesp_api.runner.crew import Errand
    from tesp_api.runner.order import Order
    from tesp_api.runner.transfer import Way
    from tesp_api.runner.tree import Tree

# By the scheme of a URL.
WAYS: dict[str, Callable[[Terms], Way]] = {
    "http": Web,
    "https": Web,
    "ftp": Ftp,
    "ftps": Ftp,
    "file": Files,
}


class Transfers:
    """Carries files between the tree and the other sides, several at a time."""

    def __init__(self, order: Order, tree: Tree, log: list[str]) -> None:
        self.order = order
        self.tree = tree
        self.log = log
        terms = Terms(order.timeout_s, order.ca, order.job)
        self.crew = Crew(order.parallel, lambda: Hand(WAYS, terms))
        self.patiently = Patience(order.attempts, order.backoff_s, self.crew.wanted, log)

    def work(self, errands: Iterable[Errand]) -> None:
        """Do all errands; raises what the first that failed raised."""
        self.crew.work(errands)

    def get_file(self, hand: Hand, what: str, place: Place, beside: str) -> None:
        """Get a file of another side to the path `beside` of the node."""
        way = hand.way(place.url)
        with open(os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o755), "wb", 0) as sink:
            os.fchmod(sink.fileno(), 0o755)
            arrival = Arrival(sink.fileno(), self.crew.wanted)

            def once() -> None:
                way.get(place, arrival)

            self.patiently(what, place, once, lambda: f" ({arrival.moved} bytes received)")

    def put_file(
        self, hand: Hand, place: Place, path: str, part: tuple[int, int] | None = None
    ) -> tuple[str | None, int]:
        """Send the file at `path` of the tree, or a part of it; return its ETag and its size."""
        way, what = hand.way(place.url), f"output {place.name}"
        with open(self.tree.open(path, os.O_RDONLY), "rb", 0) as source:
            size = os.fstat(source.fileno()).st_size
            offset, length = part or (0, size)
            name = posixpath.basename(path)
            departure = Departure(source.fileno(), name, length, offset, self.crew.wanted)

            def once() -> str | None:
                return way.put(place, departure)

            etag = self.patiently(what, place, once, lambda: f" ({departure.moved} bytes sent)")
        return etag, size


def check_scheme(place: Place) -> None:
    """Raise Trouble for a URL that nothing here leads to."""
    if place.scheme() not in WAYS:
        known = ", ".join(sorted(WAYS))
        raise Trouble(f"no transfer for {public_url(place.name)}: only {known}")
