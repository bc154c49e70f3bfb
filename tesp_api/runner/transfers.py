"""What comes in and goes out, whatever the scheme of its URL."""

from __future__ import annotations

import os
import posixpath
import time
from typing import TYPE_CHECKING

from tesp_api.runner.files import fetch_file, file_path, make_place, send_file
from tesp_api.runner.transfer import Parcel, Refused, Sent, Transient, below_url, public_url, scheme
from tesp_api.runner.trouble import Trouble
from tesp_api.runner.web import fetch_http, send_http

if TYPE_CHECKING:
    from collections.abc import Callable

    from tesp_api.runner.order import Input, Order, Output
    from tesp_api.runner.tree import Tree


class Transfers:
    """Carries the inputs into the tree and the outputs out of it."""

    def __init__(self, order: Order, tree: Tree, log: list[str]) -> None:
        self.order = order
        self.tree = tree
        self.log = log

    def check(self) -> None:
        """Raise Trouble for a transfer that cannot be done at all, before anything has run."""
        wanted = [(one.url, one.kind, set(FETCH)) for one in self.order.inputs if one.url]
        wanted += [(one.url, one.kind, set(SEND)) for one in self.order.outputs]
        for url, kind, schemes in wanted:
            if scheme(url) not in schemes:
                known = ", ".join(sorted(schemes))
                raise Trouble(f"no transfer for {public_url(url)}: only {known}")
            if kind == "DIRECTORY" and scheme(url) != "file":
                where = public_url(url)
                raise Trouble(f"a directory cannot be transferred by HTTP yet: {where}")

    def fetch(self, one: Input) -> None:
        """Put the input `one` into the tree; raises Trouble if it cannot be had."""
        if one.url is None:
            file = self.tree.open(one.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755)
            with open(file, "wb") as sink:
                sink.write((one.content or "").encode("utf-8", "surrogateescape"))
        else:
            FETCH[scheme(one.url)](self, one, one.url)

    def send(self, one: Output) -> list[Sent]:
        """Send what is there of the output `one`; what is missing becomes a line of the log."""
        found = self.tree.kind(one.path)
        if found != one.kind:
            said = {None: "was not written", "FILE": "is a file", "DIRECTORY": "is a directory"}
            self.log.append(
                f"output {one.path} ({one.kind}) {said.get(found, 'is neither file nor directory')}"
            )
            return []
        if one.kind == "FILE":
            return [self._send_file(one, one.url, one.path)]
        if scheme(one.url) == "file":
            make_place(self.order, file_path(one.url))
        sent = []
        for name, kind in self.tree.files(one.path):
            if kind == "FILE":
                sent.append(self._send_file(one, below_url(one.url, name), f"{one.path}/{name}"))
            else:
                self.log.append(f"output {one.path}/{name} is no file, or a link to none: not sent")
        return sent

    def _send_file(self, one: Output, url: str, path: str) -> Sent:
        with open(self.tree.open(path, os.O_RDONLY), "rb") as source:
            size = os.fstat(source.fileno()).st_size
            parcel = Parcel(url, one.headers, source.fileno(), posixpath.basename(path))
            SEND[scheme(url)](self, parcel)
        return Sent(public_url(url), path, size)

    def patiently(self, what: str, once: Callable[[], None]) -> None:
        """Do `once`, again after growing pauses while it may help; raises Trouble in the end."""
        for attempt in range(1, self.order.attempts + 1):
            try:
                return once()
            except Transient as error:
                reason = str(error)
            except Refused as error:
                raise Trouble(f"{what} failed at attempt {attempt}: {error}") from error
            if attempt < self.order.attempts:
                time.sleep(min(30.0, self.order.backoff_s * 2 ** (attempt - 1)))
        raise Trouble(f"{what} failed after {self.order.attempts} attempts: {reason}")


# The seam where more ways come in: by the scheme of a URL.
FETCH: dict[str, Callable[[Transfers, Input, str], None]] = {
    "http": fetch_http,
    "https": fetch_http,
    "file": fetch_file,
}

SEND: dict[str, Callable[[Transfers, Parcel], None]] = {
    "http": send_http,
    "https": send_http,
    "file": send_file,
}
