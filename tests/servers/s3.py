"""Two S3 servers that check signatures: MinIO and SeaweedFS. Each with one pair of keys."""

import contextlib
import hashlib
import hmac
import itertools
import json
import os
import random
import secrets
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from tests.needs import need
from tests.servers.pki import Pki
from tests.servers.process import HOST, free_port, listens, running

REGION: Final = "us-east-1"
GRPC_OFFSET: Final = 10_000
"""SeaweedFS takes this port too, that far above the one it is given."""
PORTS: Final = range(12_000, 20_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3:
    """One server and the keys of its administrator; `ca` is there where it speaks TLS."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str = REGION
    ca: Path | None = None

    def client(self) -> Any:
        """Return botocore's client: another implementation of S3 than any of ours."""
        return Session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            verify=None if self.ca is None else str(self.ca),
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 2}),
        )

    def bucket(self, name: str) -> "Bucket":
        """Return that bucket, made now unless it is there."""
        client = self.client()
        with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=name)
        return Bucket(s3=self, name=name, client=client)

    def with_secret(self, secret_key: str) -> "S3":
        return replace(self, secret_key=secret_key)

    def presigned(
        self,
        method: str,
        path: str,
        *,
        seconds: int = 60,
        at: datetime | None = None,
        **query: str,
    ) -> str:
        """Return a URL signed here by hand, so that it may have been signed at any moment.

        `path` is `bucket/key`. With an `at` that lies `seconds` back, the URL has expired.
        """
        host = urlsplit(self.endpoint).netloc
        moment = (at or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{moment[:8]}/{self.region}/s3/aws4_request"
        fields = {
            **query,
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self.access_key}/{scope}",
            "X-Amz-Date": moment,
            "X-Amz-Expires": str(seconds),
            "X-Amz-SignedHeaders": "host",
        }
        canonical = "&".join(f"{_quoted(k)}={_quoted(v)}" for k, v in sorted(fields.items()))
        target = f"/{quote(path, safe='/~')}"
        request = f"{method}\n{target}\n{canonical}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(request.encode()).hexdigest()
        signature = self._signature(scope, f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}")
        return f"{self.endpoint}{target}?{canonical}&X-Amz-Signature={signature}"

    def _signature(self, scope: str, text: str) -> str:
        key = f"AWS4{self.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.digest(key, text.encode(), "sha256").hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket as the test looks at it, past all of ours."""

    s3: S3
    name: str
    client: Any

    def put(self, key: str, content: bytes) -> str:
        """Return the object's `s3://` URL."""
        self.client.put_object(Bucket=self.name, Key=key, Body=content)
        return f"s3://{self.name}/{key}"

    def get(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=self.name, Key=key)["Body"].read()
        return content

    def names(self, below: str = "") -> list[str]:
        """Return all keys that begin so, in order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=below
        )
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def uploads(self, key: str = "") -> list[str]:
        """Return the keys of multipart uploads that were begun and neither completed nor aborted.

        MinIO tells those of one exact key alone.
        """
        found = self.client.list_multipart_uploads(Bucket=self.name, Prefix=key)
        return [upload["Key"] for upload in found.get("Uploads", ())]

    def presigned(self, method: str, key: str, **more: Any) -> str:
        return self.s3.presigned(method, f"{self.name}/{key}", **more)


@contextmanager
def minio(directory: Path, pki: Pki | None = None) -> Iterator[S3]:
    """Run MinIO on `directory`; with `pki` by TLS."""
    need("minio")
    port, console = free_port(), free_port()
    s3 = _server(port, pki)
    command = [
        *(os.environ["TESP_TEST_MINIO"], "server", "--quiet", "--anonymous"),
        *("--address", f"{HOST}:{port}", "--console-address", f"{HOST}:{console}"),
        *("--certs-dir", str(_certificates(directory / "certs", pki)), str(directory / "data")),
    ]
    environ = {
        "MINIO_ROOT_USER": s3.access_key,
        "MINIO_ROOT_PASSWORD": s3.secret_key,
        "MINIO_UPDATE": "off",
        "HOME": str(directory),
    }
    (directory / "data").mkdir()
    with running(command, directory / "log", lambda: _serves(s3), environ):
        yield s3


@contextmanager
def seaweedfs(directory: Path, pki: Pki | None = None) -> Iterator[S3]:
    """Run SeaweedFS on `directory`; with `pki` its S3 side by TLS."""
    need("seaweedfs")
    master, volume, filer, port = _ports_with_grpc(4)
    s3 = _server(port, pki)
    (directory / "data").mkdir()
    tls = () if pki is None else (f"-s3.cert.file={pki.certificate}", f"-s3.key.file={pki.key}")
    command = [
        *(os.environ["TESP_TEST_WEED"], "server", f"-ip={HOST}", f"-ip.bind={HOST}", "-filer"),
        *(f"-dir={directory / 'data'}", "-s3", f"-s3.config={_identities(directory, s3)}", *tls),
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
        *(f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.volumeSizeLimitMB=64", "-volume.max=50", "-master.telemetry=false"),
    ]
    # Left to itself, it would take 10 s to end.
    with running(command, directory / "log", lambda: listens(port) and _serves(s3), stop_s=0):
        yield s3


def _server(port: int, pki: Pki | None) -> S3:
    return S3(
        endpoint=f"{'http' if pki is None else 'https'}://{HOST}:{port}",
        access_key=f"key{secrets.token_hex(8)}",
        secret_key=f"canary{secrets.token_hex(16)}",
        ca=None if pki is None else pki.ca,
    )


def _serves(s3: S3) -> bool:
    """Whether it keeps what it is given: SeaweedFS listens some seconds before it can."""
    with contextlib.suppress(BotoCoreError, ClientError, urllib.error.URLError):
        bucket = s3.bucket("is-up")
        bucket.put("probe", b"1")
        return bucket.get("probe") == b"1"
    return False


def _certificates(directory: Path, pki: Pki | None) -> Path:
    directory.mkdir()
    if pki is not None:
        shutil.copy(pki.certificate, directory / "public.crt")
        shutil.copy(pki.key, directory / "private.key")
    return directory


def _identities(directory: Path, s3: S3) -> Path:
    credentials = {"accessKey": s3.access_key, "secretKey": s3.secret_key}
    identity = {"name": "tester", "credentials": [credentials], "actions": ["Admin"]}
    path = directory / "s3.json"
    path.write_text(json.dumps({"identities": [identity]}))
    return path


def _ports_with_grpc(number: int) -> list[int]:
    ports = random.sample(PORTS, len(PORTS))
    free = (port for port in ports if not listens(port) and not listens(port + GRPC_OFFSET))
    return list(itertools.islice(free, number))


def _quoted(text: str) -> str:
    return quote(text, safe="~")
