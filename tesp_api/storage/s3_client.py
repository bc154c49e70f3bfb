"""S3 by botocore: its chain of credentials, and the few calls that the server makes itself.

Costs 25 MB to import and 13 MB more with the first call: the composition root imports it where an
entry of `storage.s3` asks for it. Calls block, so they have threads of their own: an S3 that does
not answer takes none from the rest of the server.
"""

import asyncio
import hashlib
import os
import ssl
import tempfile
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from botocore import UNSIGNED, exceptions
from botocore.client import BaseClient
from botocore.config import Config
from botocore.httpsession import get_cert_path
from botocore.parsers import ResponseParserError
from botocore.session import Session

from tesp_api.domain.errors import OutOfReach, StorageUnreachable
from tesp_api.domain.masking import mask, spellings
from tesp_api.storage.listing import Found
from tesp_api.storage.signing import Keys, Style

MOST_OBJECTS: Final = 100_000
"""Of one directory: each becomes a URL of half a kilobyte in the order."""
THREADS: Final = 8
CALLS_DEADLINE: Final = 10
"""Times the longest wait for one answer: what all pages of a listing may take."""
LONGEST_MESSAGE: Final = 300
SERVER_ERROR: Final = 500
LATER: Final = frozenset({408, 425, 429})
"""Statuses that ask to come again, beside all of 500 and above."""
NOT_IMPLEMENTED: Final = 501
BUSY: Final = frozenset({"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable"})
GONE: Final = frozenset({"NoSuchUpload", "NoSuchBucket", "NoSuchKey", "404"})

_WEATHER: Final = (
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
    exceptions.IncompleteReadError,
    exceptions.CredentialRetrievalError,
    exceptions.MetadataRetrievalError,
    ResponseParserError,
)

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to get at one S3. Without `keys` they are botocore's to find, unless `anonymous`."""

    endpoint: str
    region: str
    style: Style
    keys: Keys | None = None
    profile: str | None = None
    anonymous: bool = False
    timeout_s: float = 60.0
    ca_file: Path | None = None


class S3Client:
    """ObjectStore over botocore. Nothing is asked, found or read before the first call."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._threads = ThreadPoolExecutor(THREADS, "s3")
        self._lock = threading.RLock()
        self._session: Session | None = None
        self._client: BaseClient | None = None

    async def keys(self, where: str) -> Keys | None:
        """Return the keys; those that expire are renewed by botocore in time."""
        if self._access.keys or self._access.anonymous:
            return self._access.keys
        return await self._in_thread(where, self._found_keys)

    async def listed(self, where: str, bucket: str, prefix: str) -> Sequence[Found]:
        """Return all objects, page after page."""
        return await self._in_thread(where, lambda: self._listed(bucket, prefix))

    async def uploads(self, where: str, bucket: str, key: str) -> Collection[str]:
        """Return what is under way to exactly this key, page after page."""
        return await self._in_thread(where, lambda: self._uploads(bucket, key))

    async def begin(self, where: str, bucket: str, key: str) -> str:
        """Begin an upload in parts."""
        return await self._in_thread(where, lambda: self._begin(bucket, key))

    async def complete(
        self, where: str, bucket: str, key: str, upload: str, etags: Sequence[str]
    ) -> None:
        """Make the object; an upload that is gone is looked for in the bucket."""
        await self._in_thread(where, lambda: self._complete(bucket, key, upload, etags))

    async def abort(self, where: str, bucket: str, key: str, upload: str) -> None:
        """Let go of the parts; what is gone is gone."""
        await self._in_thread(where, lambda: self._abort(bucket, key, upload))

    def _found_keys(self) -> Keys:
        found = self._opened_session().get_credentials()
        if found is None:
            raise exceptions.NoCredentialsError
        now = found.get_frozen_credentials()
        return Keys(
            access_key=now.access_key, secret_key=now.secret_key, session_token=now.token or None
        )

    def _listed(self, bucket: str, prefix: str) -> Sequence[Found]:
        pages = self._opened().get_paginator("list_objects_v2")
        found: list[Found] = []
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            found += (Found(each["Key"], each["Size"]) for each in page.get("Contents", ()))
            if len(found) > MOST_OBJECTS:
                raise OutOfReach(f"there are more than {MOST_OBJECTS} objects below it")
        return found

    def _uploads(self, bucket: str, key: str) -> Collection[str]:
        pages = self._opened().get_paginator("list_multipart_uploads")
        found = pages.paginate(Bucket=bucket, Prefix=key)
        return {
            str(each["UploadId"])
            for page in found
            for each in page.get("Uploads", ())
            if each["Key"] == key
        }

    def _begin(self, bucket: str, key: str) -> str:
        begun = self._opened().create_multipart_upload(Bucket=bucket, Key=key)
        return str(begun["UploadId"])

    def _complete(self, bucket: str, key: str, upload: str, etags: Sequence[str]) -> None:
        parts = [{"ETag": etag, "PartNumber": at} for at, etag in enumerate(etags, 1)]
        try:
            self._opened().complete_multipart_upload(
                Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
            )
        except exceptions.ClientError as error:
            if _code(error) != "NoSuchUpload" or not self._is_made_of(bucket, key, etags):
                raise

    def _is_made_of(self, bucket: str, key: str, etags: Sequence[str]) -> bool:
        """Whether the object is there, of exactly these parts: somebody was faster."""
        try:
            there = self._opened().head_object(Bucket=bucket, Key=key)["ETag"]
        except exceptions.ClientError as error:
            if _code(error) in GONE:
                return False
            raise
        return bool(there.strip('"') == _etag_of_parts(etags))

    def _abort(self, bucket: str, key: str, upload: str) -> None:
        try:
            self._opened().abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
        except exceptions.ClientError as error:
            if _code(error) not in GONE:
                raise

    async def _in_thread(self, where: str, call: Callable[[], Answer]) -> Answer:
        loop = asyncio.get_running_loop()
        deadline_s = self._access.timeout_s * CALLS_DEADLINE
        try:
            async with asyncio.timeout(deadline_s):
                return await loop.run_in_executor(self._threads, self._told, where, call)
        except TimeoutError:
            raise StorageUnreachable(f"{where}: S3 took more than {deadline_s:g} s.") from None

    def _told(self, where: str, call: Callable[[], Answer]) -> Answer:
        with _translated(where, self._access.keys):
            return call()

    def _opened(self) -> BaseClient:
        with self._lock:
            if self._client is None:
                self._client = self._made()
            return self._client

    def _opened_session(self) -> Session:
        with self._lock:
            if self._session is None:
                self._session = Session(profile=self._access.profile)
            return self._session

    def _made(self) -> BaseClient:
        access = self._access
        keys = access.keys
        ca_file = None if access.ca_file is None else _beside_the_systems(self, access.ca_file)
        return self._opened_session().create_client(
            "s3",
            region_name=access.region,
            endpoint_url=access.endpoint,
            aws_access_key_id=keys and keys.access_key,
            aws_secret_access_key=keys and keys.secret_key,
            aws_session_token=keys and keys.session_token,
            verify=ca_file,
            config=Config(
                signature_version=UNSIGNED if access.anonymous else "s3v4",
                s3={"addressing_style": access.style},
                connect_timeout=access.timeout_s,
                read_timeout=access.timeout_s,
                # The dispatcher asks again, and knows then that something may have been begun.
                retries={"mode": "standard", "total_max_attempts": 1},
                # An upload begun with a checksum would want one of each part.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


@contextmanager
def _translated(where: str, keys: Keys | None) -> Iterator[None]:
    """Tell weather from answers."""
    try:
        yield
    except exceptions.ClientError as error:
        raise _answer(where, error, keys) from None
    except exceptions.SSLError as error:
        kind = OutOfReach if "CERTIFICATE_VERIFY_FAILED" in str(error) else StorageUnreachable
        raise kind(f"{where}: no TLS with its S3: {_short(str(error), keys)}.") from None
    except _WEATHER as error:
        raise StorageUnreachable(
            f"{where}: its S3 does not answer: {type(error).__name__}."
        ) from None
    except exceptions.NoCredentialsError:
        raise OutOfReach(f"{where}: this server has no keys for it.") from None
    except exceptions.BotoCoreError as error:
        raise OutOfReach(f"{where}: {_short(str(error), keys)}.") from None
    except OutOfReach as error:
        raise OutOfReach(f"{where}: {error}.") from None


def _answer(
    where: str, error: exceptions.ClientError, keys: Keys | None
) -> OutOfReach | StorageUnreachable:
    code, status = _code(error), error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    message = _short(error.response["Error"].get("Message", ""), keys)
    sentence = f"{where}: S3 answered {code} ({status}): {message}."
    later = status in LATER or (status >= SERVER_ERROR and status != NOT_IMPLEMENTED)
    return StorageUnreachable(sentence) if later or code in BUSY else OutOfReach(sentence)


def _code(error: exceptions.ClientError) -> str:
    return str(error.response["Error"].get("Code", ""))


def _short(message: str, keys: Keys | None) -> str:
    secrets = [keys.access_key, keys.secret_key, keys.session_token or ""] if keys else []
    text = mask(" ".join(message.split()), spellings(secrets))
    return text[:LONGEST_MESSAGE].rstrip(".")


def _etag_of_parts(etags: Sequence[str]) -> str:
    """Return the ETag that S3 gives to an object of these parts."""
    try:
        digests = b"".join(bytes.fromhex(etag.strip('"')) for etag in etags)
    except ValueError:
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(etags)}"


def _beside_the_systems(owner: S3Client, ca_file: Path) -> str:
    """Return a file with the system's certificates and these: botocore reads one, again and again.

    It is removed with its owner.
    """
    system = ssl.get_default_verify_paths().cafile or get_cert_path(True)
    descriptor, path = tempfile.mkstemp(suffix=".pem")
    with os.fdopen(descriptor, "w") as file:
        file.write(Path(system).read_text() + "\n" + ca_file.read_text())
    weakref.finalize(owner, Path(path).unlink, missing_ok=True)
    return path
