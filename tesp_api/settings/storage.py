"""Where inputs come from and outputs go, and whom the server's credentials and roots serve."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, Strict, model_validator

from tesp_api.settings.section import (
    BLANK_IS_NONE,
    Directory,
    File,
    HttpUrl,
    Secret,
    Section,
    Text,
)

GIB: Final = 1024**3
WEEK_S: Final = 604_800
"""Longer no signature is good."""
OWNER: Final = "{owner}"
AMAZON: Final = "https://s3.{region}.amazonaws.com"
GOOGLE: Final = "https://storage.googleapis.com"


def _prefix(*schemes: str, host: bool) -> Callable[[str], str]:
    """Return the check of a URL prefix; `host` where it has to name one."""

    def check(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in schemes or "://" not in value:
            known = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"it should begin with {known}")
        if mistake := _prefix_mistake(parts, host):
            raise ValueError(f"it should {mistake}")
        return value

    return check


def _prefix_mistake(parts: SplitResult, host: bool) -> str | None:
    if host and not parts.hostname:
        return "name a host"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "have no user, query or fragment"
    if OWNER in parts.netloc or "{" in parts.path.replace(OWNER, ""):
        return f"have {OWNER} in its path, and no other braces"
    if not {".", ".."}.isdisjoint(unquote(parts.path).split("/")):
        return "have no '.' or '..' in it"
    return None


def _endpoint(value: str) -> str:
    parts = urlsplit(value)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("it should have no user, query or fragment")
    return value


def _root(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


def _inner(value: Path) -> Path:
    if ".." in value.parts or "{" in str(value).replace(OWNER, ""):
        raise ValueError(f"it should have no '..' in it, and no other braces than {OWNER}")
    return value


def _some(value: tuple[str, ...]) -> tuple[str, ...]:
    # Not by the field's own least length, which is told of wrong ones as well.
    if not value:
        raise ValueError("it should name at least one")
    return value


SOME: Final = AfterValidator(_some)
HttpPrefix = Annotated[str, AfterValidator(_prefix("http", "https", host=True))]
FtpPrefix = Annotated[str, AfterValidator(_prefix("ftp", "ftps", host=True))]
ObjectPrefix = Annotated[str, AfterValidator(_prefix("s3", "gs", host=False))]
Endpoint = Annotated[Annotated[HttpUrl, AfterValidator(_endpoint)] | None, BLANK_IS_NONE]
Owner = Annotated[str, Field(min_length=1)]


class Granted(Section):
    """Something of the server's that serves some tasks."""

    owners: Annotated[tuple[Owner, ...], Strict(False)] | None = None  # a root is not read as JSON
    """Whose tasks it serves: owners (`issuer|subject`, or `basic:` and the user name), or `*` for
    everybody's. Without it: everybody's where there is no authentication, else nobody's."""


class FileRoot(Granted):
    """A directory of the node."""

    path: Annotated[Directory, AfterValidator(_inner)]
    """The directory; `{owner}` in it stands for the task's owner, percent-encoded."""
    mode: Literal["copy", "bind", "bind_rw"] = "copy"
    """How files below it become inputs: copied; or bound, read-only or read-write, where client and
    node share the file system."""


class FileStorage(Section):
    """`file://` URLs."""

    roots: tuple[Annotated[FileRoot, BeforeValidator(_root)], ...] = ()
    """Directories on the node below which tasks may read and write by `file://` or a bare path;
    none, no such URLs. A plain text is a `path`."""


class HttpLogin(Granted):
    """Credentials for web servers."""

    prefixes: Annotated[tuple[HttpPrefix, ...], SOME]
    """The URLs below which they are sent; `{owner}` in it stands for the task's owner,
    percent-encoded (in a URL its `%` is `%25`). The longest prefix that fits counts."""
    username: str = ""
    """User name."""
    password: SecretStr = SecretStr("")
    """Password."""
    token: Secret = None
    """Bearer token, instead of user name and password."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.username) == bool(self.token):
            raise ValueError("it should have either `username` and `password`, or `token`")
        return self


class FtpLogin(Granted):
    """Credentials for FTP servers."""

    prefixes: Annotated[tuple[FtpPrefix, ...], SOME]
    """As those of `storage.http`."""
    username: str = Field(min_length=1)
    """User name."""
    password: SecretStr
    """Password."""


class S3Entry(Granted):
    """Buckets and how to get at them."""

    prefixes: Annotated[tuple[ObjectPrefix, ...], SOME]
    """The URLs it is for: `s3://` or `gs://` for all buckets, `s3://bucket/{owner}/` for each
    owner's own names in one. The longest prefix that fits counts."""
    endpoint: Endpoint = None
    """URL of the service; without it Amazon's, or Google's for `gs://`."""
    region: str = Field("us-east-1", min_length=1)
    """Region of the buckets."""
    style: Literal["path", "virtual"] | None = None
    """Whether buckets are in the URL's path, or each a host of its own. Without it: virtual for
    Amazon, else path."""
    access_key: Secret = None
    """Access key. Without keys botocore looks for them: environment, profiles, the machine's
    role."""
    secret_key: Secret = None
    """Secret key."""
    session_token: Secret = None
    """Session token of temporary keys."""
    profile: Text = None
    """Profile in the server's own `~/.aws` to take the keys from."""
    anonymous: bool = False
    """Whether the buckets are public: nothing is signed."""
    multipart_bytes: int = Field(GIB, ge=1, le=5 * GIB)
    """Larger files are sent in parts."""

    @property
    def url(self) -> str:
        """The endpoint, given or not."""
        if self.endpoint is not None:
            return self.endpoint
        if self.prefixes[0].startswith("gs:"):
            return GOOGLE
        china = ".cn" if self.region.startswith("cn-") else ""
        return AMAZON.format(region=self.region) + china

    @property
    def addressing(self) -> Literal["path", "virtual"]:
        """The style, given or not."""
        return self.style or ("virtual" if ".amazonaws.com" in self.url else "path")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("`access_key` and `secret_key` need each other")
        if self.session_token is not None and self.access_key is None:
            raise ValueError("`session_token` needs `access_key` and `secret_key`")
        if sum((self.access_key is not None, self.profile is not None, self.anonymous)) > 1:
            raise ValueError("only one of `access_key`, `profile` and `anonymous` should be given")
        if self.endpoint is None and len({text[:2] for text in self.prefixes}) > 1:
            raise ValueError("s3:// and gs:// need an entry each, or an `endpoint`")
        return self


class Storage(Section):
    """Where inputs come from and outputs go."""

    parallel: int = Field(4, ge=1, le=64)
    """Transfers at a time of one task."""
    attempts: int = Field(5, ge=1, le=100)
    """How often a transfer is tried that was cut short or put off."""
    timeout_s: float = Field(60, gt=0)
    """Longest wait for the other side of a transfer to go on, in seconds."""
    presign_s: int = Field(43_200, ge=60, le=WEEK_S)
    """How long a URL that the server signs for the node is good, in seconds."""
    ca_file: File = None
    """Certificates (PEM) to trust for data beside the system's, on the server and the nodes."""
    file: FileStorage = FileStorage()
    http: tuple[HttpLogin, ...] = ()
    """Credentials for web servers. Other `http(s)://` URLs are public, or hold the user's own."""
    ftp: tuple[FtpLogin, ...] = ()
    """Credentials for FTP servers. Other `ftp(s)://` URLs are anonymous, or hold the user's own."""
    s3: tuple[S3Entry, ...] = ()
    """Buckets, of any service that speaks S3; none, no `s3://` and `gs://` URLs."""
