"""`make_secrets.py DIRECTORY [amqp]`: makes the services' passwords once; says how to reach Pulsar.

Each file is readable by its user alone. `DIRECTORY/secrets` and `DIRECTORY/amqp` come to be in one
step, with all of them, and are never changed again: what the database was set up with stays what
the API logs in with. `DIRECTORY/settings.toml` leads to the API's settings: those in `amqp`, or by
REST.
"""

import base64
import hashlib
import json
import os
import pwd
import secrets
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

API_USER: Final = "tesp"
MONGODB_UID: Final = 999
"""Of the user mongodb in MongoDB's image."""
PULSAR_UID: Final = 0
"""Pulsar's container begins as root, which hands on what it needs."""
BROKER_UID: Final = 10004
"""As which docker-compose.yaml has RabbitMQ run."""
SEEN_S: Final = 3.0
"""By then an API that runs has seen the change; see follow.py."""

SETTINGS: Final = """\
[default]
db.mongodb_uri = "mongodb://tesp:{password}@tesp-db:27017/tesp?authSource=admin&authMechanism=SCRAM-SHA-256"
pulsar.private_token = "{token}"
"""
BY_AMQP: Final = 'pulsar.amqp_url = "{url}"\n'
RIGHTS: Final = {
    "tesp": {"read": "^pulsar(__status_update)?$", "write": "^pulsar(__[a-z_]+)?$"},
    "pulsar": {"read": "^pulsar(__(setup|kill|status))?$", "write": "^pulsar(__[a-z_]+)?$"},
}
"""Pulsar takes orders and tells what became of them; the API the other way round. Both declare all,
since nobody knows who comes first."""


def main(directory: str, transport: str = "rest") -> None:
    """Make what is not there yet, and choose."""
    volume = Path(directory)
    api_uid = pwd.getpwnam(API_USER).pw_uid
    if not (volume / "secrets").is_dir():
        _make(volume / "secrets", _first(api_uid))
    if not (volume / "amqp").is_dir():
        own = (volume / "secrets/tesp_api.toml").read_text(encoding="utf-8")
        _make(volume / "amqp", _for_amqp(own, api_uid))
    _choose(volume / "settings.toml", "amqp" if transport == "amqp" else "secrets")


def _first(api_uid: int) -> Mapping[str, tuple[str, int]]:
    password, token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    return {
        "tesp_api.toml": (SETTINGS.format(password=password, token=token), api_uid),
        "mongodb_password": (password, MONGODB_UID),
        "pulsar_token": (token, PULSAR_UID),
    }


def _for_amqp(settings: str, api_uid: int) -> Mapping[str, tuple[str, int]]:
    passwords = {user: secrets.token_urlsafe(32) for user in RIGHTS}
    urls = {user: f"amqp://{user}:{word}@rabbitmq:5672/tesp" for user, word in passwords.items()}
    return {
        "tesp_api.toml": (settings + BY_AMQP.format(url=urls["tesp"]), api_uid),
        "pulsar_url": (urls["pulsar"], PULSAR_UID),
        "definitions.json": (json.dumps(_definitions(passwords)), BROKER_UID),
    }


def _definitions(passwords: Mapping[str, str]) -> Mapping[str, object]:
    """Return what RabbitMQ sets up at its start."""
    hashing = "rabbit_password_hashing_sha256"
    return {
        "vhosts": [{"name": "tesp"}],
        "users": [
            {"name": name, "password_hash": _hash(word), "hashing_algorithm": hashing, "tags": []}
            for name, word in passwords.items()
        ],
        "permissions": [
            {"user": user, "vhost": "tesp", "configure": "^pulsar(__[a-z_]+)?$", **rights}
            for user, rights in RIGHTS.items()
        ],
    }


def _hash(password: str) -> str:
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _make(directory: Path, files: Mapping[str, tuple[str, int]]) -> None:
    new = Path(tempfile.mkdtemp(dir=directory.parent))
    for name, (text, uid) in files.items():
        _write(new / name, text, uid)
    new.chmod(0o755)
    new.rename(directory)


def _write(path: Path, text: str, uid: int) -> None:
    with path.open("x", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o400)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
        os.fchown(file.fileno(), uid, uid)


def _choose(link: Path, kind: str) -> None:
    """Have `link` lead to that kind of settings."""
    target = f"{kind}/tesp_api.toml"
    before = os.readlink(link) if link.is_symlink() else target
    new = link.with_name("settings.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(link)
    if kind == "amqp" and before != target:
        time.sleep(SEEN_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
