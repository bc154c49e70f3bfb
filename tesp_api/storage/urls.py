"""URLs by scheme: what is refused when a task is created, and what the node is told.

What only the other side knows (no such bucket, no such file) is not asked at creation: it fails the
task later, with what the other side said.
"""

from collections.abc import Collection, Sequence
from urllib.parse import SplitResult

from tesp_api.domain.errors import OutOfReach
from tesp_api.domain.rules import is_pattern
from tesp_api.domain.task import Left
from tesp_api.domain.tes import Input, Output
from tesp_api.storage.places import split
from tesp_api.storage.scheme import Order, Scheme, Uploads


class UrlStorage:
    """Storage: finds the scheme of a URL and lets it answer."""

    def __init__(self, *schemes: Scheme) -> None:
        self._by_name = {name: scheme for scheme in schemes for name in scheme.names}
        self._schemes = schemes

    def refusal(self, item: Input | Output, owner: str | None) -> str | None:
        """Return a sentence on the URL of `item`, or None if it is served or literal."""
        if _is_literal(item):
            return None
        try:
            url = split(item.url or "")
        except ValueError:
            return "is no URL"
        scheme = self._by_name.get(url.scheme)
        if scheme is None:
            return f"the scheme {url.scheme!r} is not served here; served are: {self._known()}"
        problem = scheme.refusal(url, item, owner)
        return None if problem is None else f"the URL {problem}"

    async def fetch_order(self, item: Input, owner: str | None) -> Order:
        """Return the content itself where there is one: then the URL is ignored (TES 1.1)."""
        place = {"path": item.path, "type": item.type.value}
        if _is_literal(item):
            return {**place, "content": item.content}
        scheme, url = self._scheme(item, owner)
        return {**place, **await scheme.fetch_order(url, item, owner)}

    async def send_order(self, item: Output, owner: str | None) -> Order:
        """Return where the node sends the output."""
        place = {"path": item.path, "type": item.type.value}
        if is_pattern(item.path):
            place["path_prefix"] = item.path_prefix or ""
        scheme, url = self._scheme(item, owner)
        return {**place, **await scheme.send_order(url, item, owner)}

    async def stage_order(
        self, item: Output, left: Left, owner: str | None, upload: str | None
    ) -> Order:
        """Return how a file that was left is sent."""
        uploads, url = self._uploads(item, owner)
        return await uploads.stage_order(url, left, owner, upload)

    async def open_uploads(
        self, item: Output, left: Left, owner: str | None
    ) -> Collection[str] | None:
        """Return all uploads under way to where the file goes, if it needs one."""
        uploads, url = self._uploads(item, owner)
        return await uploads.open_uploads(url, left, owner)

    async def begin_upload(self, item: Output, left: Left, owner: str | None) -> str:
        """Return the id of a new upload in parts."""
        uploads, url = self._uploads(item, owner)
        return await uploads.begin_upload(url, left, owner)

    async def complete_upload(
        self, item: Output, left: Left, owner: str | None, upload: str, etags: Sequence[str]
    ) -> None:
        """Make the object of its parts."""
        uploads, url = self._uploads(item, owner)
        await uploads.complete_upload(url, left, owner, upload, etags)

    async def abort_upload(self, item: Output, left: Left, owner: str | None, upload: str) -> None:
        """Let go of the parts."""
        uploads, url = self._uploads(item, owner)
        await uploads.abort_upload(url, left, owner, upload)

    def served(self) -> Sequence[str]:
        """Return all that is served, for service-info."""
        return [line for scheme in self._schemes for line in scheme.served()]

    def _known(self) -> str:
        """Name the schemes that lead somewhere as the server is configured."""
        names = {name for scheme in self._schemes if scheme.served() for name in scheme.names}
        return ", ".join(sorted(name or "a bare path" for name in names))

    def _scheme(self, item: Input | Output, owner: str | None) -> tuple[Scheme, SplitResult]:
        # Asked again: the settings may have changed since the task was created.
        if (why := self.refusal(item, owner)) is not None:
            raise OutOfReach(f"{item.path}: {why}.")
        url = split(item.url or "")
        return self._by_name[url.scheme], url

    def _uploads(self, item: Output, owner: str | None) -> tuple[Uploads, SplitResult]:
        scheme, url = self._scheme(item, owner)
        if scheme.uploads is None:
            raise OutOfReach(f"{item.path}: the node left what it should have sent itself.")
        return scheme.uploads, url


def _is_literal(item: Input | Output) -> bool:
    """Whether an input is its content: one with an empty content and a URL is fetched."""
    return isinstance(item, Input) and bool(
        item.content or (item.content is not None and not item.url)
    )
