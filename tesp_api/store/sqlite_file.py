"""Taking a database file for this process alone, and making it ours."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loguru import logger

from tesp_api.domain.errors import Misconfigured
from tesp_api.store import sqlite_news
from tesp_api.store.sqlite_schema import APPLICATION_ID, SCHEMA, STEPS, VERSION

_NETWORK: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs"}
    | {"nfs4", "smb2", "smb3", "smbfs"}
)
_NETWORK_FUSE: Final = (
    "sshfs",
    "glusterfs",
    "s3",
    "rclone",
    "ceph",
    "gcs",
    "goofys",
    "davfs",
    "smb",
    "juicefs",
    "beegfs",
    "gvfs",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of /proc/self/mountinfo: what of which kind is mounted where."""

    point: str
    kind: str

    @property
    def remote(self) -> bool:
        """Whether files there lie on another machine."""
        fuse = self.kind.removeprefix("fuse.")
        return self.kind in _NETWORK or (fuse != self.kind and fuse.startswith(_NETWORK_FUSE))


def mount_of(path: Path, mountinfo: str) -> Mount | None:
    """Return the mount that `path` lies on: the innermost, of several in one place the last."""
    over = [mount for mount in _mounts(mountinfo) if path.is_relative_to(mount.point)]
    return max(reversed(over), key=lambda mount: len(mount.point), default=None)


def _mounts(mountinfo: str) -> Iterator[Mount]:
    for line in mountinfo.splitlines():
        place, _, device = line.partition(" - ")
        escaped = place.split(" ")[4].encode(errors="surrogateescape")
        point = escaped.decode("unicode_escape")  # a blank stands there as \040
        yield Mount(
            point=point.encode("latin-1").decode(errors="surrogateescape"),
            kind=device.split(" ")[0],
        )


def take(path: Path, mountinfo: Path) -> int:
    """Make the file at `path` if need be; hold it until the returned descriptor is closed.

    The death of the process closes it too. Raises Misconfigured where the file lies on a network
    file system, cannot be written, or another process holds it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        told = mountinfo.read_text(errors="surrogateescape") if mountinfo.exists() else ""
        mount = mount_of(path, told)
        if mount is not None and mount.remote:
            raise Misconfigured(
                f"db.sqlite_path {path} is on a network file system"
                f" ({mount.kind} at {mount.point}), where SQLite loses data:"
                " choose a local disk, or MongoDB."
            )
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        return _lock(path.with_name(path.name + ".lock"))
    except OSError as error:
        raise Misconfigured(
            f"db.sqlite_path {path} cannot be used: {error.strerror} ({error.filename})."
        ) from error


def _lock(path: Path) -> int:
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.read(held, 20).decode(errors="replace").strip()
        os.close(held)
        raise Misconfigured(
            f"Another process{f' ({holder})' if holder else ''} uses {path.with_suffix('')}."
            " SQLite serves one process: end the other, or use MongoDB for several."
        ) from error
    os.truncate(held, 0)
    os.pwrite(held, str(os.getpid()).encode(), 0)
    return held


def connect(path: Path, patience_s: float) -> sqlite3.Connection:
    """Open a connection that begins no transactions by itself and may pass between threads."""
    return sqlite3.connect(path, timeout=patience_s, isolation_level=None, check_same_thread=False)


def prepare(db: sqlite3.Connection, path: Path, synchronous: str) -> None:
    """Make the tables if the file is new. Raises Misconfigured if it is foreign or too new."""
    try:
        application, version = _pragma(db, "application_id"), _pragma(db, "user_version")
        if version > VERSION and application == APPLICATION_ID:
            raise Misconfigured(
                f"{path} was written by a later version of this program"
                f" (schema {version}, this one knows {VERSION}): upgrade."
            )
        if (
            application != APPLICATION_ID
            and db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        ):
            raise Misconfigured(
                f"{path} is some other program's database: choose another db.sqlite_path."
            )
        if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise Misconfigured(f"{path} is where SQLite cannot keep a write-ahead log.")
        db.execute(f"PRAGMA synchronous = {synchronous}")
        for statements in _to_do(version):
            _do(db, statements)
        for statement in sqlite_news.SCHEMA:
            db.execute(statement)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise Misconfigured(f"{path} is no database that can be read: {error}.") from error


def _to_do(version: int) -> Iterator[Sequence[str]]:
    """Yield what is to be done to a file of that version; each is done wholly or not at all."""
    if version == 0:
        yield SCHEMA
        return
    for earlier in range(version, VERSION):
        logger.info("the store's file becomes one of schema {}", earlier + 1)
        yield STEPS[earlier]


def _do(db: sqlite3.Connection, statements: Sequence[str]) -> None:
    db.execute("BEGIN EXCLUSIVE")
    for statement in statements:
        db.execute(statement)
    db.execute("COMMIT")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])
