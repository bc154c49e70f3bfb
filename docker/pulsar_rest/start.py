"""The first process of Pulsar's container: makes its settings, becomes an ordinary user, ends all.

PULSAR_DIRECTORY must be a directory of the host, mounted at the same path, since the host's Docker
mounts parts of it into the tasks' containers. Pulsar runs as its owner, or, where that is root, as
the image's user `pulsar`, who then comes to own it; and in the group that has the Docker socket.

When the container is stopped, the jobs are ended before it, in time for their watchdogs to remove
the tasks' containers: those belong to the host and would go on.
"""

import contextlib
import json
import os
import pwd
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

SOCKET: Final = Path("/var/run/docker.sock")
TOKEN: Final = Path("/run/tesp/secrets/pulsar_token")
HOME: Final = Path("/run/pulsar")
USER: Final = "pulsar"
PORT: Final = 8913
FAREWELL_S: Final = 20
"""How long the jobs' watchdogs may take; docker-compose.yaml grants the container more."""


def main() -> None:
    """Run Pulsar until it ends or is to end."""
    directory = Path(os.environ["PULSAR_DIRECTORY"])
    if not directory.is_absolute() or not directory.is_mount():
        sys.exit(f"PULSAR_DIRECTORY: {directory} is not a directory of the host, mounted here.")
    token = TOKEN.read_text(encoding="utf-8")
    become(*owner(directory), group=socket_group())
    configure(directory, token)
    os.chdir(HOME)  # where it makes more directories, of no use here
    signal.signal(signal.SIGTERM, farewell)
    pulsar = os.posix_spawnp(
        "pulsar-serve",
        ["pulsar-serve", str(HOME / "server.ini")],
        {**os.environ, "HOME": str(HOME), "USER": USER},
    )
    while True:
        pid, status = os.wait()  # also for the orphans: this is process 1
        if pid == pulsar:
            farewell(status=os.waitstatus_to_exitcode(status))


def socket_group() -> int:
    """Return the group that may use the host's Docker."""
    if not SOCKET.is_socket():
        sys.exit(f"There is no socket {SOCKET}: mount the host's there.")
    return SOCKET.stat().st_gid


def owner(directory: Path) -> tuple[int, int]:
    """Return user and group of `directory`; one of root's is given away first."""
    found = directory.stat()
    if found.st_uid == 0:
        user = pwd.getpwnam(USER)
        os.chown(directory, user.pw_uid, user.pw_gid)
        return user.pw_uid, user.pw_gid
    return found.st_uid, found.st_gid


def become(uid: int, gid: int, *, group: int) -> None:
    """Give up root for good."""
    os.chown(HOME, uid, gid)
    os.setgroups([group])
    os.setgid(gid)
    os.setuid(uid)


def configure(directory: Path, token: str) -> None:
    """Write Pulsar's settings, for its own eyes, and make its directories."""
    for name, mode in ("staging", 0o700), ("persisted_data", 0o700), ("files", 0o755):
        (directory / name).mkdir(mode=mode, exist_ok=True)
    app = {
        "staging_directory": str(directory / "staging"),
        "persistence_directory": str(directory / "persisted_data"),
        "private_token": token,
        "managers": {"_default_": {"type": "queued_python"}},
    }
    server = (
        f"[server:main]\nhost = 0.0.0.0\nport = {PORT}\n\n"
        "[app:main]\npaste.app_factory = pulsar.web.wsgi:app_factory\n"
        f"app_config = {HOME / 'app.yml'}\n"
    )
    os.umask(0o077)
    (HOME / "app.yml").write_text(json.dumps(app), encoding="utf-8")  # JSON is YAML
    (HOME / "server.ini").write_text(server, encoding="utf-8")
    os.umask(0o022)


def farewell(_signal: int = 0, _frame: FrameType | None = None, *, status: int = 0) -> NoReturn:
    """End everything but the jobs' watchdogs, who do not obey SIGTERM; wait for those, and exit."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    signal.alarm(FAREWELL_S)
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGTERM)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    sys.exit(status)


if __name__ == "__main__":
    main()
