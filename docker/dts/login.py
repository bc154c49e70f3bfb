"""`login.py LOGIN DATA`: makes the stack's directories and its one login, once; tells it who asks.

`LOGIN/login.json` is the last file to come to be: where it is, the others are. Told is the login
on a terminal or to `docker compose run` alone, so that it is in no log of `docker compose up`.
"""

import json
import os
import secrets
import sys
from pathlib import Path
from typing import Final

USER: Final = 10003
"""Whom the servers run as."""

NAME: Final = "tesp"
BUCKET: Final = "files"
DIRECTORIES: Final = ("s3", f"s3/{BUCKET}", "tmp")


def main(login: str, data: str) -> None:
    """Make what is missing."""
    for name in DIRECTORIES:
        _make_directory(Path(data, name))
    made = Path(login, "login.json")
    if not made.exists():
        _make_login(Path(login), made)
    if sys.stdout.isatty() or "DTS_TELL" in os.environ:
        known = json.loads(made.read_text(encoding="utf-8"))
        sys.stdout.write(f"user {known['username']}\npassword {known['password']}\n")


def _make_directory(path: Path) -> None:
    path.mkdir(exist_ok=True)
    os.chown(path, USER, USER)


def _make_login(directory: Path, last: Path) -> None:
    password = secrets.token_hex(16)
    _write(directory / "s3.env", f"ROOT_ACCESS_KEY={NAME}\nROOT_SECRET_KEY={password}\n")
    _write(directory / "users", f"{NAME}:{{PLAIN}}{password}\n")
    _write(last, json.dumps({"username": NAME, "password": password}))


def _write(path: Path, text: str) -> None:
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with new.open("x", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o400)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
        os.fchown(file.fileno(), USER, USER)
    new.rename(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
