"""One entry of `storage.s3`: where its buckets are, and how the server gets at them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tesp_api.storage.listing import Found
from tesp_api.storage.signing import Addresses, Keys, Signer


class ObjectStore(Protocol):
    """What the server itself asks of S3.

    `where` names the object for people. Every call may raise StorageUnreachable (ask again), or
    OutOfReach with what S3 says.
    """

    async def keys(self, where: str) -> Keys | None:
        """Return what is signed with now, or None where nobody has to say who asks."""

    async def listed(self, where: str, bucket: str, prefix: str) -> Sequence[Found]:
        """Return all objects whose keys begin with `prefix`."""

    async def uploads(self, where: str, bucket: str, key: str) -> Collection[str]:
        """Return the ids of the uploads in parts that are under way to this key."""

    async def begin(self, where: str, bucket: str, key: str) -> str:
        """Return the id of a new upload in parts."""

    async def complete(
        self, where: str, bucket: str, key: str, upload: str, etags: Sequence[str]
    ) -> None:
        """Make the object of its parts. Idempotent."""

    async def abort(self, where: str, bucket: str, key: str, upload: str) -> None:
        """Let go of the parts. Idempotent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What the entry says. `presign_s` is how long a signed URL is good."""

    addresses: Addresses
    region: str
    multipart_bytes: int
    presign_s: int
    store: ObjectStore
    now: Callable[[], datetime]

    async def signer(self, where: str) -> Signer:
        """Return what signs from now on."""
        keys = await self.store.keys(where)
        return Signer(self.addresses, keys, self.region, self.now(), self.presign_s)
