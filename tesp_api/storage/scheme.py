"""What one kind of URL has to know."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import SplitResult

from tesp_api.domain.task import Left
from tesp_api.domain.tes import Input, Output

Order = Mapping[str, Any]


class Uploads(Protocol):
    """How files that the run job left are sent; all as in the port `Storage`."""

    async def stage_order(
        self, url: SplitResult, left: Left, owner: str | None, upload: str | None
    ) -> Order:
        """Return how one file is sent."""

    async def open_uploads(
        self, url: SplitResult, left: Left, owner: str | None
    ) -> Collection[str] | None:
        """Return the ids of all uploads in parts to the same place, or None."""

    async def begin_upload(self, url: SplitResult, left: Left, owner: str | None) -> str:
        """Return the id of a new upload in parts."""

    async def complete_upload(
        self, url: SplitResult, left: Left, owner: str | None, upload: str, etags: Sequence[str]
    ) -> None:
        """Make the object of its parts."""

    async def abort_upload(
        self, url: SplitResult, left: Left, owner: str | None, upload: str
    ) -> None:
        """Let go of the parts."""


class Scheme(Protocol):
    """One kind of URL. `names` are its schemes, `""` being the bare absolute path."""

    names: frozenset[str]

    @property
    def uploads(self) -> Uploads | None:
        """How left files are sent; None where the run job sends everything itself."""

    def refusal(self, url: SplitResult, item: Input | Output, owner: str | None) -> str | None:
        """Return why the URL cannot be served, as a sentence, or None."""

    async def fetch_order(self, url: SplitResult, item: Input, owner: str | None) -> Order:
        """Return what the runner needs beside path and type. Raises OutOfReach."""

    async def send_order(self, url: SplitResult, item: Output, owner: str | None) -> Order:
        """Return what the runner needs beside path and type. Raises OutOfReach."""

    def served(self) -> Sequence[str]:
        """Return what service-info says of it."""
