"""The other sides of transfers: real servers, each as the test looks at it, past all of ours."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

from tests.e2e.stack import TRANSPORT, Stack, begin_stack
from tests.servers.ftp import Ftp, ftp
from tests.servers.http import Web, nginx
from tests.servers.pki import pki
from tests.servers.s3 import S3, Bucket, minio, seaweedfs

NAMES: Final = ("http", "token", "https", "ftp", "ftps", "minio", "weed", "gs", "file", "bound")


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Side(Protocol):
    """Somewhere that files come from and go to; paths are relative, without a slash before."""

    def url(self, path: str) -> str: ...
    def put(self, path: str, content: bytes) -> None: ...
    def get(self, path: str) -> bytes: ...
    def names(self, below: str) -> Sequence[str]:
        """Return all files below a directory, named from there, in order."""


@dataclass(frozen=True)
class Disk:
    """A server of which the test knows the directory."""

    base: str
    files: Path

    def url(self, path: str) -> str:
        return f"{self.base}/{quote(path)}"

    def put(self, path: str, content: bytes) -> None:
        file = self.files / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def get(self, path: str) -> bytes:
        return (self.files / path).read_bytes()

    def names(self, below: str) -> Sequence[str]:
        top = self.files / below
        return sorted(str(file.relative_to(top)) for file in top.rglob("*") if file.is_file())


@dataclass(frozen=True)
class Objects:
    """A bucket; its URLs are not encoded."""

    scheme: str
    bucket: Bucket

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.bucket.name}/{path}"

    def put(self, path: str, content: bytes) -> None:
        self.bucket.put(path, content)

    def get(self, path: str) -> bytes:
        return self.bucket.get(path)

    def names(self, below: str) -> Sequence[str]:
        return sorted(name.removeprefix(f"{below}/") for name in self.bucket.names(f"{below}/"))


@dataclass(frozen=True, kw_only=True)
class Site:
    """All servers, and what ours has to know to get at them."""

    web: Web
    ftp: Ftp
    ftps: Ftp
    minio: S3
    weed: S3
    secure: S3
    directory: Path
    sides: Mapping[str, Side]

    @property
    def secrets(self) -> Sequence[str]:
        """What nobody but our server and the other side may ever see."""
        keys = [one.secret_key for one in (self.minio, self.weed, self.secure)]
        return (self.web.password, self.web.token, self.ftp.password, self.ftps.password, *keys)

    @property
    def entries(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """The lists of `[storage]`."""
        user = {"username": self.web.username, "password": self.web.password}
        return {
            "http": [
                {"prefixes": [f"{self.web.base}/private/", f"{self.web.tls}/private/"], **user},
                {"prefixes": [f"{self.web.base}/token/"], "token": self.web.token},
            ],
            "ftp": [
                {"prefixes": [one.url("")], "username": one.username, "password": one.password}
                for one in (self.ftp, self.ftps)
            ],
            "s3": [
                entry(self.minio, "s3://lab/"),
                entry(self.weed, "s3://weed/"),
                entry(self.secure, "gs://cloud/"),
            ],
        }

    @property
    def environment(self) -> dict[str, str]:
        """The settings that are no secrets."""
        modes = {"file": "copy", "bound": "bind", "shared": "bind_rw"}
        roots = [{"path": str(self.directory / name), "mode": modes[name]} for name in modes]
        return {
            "TESP_LOGGING__LEVEL": "DEBUG",
            "TESP_STORAGE__CA_FILE": str(self.web.ca),
            "TESP_STORAGE__FILE__ROOTS": json.dumps(roots),
        }


def entry(s3: S3, *prefixes: str, **more: Any) -> dict[str, Any]:
    """Return an entry of `storage.s3`."""
    keys = {"access_key": s3.access_key, "secret_key": s3.secret_key}
    return {"prefixes": list(prefixes), "endpoint": s3.endpoint, **keys, **more}


@contextmanager
def sites(directory: Path) -> Iterator[Site]:
    """Run all of them."""

    def made(name: str) -> Path:
        (directory / name).mkdir()
        return directory / name

    with ExitStack() as running:
        ca = pki(directory / "pki")
        web = running.enter_context(nginx(made("nginx"), ca))
        plain = running.enter_context(ftp(made("ftp")))
        secure = running.enter_context(ftp(made("ftps"), ca))
        store = running.enter_context(minio(made("minio")))
        by_tls = running.enter_context(minio(made("minio-tls"), ca))
        weed = running.enter_context(seaweedfs(made("weed")))
        sides: dict[str, Side] = {
            "http": Disk(f"{web.base}/private/http", web.files / "http"),
            "token": Disk(f"{web.base}/token/token", web.files / "token"),
            "https": Disk(f"{web.tls}/private/https", web.files / "https"),
            "ftp": Disk(plain.url("top"), plain.files / "top"),
            "ftps": Disk(secure.url("top"), secure.files / "top"),
            "minio": Objects("s3", store.bucket("lab")),
            "weed": Objects("s3", weed.bucket("weed")),
            "gs": Objects("gs", by_tls.bucket("cloud")),
            "file": Disk(made("file").as_uri(), directory / "file"),
            "bound": Disk(made("bound").as_uri(), directory / "bound"),
        }
        made("shared")
        yield Site(
            web=web,
            ftp=plain,
            ftps=secure,
            minio=store,
            weed=weed,
            secure=by_tls,
            directory=directory,
            sides=sides,
        )


@contextmanager
def data_stack(
    directory: Path,
    engine: str,
    entries: Mapping[str, Sequence[Mapping[str, Any]]],
    transport: str = TRANSPORT,
    **settings: str,
) -> Iterator[Stack]:
    """Run server and Pulsar with all credentials in `.secrets.toml`, none in the environment."""
    write_secrets(directory / "api", entries)
    stack = begin_stack(directory, engine, transport, **settings)
    try:
        stack.pulsar.wait_until_up()
        stack.api.wait_until_up()
        yield stack
    finally:
        stack.stop()


def write_secrets(directory: Path, entries: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write the lists of `[storage]` as the tables of `.secrets.toml`."""
    directory.mkdir(parents=True)
    tables = [
        "\n".join(
            [f"[[default.storage.{name}]]", *(f"{k} = {json.dumps(v)}" for k, v in one.items())]
        )
        for name, ones in entries.items()
        for one in ones
    ]
    (directory / ".secrets.toml").write_text("\n\n".join(tables) + "\n")
