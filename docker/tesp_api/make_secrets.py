"""`make_secrets.py DIRECTORY`: makes the services' passwords once, each readable by its user alone.

`DIRECTORY/secrets` comes to be in one step, with all of them, and is never changed again: what the
database was set up with stays what the API logs in with.
"""

import os
import pwd
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Final

API_USER: Final = "tesp"
MONGODB_UID: Final = 999
"""Of the user mongodb in MongoDB's image."""
PULSAR_UID: Final = 0
"""Pulsar's container begins as root, which hands the token on."""

SETTINGS: Final = """\
[default]
db.mongodb_uri = "mongodb://tesp:{password}@tesp-db:27017/tesp?authSource=admin&authMechanism=SCRAM-SHA-256"
pulsar.private_token = "{token}"
"""


def main(directory: str) -> None:
    """Make them, unless they are there."""
    made = Path(directory, "secrets")
    if made.is_dir():
        return
    password, token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    new = Path(tempfile.mkdtemp(dir=directory))
    api_uid = pwd.getpwnam(API_USER).pw_uid
    _write(new / "tesp_api.toml", SETTINGS.format(password=password, token=token), api_uid)
    _write(new / "mongodb_password", password, MONGODB_UID)
    _write(new / "pulsar_token", token, PULSAR_UID)
    new.chmod(0o755)
    new.rename(made)


def _write(path: Path, text: str, uid: int) -> None:
    with path.open("x", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o400)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
        os.fchown(file.fileno(), uid, uid)


if __name__ == "__main__":
    main(*sys.argv[1:])
