"""ftp and ftps."""

import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import SplitResult, unquote

from tesp_api.domain.tes import Input, Output
from tesp_api.storage.grants import Grant, Grants
from tesp_api.storage.login import Login
from tesp_api.storage.places import host_place, shown, url_place
from tesp_api.storage.scheme import Order

_LINE_ENDS: Final = re.compile(r"[\r\n\0]")


class FtpScheme:
    """Anonymous FTP, the user's own credentials in the URL, and the server's where granted."""

    names = frozenset({"ftp", "ftps"})
    uploads = None

    def __init__(self, grants: Iterable[tuple[Grant, Login]] = ()) -> None:
        self._grants = Grants(grants, host_place)

    def refusal(self, url: SplitResult, _item: Input | Output, _owner: str | None) -> str | None:
        """Refuse what names no host, or would be more than one line of the protocol."""
        if not url.hostname:
            return "names no host"
        if _LINE_ENDS.search(unquote(url.netloc + url.path)):
            return "has a line end in it, which FTP cannot say"
        return None

    async def fetch_order(self, url: SplitResult, _item: Input, owner: str | None) -> Order:
        """Pass the URL on as it is, and how to log in."""
        return self._order(url, owner)

    async def send_order(self, url: SplitResult, _item: Output, owner: str | None) -> Order:
        """Pass the URL on as it is, and how to log in."""
        return self._order(url, owner)

    def served(self) -> Sequence[str]:
        """Both spellings."""
        return ("ftp://", "ftps://")

    def _order(self, url: SplitResult, owner: str | None) -> Order:
        order = {"name": shown(url), "url": url.geturl()}
        # Who brings credentials of their own means those.
        found = None if "@" in url.netloc else self._grants.find(url_place(url), owner)
        if found is None:
            return order
        return {**order, "username": found[1].username, "password": found[1].password}
