"""FTP and FTPS: pyftpdlib, which can be told to misbehave, and vsftpd, which HPC sites have."""

import ftplib
import json
import os
import secrets
import ssl
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.needs import need
from tests.servers.pki import Pki
from tests.servers.process import HOST, free_port, listens, running

PROGRAM = Path(__file__).with_name("ftp_process.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ftp:
    """A server with one user; `files` is what the user sees as `/`.

    `log` tells every command, passwords left out, and every transfer.
    """

    port: int
    username: str
    password: str
    files: Path
    log: Path
    ca: Path | None = None

    def url(self, path: str, *, login: bool = False) -> str:
        """Return the URL of a file, the user's login in it or not."""
        scheme = "ftp" if self.ca is None else "ftps"
        user = f"{self.username}:{self.password}@" if login else ""
        return f"{scheme}://{user}{HOST}:{self.port}/{path.lstrip('/')}"

    def client(self, password: str | None = None) -> ftplib.FTP:
        """Return a client that is logged in, over a protected data connection with FTPS."""
        ftp = self._connected()
        try:
            ftp.login(self.username, self.password if password is None else password)
            if isinstance(ftp, ftplib.FTP_TLS):
                ftp.prot_p()
        except BaseException:
            ftp.close()
            raise
        return ftp

    def _connected(self) -> ftplib.FTP:
        if self.ca is None:
            plain = ftplib.FTP(timeout=10)
            plain.connect(HOST, self.port)
            return plain
        secure = ftplib.FTP_TLS(timeout=10, context=ssl.create_default_context(cafile=self.ca))
        secure.connect(HOST, self.port)
        return secure


@contextmanager
def ftp(
    directory: Path,
    pki: Pki | None = None,
    *,
    anonymous: bool = False,
    without: Sequence[str] = (),
    cut_after: int | None = None,
    cut_times: int = 1,
    liar: bool = False,
    busy_times: int = 0,
) -> Iterator[Ftp]:
    """Run pyftpdlib on `directory/files`; with `pki` explicit FTPS, and nothing in the clear.

    `anonymous` lets anybody read. Commands in `without` are unknown to the server. The first
    `cut_times` files, either way, are cut after `cut_after` bytes: the data connection is reset;
    a `liar` closes it in order and says that all is well. The first `busy_times` transfers are
    answered with 450.
    """
    server = _server(directory, pki)
    orders = {
        "host": HOST,
        "port": server.port,
        "username": server.username,
        "password": server.password,
        "directory": str(server.files),
        "certificate": None if pki is None else str(pki.both),
        "anonymous": anonymous,
        "without": list(without),
        "cut_after": cut_after,
        "cut_times": cut_times,
        "liar": liar,
        "busy_times": busy_times,
    }
    path = directory / "orders.json"
    path.write_text(json.dumps(orders))
    command = [sys.executable, str(PROGRAM), str(path)]
    with running(command, server.log, lambda: listens(server.port)):
        yield server


@contextmanager
def vsftpd(directory: Path, pki: Pki | None = None) -> Iterator[Ftp]:
    """Run vsftpd on `directory/files`, as root; with `pki` explicit FTPS, and nothing in the clear.

    Its user is known to PAM alone; the files belong to root.
    """
    need("vsftpd")
    server = replace(
        _server(directory, pki),
        username=os.environ["TESP_TEST_FTP_USERNAME"],
        password=os.environ["TESP_TEST_FTP_PASSWORD"],
    )
    configuration = directory / "vsftpd.conf"
    configuration.write_text("".join(f"{k}={v}\n" for k, v in _vsftpd(server, pki).items()))
    with running(["vsftpd", str(configuration)], server.log, lambda: listens(server.port)):
        yield server


def _vsftpd(server: Ftp, pki: Pki | None) -> Mapping[str, object]:
    return {
        "listen": "YES",
        "listen_address": HOST,
        "listen_port": server.port,
        "background": "NO",
        "seccomp_sandbox": "NO",
        "pam_service_name": os.environ["TESP_TEST_FTP_PAM"],
        "local_enable": "YES",
        "guest_enable": "YES",
        "guest_username": "root",
        "virtual_use_local_privs": "YES",
        "chroot_local_user": "YES",
        "allow_writeable_chroot": "YES",
        "local_root": server.files,
        "write_enable": "YES",
        "local_umask": "022",
        "ls_recurse_enable": "NO",
        "secure_chroot_dir": server.files.parent,
        "xferlog_enable": "YES",
        "vsftpd_log_file": server.log,
        **({} if pki is None else _vsftpd_tls(pki)),
    }


def _vsftpd_tls(pki: Pki) -> Mapping[str, object]:
    return {
        "ssl_enable": "YES",
        "rsa_cert_file": pki.certificate,
        "rsa_private_key_file": pki.key,
        "force_local_logins_ssl": "YES",
        "force_local_data_ssl": "YES",
        "require_ssl_reuse": "NO",
        "ssl_ciphers": "HIGH",
    }


def _server(directory: Path, pki: Pki | None) -> Ftp:
    files = directory / "files"
    files.mkdir()
    return Ftp(
        port=free_port(),
        username="tester",
        password=f"canary{secrets.token_hex(8)}",
        files=files,
        log=directory / "log",
        ca=None if pki is None else pki.ca,
    )
