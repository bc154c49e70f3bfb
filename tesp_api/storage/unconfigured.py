"""Storage that a server may have and this one has not: taken at creation, refused at the start."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import SplitResult

from tesp_api.domain.errors import OutOfReach
from tesp_api.domain.tes import Input, Output


class UnconfiguredScheme:
    """URLs that are good TES but lead nowhere from here, like buckets without credentials.

    Which storage a server has is the operator's matter and may change while the task waits: so the
    client is told at once only of what no server could make sense of.
    """

    def __init__(self, *names: str) -> None:
        self.names = frozenset(names)

    def refusal(self, url: SplitResult, _item: Input | Output) -> str | None:
        """Refuse what names no bucket or host."""
        return None if url.hostname else "names no bucket or host"

    def order(self, url: SplitResult) -> Mapping[str, Any]:
        """Say that there is no way, without the rest of the URL, which may hold a password."""
        where = f"{url.scheme}://{url.hostname}"
        raise OutOfReach(
            f"{where} cannot be reached: this server has no {url.scheme} storage configured."
        )

    def served(self) -> Sequence[str]:
        """Nothing."""
        return ()
