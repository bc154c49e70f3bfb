"""The first process of Pulsar's container: makes its settings, becomes an ordinary user, ends all.

With PULSAR_TRANSPORT=amqp Pulsar takes its orders from RabbitMQ, else by REST.

PULSAR_DIRECTORY must be a directory of the host, mounted at the same path, since the host's Docker
mounts parts of it into the tasks' containers. Pulsar runs as its owner, or, where that is root, as
the image's user `pulsar`, who then comes to own it; and in the group that has the Docker socket,
unless apptainer is in the image.

When the container is stopped, the jobs are ended before it, in time for their watchdogs to remove
the tasks' containers: those belong to the host and would go on.
"""

import contextlib
import json
import os
import pwd
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

SOCKET: Final = Path("/var/run/docker.sock")
TOKEN: Final = Path("/run/tesp/secrets/pulsar_token")
BROKER: Final = Path("/run/tesp/amqp/pulsar_url")
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
    by_amqp = os.environ.get("PULSAR_TRANSPORT") == "amqp"
    secret = (BROKER if by_amqp else TOKEN).read_text(encoding="utf-8")
    become(*owner(directory), groups=socket_groups())
    command = (configure_amqp if by_amqp else configure_rest)(directory, secret)
    os.chdir(HOME)  # where it makes more directories, of no use here
    signal.signal(signal.SIGTERM, farewell)
    environ = {**os.environ, "HOME": str(HOME), "USER": USER}
    pulsar = os.posix_spawnp(command[0], command, environ)
    while True:
        pid, status = os.wait()  # also for the orphans: this is process 1
        if pid == pulsar:
            farewell(status=os.waitstatus_to_exitcode(status))


def socket_groups() -> Sequence[int]:
    """Return the group that may use the host's Docker; none where apptainer takes its place."""
    if SOCKET.is_socket():
        return [SOCKET.stat().st_gid]
    if shutil.which("apptainer"):
        return []
    sys.exit(f"There is no socket {SOCKET}: mount the host's there.")


def owner(directory: Path) -> tuple[int, int]:
    """Return user and group of `directory`; one of root's is given away first."""
    found = directory.stat()
    if found.st_uid == 0:
        user = pwd.getpwnam(USER)
        os.chown(directory, user.pw_uid, user.pw_gid)
        return user.pw_uid, user.pw_gid
    if shutil.which("apptainer") and found.st_uid not in {user.pw_uid for user in pwd.getpwall()}:
        sys.exit(f"apptainer refuses a user without a name: give {directory} to root.")
    return found.st_uid, found.st_gid


def become(uid: int, gid: int, *, groups: Sequence[int]) -> None:
    """Give up root for good."""
    os.chown(HOME, uid, gid)
    os.setgroups(groups)
    os.setgid(gid)
    os.setuid(uid)


def configure_rest(directory: Path, token: str) -> Sequence[str]:
    """Write Pulsar's settings, and return the command that serves by them."""
    server = (
        f"[server:main]\nhost = 0.0.0.0\nport = {PORT}\n\n"
        "[app:main]\npaste.app_factory = pulsar.web.wsgi:app_factory\n"
        f"app_config = {HOME / 'app.yml'}\n"
    )
    configure(directory, directory, {"private_token": token})
    (HOME / "server.ini").write_text(server, encoding="utf-8")
    return ["pulsar-serve", str(HOME / "server.ini")]


def configure_amqp(directory: Path, url: str) -> Sequence[str]:
    """Do the same for messages; its jobs are beside those by REST, of another Pulsar."""
    own = directory / "amqp"
    own.mkdir(mode=0o700, exist_ok=True)
    configure(directory, own, {"message_queue_url": url})
    return ["pulsar-main", "--app_conf_path", str(HOME / "app.yml")]


def configure(directory: Path, own: Path, more: Mapping[str, Any]) -> None:
    """Make Pulsar's directories, and its settings for its own eyes."""
    (directory / "files").mkdir(mode=0o755, exist_ok=True)
    for name in ("staging", "persisted_data"):
        (own / name).mkdir(mode=0o700, exist_ok=True)
    app = {
        "staging_directory": str(own / "staging"),
        "persistence_directory": str(own / "persisted_data"),
        "managers": {"_default_": {"type": "queued_python"}},
        **more,
    }
    settings = HOME / "app.yml"
    settings.touch(mode=0o600)
    settings.write_text(json.dumps(app), encoding="utf-8")  # JSON is YAML


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
