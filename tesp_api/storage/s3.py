"""s3 and gs: the node gets URLs that the server has signed; the keys stay here."""

import asyncio
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import SplitResult

from tesp_api.domain.errors import OutOfReach
from tesp_api.domain.rules import is_pattern
from tesp_api.domain.task import Left
from tesp_api.domain.tes import FileType, Input, Output
from tesp_api.storage.account import Account
from tesp_api.storage.grants import Grant, Grants
from tesp_api.storage.listing import Found, name_refusal, tree
from tesp_api.storage.places import OBJECT_SCHEMES, bucket_place, object_place
from tesp_api.storage.scheme import Order
from tesp_api.storage.signing import Signer

KEY_BYTES: Final = 1024
PARTS: Final = 10_000
PART_BYTES: Final = 64 * 1024 * 1024

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class S3Scheme:
    """Objects, and directories of them, in the buckets that are granted.

    A file is signed without a word to S3. A directory is listed; one that is an output is left by
    the run job, since nobody knows its names before: `uploads` is how it is sent then.
    """

    names = OBJECT_SCHEMES

    def __init__(self, grants: Iterable[tuple[Grant, Account]] = ()) -> None:
        self._grants = Grants(grants, bucket_place)
        self.uploads = S3Uploads(self._grants)

    def refusal(self, url: SplitResult, item: Input | Output, _owner: str | None) -> str | None:
        """Refuse what no bucket can hold; which buckets there are is not told at creation."""
        if not _BUCKET.fullmatch(url.netloc):
            return "names no bucket"
        if object_place(url) is None:
            return "has '.' or '..' in an object's name"
        key = url.path[1:]
        if not _is_directory(item) and (not key or key.endswith("/")):
            return "names no object; that of a FILE does not end with '/'"
        return _key_refusal(key)

    async def fetch_order(self, url: SplitResult, item: Input, owner: str | None) -> Order:
        """Return a signed URL, or one for each file of a directory."""
        where = _shown(url)
        account = _account(self._grants, url, owner)
        signer = await account.signer(where)
        order = {"name": where, **_signed(signer)}
        if item.type is FileType.FILE:
            return {**order, "url": signer.url("GET", url.netloc, url.path[1:])}
        prefix = _joined(url, "")
        found = await account.store.listed(where, url.netloc, prefix)
        files = await asyncio.to_thread(_tree, where, prefix, found, url.netloc, signer)
        return {**order, **files}

    async def send_order(self, url: SplitResult, item: Output, owner: str | None) -> Order:
        """Return a signed URL for one PUT, or that the files are to be left."""
        where = _shown(url)
        account = _account(self._grants, url, owner)
        if _is_directory(item):
            return {"name": where, "deferred": True}
        signer = await account.signer(where)
        signed = {"url": signer.url("PUT", url.netloc, url.path[1:]), **_signed(signer)}
        return {"name": where, **signed, "max_bytes": account.multipart_bytes}

    def served(self) -> Sequence[str]:
        """Return everybody's prefixes."""
        return self._grants.public()


class S3Uploads:
    """Files that were left: each is one PUT, or, where it is too large for one, many."""

    def __init__(self, grants: Grants[Account]) -> None:
        self._grants = grants

    async def stage_order(
        self, url: SplitResult, left: Left, owner: str | None, upload: str | None
    ) -> Order:
        """Return a signed URL, or one for each part."""
        account, url = self._target(url, left, owner)
        bucket, key = url.netloc, url.path[1:]
        signer = await account.signer(_shown(url))
        if upload is None:
            return {"name": _shown(url), "url": signer.url("PUT", bucket, key)}
        part_bytes = max(PART_BYTES, -(-left.size_bytes // PARTS))
        numbers = range(1, -(-left.size_bytes // part_bytes) + 1)
        queries = [{"partNumber": str(number), "uploadId": upload} for number in numbers]
        parts = [signer.url("PUT", bucket, key, query) for query in queries]
        return {"name": _shown(url), "parts": parts, "part_bytes": part_bytes}

    async def open_uploads(
        self, url: SplitResult, left: Left, owner: str | None
    ) -> Collection[str] | None:
        """Return what is under way to this key where the file is larger than one PUT may be."""
        account, url = self._target(url, left, owner)
        if left.size_bytes <= account.multipart_bytes:
            return None
        return await account.store.uploads(_shown(url), url.netloc, url.path[1:])

    async def begin_upload(self, url: SplitResult, left: Left, owner: str | None) -> str:
        """Return an upload's id."""
        account, url = self._target(url, left, owner)
        return await account.store.begin(_shown(url), url.netloc, url.path[1:])

    async def complete_upload(
        self, url: SplitResult, left: Left, owner: str | None, upload: str, etags: Sequence[str]
    ) -> None:
        """Make the object of its parts. Idempotent."""
        account, url = self._target(url, left, owner)
        await account.store.complete(_shown(url), url.netloc, url.path[1:], upload, etags)

    async def abort_upload(
        self, url: SplitResult, left: Left, owner: str | None, upload: str
    ) -> None:
        """Let go of the parts. Idempotent."""
        account, url = self._target(url, left, owner)
        await account.store.abort(_shown(url), url.netloc, url.path[1:], upload)

    def _target(
        self, url: SplitResult, left: Left, owner: str | None
    ) -> tuple[Account, SplitResult]:
        """Return where one file goes; its name is the task's, and looked at like a client's."""
        if left.below:
            url = url._replace(path="/" + _joined(url, left.below))
            if why := name_refusal(left.below) or _key_refusal(url.path[1:]):
                path = left.path.encode(errors="backslashreplace").decode()
                raise OutOfReach(f"{path} {why}.")
        return _account(self._grants, url, owner), url


def _account(grants: Grants[Account], url: SplitResult, owner: str | None) -> Account:
    found = grants.find(object_place(url), owner)
    if found is None:
        raise OutOfReach(
            f"{_shown(url)} cannot be reached: no storage.s3 of this server serves it for the "
            "task's owner."
        )
    return found[1]


def _is_directory(item: Input | Output) -> bool:
    """Whether the URL is that of a directory: also where an output's path is a pattern."""
    pattern = isinstance(item, Output) and is_pattern(item.path)
    return pattern or item.type is FileType.DIRECTORY


def _joined(directory: SplitResult, below: str) -> str:
    """Return the key of `below` in a directory: one slash between, none before the first name."""
    base = directory.path[1:].rstrip("/")
    return f"{base}/{below}" if base else below


def _key_refusal(key: str) -> str | None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "has a name that is no UTF-8, and an object's is"
    return f"makes a key of more than {KEY_BYTES} bytes" if size > KEY_BYTES else None


def _tree(
    where: str, prefix: str, found: Sequence[Found], bucket: str, signer: Signer
) -> Mapping[str, Any]:
    below = tree(where, prefix, found)
    files = [
        {"name": name, "url": signer.url("GET", bucket, each.key), "size_bytes": each.size_bytes}
        for name, each in below.files
    ]
    return {"files": files, "directories": list(below.directories)}


def _signed(signer: Signer) -> Order:
    return {"signed": True} if signer.signs else {}


def _shown(url: SplitResult) -> str:
    return f"{url.scheme}://{url.netloc}{url.path}"
