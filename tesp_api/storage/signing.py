"""Signature Version 4 in a URL: whoever has the URL may do that one thing until it ends.

botocore signs a URL in 0.4 ms; a directory has thousands. Here the key of the day and what all
URLs share are made once.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import SplitResult, quote, urlsplit

ALGORITHM: Final = "AWS4-HMAC-SHA256"
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

_HOST: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

Style = Literal["path", "virtual"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Keys:
    """What proves to S3 who asks. Never printed."""

    access_key: str
    secret_key: str
    session_token: str | None = None


class Addresses:
    """Where the buckets of one endpoint are: below its path, or each under a name of its own."""

    def __init__(self, endpoint: str, style: Style) -> None:
        self._base = _without_default_port(urlsplit(endpoint))
        self._style = style

    def of(self, bucket: str, key: str) -> tuple[str, str, str]:
        """Return scheme, host and encoded path of an object."""
        host, path = self._base.netloc, self._base.path.rstrip("/")
        if self._style == "virtual" and self._may_be_host(bucket):
            host = f"{bucket}.{host}"
        else:
            path = f"{path}/{bucket}"
        return self._base.scheme, host, f"{path}/{quote(key, safe='/~')}"

    def _may_be_host(self, bucket: str) -> bool:
        """Whether it can be part of a host's name; one with a dot fits no certificate."""
        dotted = "." in bucket and self._base.scheme == "https"
        return _HOST.fullmatch(bucket) is not None and not dotted


class Signer:
    """Makes URLs that are good from one moment on for `valid_s`; plain ones without keys."""

    def __init__(
        self, addresses: Addresses, keys: Keys | None, region: str, at: datetime, valid_s: int
    ) -> None:
        self._addresses = addresses
        self.signs = keys is not None
        if keys is None:
            return
        self._moment = at.strftime("%Y%m%dT%H%M%SZ")
        self._scope = f"{self._moment[:8]}/{region}/s3/aws4_request"
        self._key = _key(keys.secret_key, self._scope)
        fields = {
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": f"{keys.access_key}/{self._scope}",
            "X-Amz-Date": self._moment,
            "X-Amz-Expires": str(valid_s),
            **({"X-Amz-Security-Token": keys.session_token} if keys.session_token else {}),
            "X-Amz-SignedHeaders": "host",
        }
        self._fields = _query(fields)

    def url(self, method: str, bucket: str, key: str, query: Mapping[str, str] = NOTHING) -> str:
        """Return the URL by which `method` may be done to the object.

        The names in `query` come after `X-Amz-` in the alphabet, as the signature wants them.
        """
        scheme, host, path = self._addresses.of(bucket, key)
        more = _query(query)
        if not self.signs:
            return f"{scheme}://{host}{path}{'?' if more else ''}{more}"
        fields = f"{self._fields}&{more}" if more else self._fields
        request = f"{method}\n{path}\n{fields}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"{ALGORITHM}\n{self._moment}\n{self._scope}\n{digest}"
        signature = hmac.digest(self._key, text.encode(), "sha256").hex()
        return f"{scheme}://{host}{path}?{fields}&X-Amz-Signature={signature}"


def _key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _query(fields: Mapping[str, str]) -> str:
    pairs = sorted((quote(name, safe="~"), quote(text, safe="~")) for name, text in fields.items())
    return "&".join(f"{name}={text}" for name, text in pairs)


def _without_default_port(url: SplitResult) -> SplitResult:
    default = {"http": ":80", "https": ":443"}.get(url.scheme, "")
    netloc = url.netloc.lower()
    return url._replace(netloc=netloc.removesuffix(default) if default else netloc)
