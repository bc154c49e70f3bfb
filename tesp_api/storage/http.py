"""http and https: GET for inputs; PUT, or a form's POST where PUT is refused, for outputs."""

from collections.abc import Iterable, Sequence
from urllib.parse import SplitResult

from tesp_api.domain.tes import Input, Output
from tesp_api.storage.grants import Grant, Grants
from tesp_api.storage.login import Login
from tesp_api.storage.places import host_place, shown, url_place
from tesp_api.storage.scheme import Order


class HttpScheme:
    """Public URLs, the user's own credentials in them, and the server's where they are granted."""

    names = frozenset({"http", "https"})
    uploads = None

    def __init__(self, grants: Iterable[tuple[Grant, Login]] = ()) -> None:
        self._grants = Grants(grants, host_place)

    def refusal(self, url: SplitResult, _item: Input | Output, _owner: str | None) -> str | None:
        """Refuse what names no host."""
        return None if url.hostname else "names no host"

    async def fetch_order(self, url: SplitResult, _item: Input, owner: str | None) -> Order:
        """Pass the URL on as it is, and how to prove who asks."""
        return self._order(url, owner)

    async def send_order(self, url: SplitResult, _item: Output, owner: str | None) -> Order:
        """Pass the URL on as it is, and how to prove who asks."""
        return self._order(url, owner)

    def served(self) -> Sequence[str]:
        """Both spellings."""
        return ("http://", "https://")

    def _order(self, url: SplitResult, owner: str | None) -> Order:
        order = {"name": shown(url), "url": url.geturl()}
        # Who brings credentials of their own means those.
        found = None if "@" in url.netloc else self._grants.find(url_place(url), owner)
        return {**order, "headers": {"Authorization": found[1].authorization}} if found else order
