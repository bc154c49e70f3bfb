"""A RabbitMQ node of the test's own: to be stopped and started, with TLS, users and hosts."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.needs import need
from tests.pulsars import HOST, free_port, until

BIN: Final = Path("/usr/lib/rabbitmq/bin")
START_S: Final = 90
ACCOUNT: Final = "rabbitmq"


class Broker:
    """A node with the user `guest`; what it keeps survives `stop` and `start`.

    `more` are lines of its configuration; with `tls` there is a second listener, which wants a
    client's certificate.
    """

    def __init__(self, *more: str, tls: bool = False) -> None:
        need("rabbitmq")
        need("root")
        self.port, self.tls_port, self._dist_port = (free_port(HOST) for _ in range(3))
        # Not in pytest's own directory, which the node's account may not enter.
        self.directory = Path(tempfile.mkdtemp(prefix="tesp-broker-"))
        self.tls = self.directory / "tls"
        self._process: subprocess.Popen[bytes] | None = None
        lines = [f"listeners.tcp.1 = {HOST}:{self.port}", *more]
        if tls:
            make_certificates(self.tls)
            lines += [
                f"listeners.ssl.1 = {HOST}:{self.tls_port}",
                f"ssl_options.cacertfile = {self.tls}/ca.pem",
                f"ssl_options.certfile = {self.tls}/server.pem",
                f"ssl_options.keyfile = {self.tls}/server.key",
                "ssl_options.verify = verify_peer",
                "ssl_options.fail_if_no_peer_cert = true",
            ]
        for name in ("mnesia", "log"):
            (self.directory / name).mkdir()
        (self.directory / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.directory / "enabled_plugins").write_text("[].")
        subprocess.run(["chown", "-R", f"{ACCOUNT}:", str(self.directory)], check=True)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory)

    def tls_url(self) -> str:
        return f"amqps://guest:guest@{HOST}:{self.tls_port}/%2F"

    def url(self, user: str = "guest", password: str = "guest", vhost: str = "%2F") -> str:
        return f"amqp://{user}:{password}@{HOST}:{self.port}/{vhost}"

    def start(self) -> None:
        (self.directory / "pid").unlink(missing_ok=True)
        with (self.directory / "node.log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(BIN / "rabbitmq-server")],
                cwd=self.directory,
                env=self._environ(),
                user=ACCOUNT,
                group=ACCOUNT,
                extra_groups=[],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until((self.directory / "pid").exists, START_S, lambda: "no pid of RabbitMQ")
        self.ctl("--timeout", str(START_S), "wait", str(self.directory / "pid"))

    def stop(self) -> None:
        """End it by its number; what was confirmed is on the disk."""
        if self._process is None:
            return
        pid = int((self.directory / "pid").read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 15)
        self._process.wait(30)
        self._process = None

    def ctl(self, *words: str) -> str:
        done = subprocess.run(
            [str(BIN / "rabbitmqctl"), "-q", *words],
            cwd=self.directory,
            env=self._environ(),
            user=ACCOUNT,
            group=ACCOUNT,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def _environ(self) -> dict[str, str]:
        home = self.directory
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "ERL_EPMD_ADDRESS": HOST,
            "RABBITMQ_NODENAME": f"tesp{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
        }


def make_certificates(directory: Path) -> None:
    """Make an authority, a server's and a client's certificate there, readable by all."""
    directory.mkdir()
    authority = ["-x509", "-subj", "/CN=test authority", "-days", "2"]
    _openssl("req", *_key(directory, "ca"), *authority, "-out", f"{directory}/ca.pem")
    for name, subject in (("server", HOST), ("client", "tesp")):
        request = directory / f"{name}.csr"
        _openssl("req", *_key(directory, name), "-subj", f"/CN={subject}", "-out", str(request))
        names = directory / f"{name}.ext"
        names.write_text(f"subjectAltName = IP:{HOST}\n")
        signed = ["-CA", f"{directory}/ca.pem", "-CAkey", f"{directory}/ca.key", "-CAcreateserial"]
        wanted = ["-in", str(request), "-out", f"{directory}/{name}.pem", "-days", "2"]
        _openssl("x509", "-req", *signed, *wanted, "-extfile", str(names))
    for path in directory.iterdir():
        path.chmod(0o644)


def _key(directory: Path, name: str) -> Sequence[str]:
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    return [*curve, "-noenc", "-keyout", f"{directory}/{name}.key"]


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
