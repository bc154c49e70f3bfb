"""A node for the runner: job directories like Pulsar's, real engines, an HTTP server with moods."""

import base64
import json
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tesp_api.pulsar.wire import Parcels
from tests.needs import need
from tests.servers import http, s3
from tests.servers.pki import Pki, pki

ENGINES = ("docker", "podman", "apptainer", "host")
IMAGE = "ubuntu:20.04"
LIMIT_S = 120


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One engine as an order names it."""

    kind: str
    program: str
    global_args: Sequence[str] = ()
    run_args: Sequence[str] = ()
    image_roots: Sequence[str] = ()
    image_schemes: Sequence[str] = ("docker", "oras", "library", "shub")
    pull_timeout_s: int = 60

    @property
    def noshell(self) -> str:
        """The image that holds one static program and no shell."""
        return f"{self.image_roots[0]}/noshell.sif" if self.image_roots else "tesp-test/noshell:1"

    @property
    def user_image(self) -> str:
        """The image whose user is 1000 (Apptainer and host know no such thing)."""
        return f"{self.image_roots[0]}/user.sif" if self.image_roots else "tesp-test/user:1"

    def containers(self, job: str) -> list[str]:
        """Return the containers of the job that the engine still knows."""
        if self.kind not in {"docker", "podman"}:
            return []
        argv = [self.program, *self.global_args, "ps", "--all", "--quiet", "--filter"]
        argv.append(f"label=tesp.job={job}")
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()


def engine_named(kind: str) -> Engine:
    need({"host": "userns"}.get(kind, kind))
    if kind == "podman":
        first, second = (
            shlex.split(os.environ.get(f"TESP_TEST_PODMAN_{name}", ""))
            for name in ("GLOBAL_ARGS", "RUN_ARGS")
        )
        return Engine(kind=kind, program=kind, global_args=first, run_args=second)
    if kind == "apptainer":
        root = os.environ["TESP_TEST_APPTAINER_IMAGE_ROOT"]
        return Engine(kind=kind, program=kind, image_roots=(root,))
    return Engine(kind=kind, program=kind)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return engine_named(request.param)


@pytest.fixture(params=["docker", "podman"])
def daemon(request: pytest.FixtureRequest) -> Engine:
    """An engine whose containers are not the runner's children."""
    return engine_named(request.param)


@pytest.fixture
def docker() -> Engine:
    return engine_named("docker")


@pytest.fixture
def host() -> Engine:
    return engine_named("host")


@pytest.fixture
def apptainer() -> Engine:
    return engine_named("apptainer")


@dataclass(frozen=True)
class Report:
    """What the runner said."""

    document: Mapping[str, Any]
    stderr: str
    seconds: float
    directory: Path

    @property
    def outcome(self) -> str:
        return self.document["outcome"]

    @property
    def reason(self) -> str:
        return self.document["reason"]

    @property
    def log(self) -> str:
        return "\n".join(self.document["log"])

    @property
    def outputs(self) -> list[dict[str, Any]]:
        return self.document["outputs"]

    @property
    def codes(self) -> list[int]:
        return [one["exit_code"] for one in self.document["executors"]]

    def stdout(self, index: int = 0) -> str:
        return self.document["executors"][index]["stdout"]

    def stderr_of(self, index: int = 0) -> str:
        return self.document["executors"][index]["stderr"]

    def complete(self) -> "Report":
        """Return itself, when the task is complete."""
        assert self.outcome == "complete", json.dumps(self.document, indent=1) + self.stderr
        return self


def decoded(line: str) -> dict[str, Any]:
    """Return the report in one framed line."""
    mark, text = line.rstrip("\n").split(" ")
    assert mark == "TESREPORT1"
    return json.loads(zlib.decompress(base64.b64decode(text, validate=True)))


@dataclass
class Job:
    """One job directory and the runner in it."""

    directory: Path
    engine: Engine
    user: str | None
    process: "subprocess.Popen[bytes]"
    began: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        return self.directory.name

    def watch(self) -> str:
        return _text(self.directory / "outputs" / "tes_watch")

    def journal(self) -> list[dict[str, Any]]:
        lines = _text(self.directory / "outputs" / "tes_journal").splitlines()
        return [json.loads(line) for line in lines]

    def processes(self) -> list[str]:
        """Return the command lines of what runs in, or has mounted, this job's directory."""
        found = []
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    inside = f"/{self.name}/working/" in (process / "mountinfo").read_text()
                    at = os.readlink(process / "cwd").startswith(str(self.directory))
                    if inside or at:
                        line = (process / "cmdline").read_bytes()
                        found.append(line.replace(b"\0", b" ").decode(errors="replace"))
                except OSError:
                    continue
        return found

    def report(self) -> Report:
        """Wait for the runner's end and return what it said, checking the rules of every report."""
        out, err = self.process.communicate(timeout=LIMIT_S)
        assert self.process.returncode == 0, err.decode(errors="replace")
        line = out.decode("ascii")
        assert line.count("\n") == 1, out[:500]
        assert line == _text(self.directory / "outputs" / "tes_report")
        assert len(line) <= 700 * 1024
        document = decoded(line)
        assert document["version"] == 1
        assert document["job"] == self.name
        assert all(isinstance(value, str) for value in document["metadata"].values())
        seconds = time.monotonic() - self.began
        return Report(document, err.decode(errors="replace"), seconds, self.directory)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def until(done: Callable[[], Any], limit_s: float) -> float:
    """Wait until `done` is true and return how long it took; fails after `limit_s`."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() - began < limit_s, f"not within {limit_s} s"
        time.sleep(0.02)
    return time.monotonic() - began


def pythons() -> list[str]:
    """Return every Python here that a node may have."""
    found = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))
    names = [(path, tuple(map(int, path.parts[-3].split(".")[:2]))) for path in found]
    return [str(path) for path, version in names if version >= (3, 8)] or [sys.executable]


class Node:
    """Makes jobs below one directory and, at its end, proves that none of them left anything."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.shared = base / "shared"
        self.shared.mkdir(mode=0o777)
        self.shared.chmod(0o777)
        self.program = base / "runner.pyz"
        self.program.write_bytes(Parcels().pack({}))
        self.jobs: list[Job] = []

    def start(
        self,
        engine: Engine,
        *executors: Mapping[str, Any] | Sequence[str],
        user: str | None = None,
        python: str = sys.executable,
        base: Path | None = None,
        **order: Any,
    ) -> Job:
        job = (base or self.base) / f"job{uuid.uuid4().hex[:12]}"
        for part in ("working", "inputs", "outputs", "metadata"):
            (job / part).mkdir(parents=True)
        document = {
            "version": 1,
            "task": f"t{job.name}",
            "job": job.name,
            "instance": "test",
            "engine": vars(engine),
            "executors": [_executor(one) for one in executors],
            "transfer": {"timeout_s": 5, "attempts": 3, "backoff_s": 0.05},
            **order,
        }
        for one in (*document.get("inputs", ()), *document.get("outputs", ())):
            one.setdefault("root", str(self.shared))
        (job / "inputs" / "order.json").write_text(json.dumps(document))
        argv = [python, "-IS", str(self.program), "../inputs/order.json"]
        if user:
            subprocess.run(["chown", "-R", user, str(job)], check=True)
            group = str(pwd.getpwnam(user).pw_gid)
            argv = ["setpriv", "--reuid", user, "--regid", group, "--init-groups", *argv]
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        process = subprocess.Popen(
            argv, cwd=job / "working", env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.jobs.append(Job(job, engine, user, process))
        return self.jobs[-1]

    def run(
        self, engine: Engine, *executors: Mapping[str, Any] | Sequence[str], **more: Any
    ) -> Report:
        return self.start(engine, *executors, **more).report()

    def check(self) -> None:
        """Fail if anything is left of a job whose runner ended by itself."""
        for job in self.jobs:
            if job.process.poll() is None:
                job.process.kill()
                job.process.communicate()
                until(lambda job=job: not job.processes(), 15)
            assert os.listdir(job.directory / "working") == [], job.directory
            assert job.engine.containers(job.name) == []
            assert job.processes() == []


def _executor(one: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    return {"image": IMAGE, **(one if isinstance(one, Mapping) else {"command": list(one)})}


def sh(script: str, **more: Any) -> dict[str, Any]:
    """Return an executor that runs a shell script, strictly."""
    return {"command": ["/bin/sh", "-euc", script], **more}


def file(path: str, content: str = "") -> dict[str, Any]:
    """Return an input with this content."""
    return {"path": path, "type": "FILE", "content": content}


@pytest.fixture
def node() -> Iterator[Node]:
    base = Path(tempfile.mkdtemp(prefix="tesp-runner-"))
    base.chmod(0o755)
    made = Node(base)
    try:
        yield made
        made.check()
    finally:
        for job in made.jobs:
            if job.process.poll() is None:
                job.process.kill()
                job.process.communicate()
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def user() -> str:
    """An ordinary user in group docker."""
    need("user")
    return os.environ["TESP_TEST_PULSAR_USER"]


@dataclass
class Web:
    """A server that answers as a test tells it; remembers what it was asked."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    moods: dict[str, list[Callable[["Handler"], None]]] = field(default_factory=dict)

    def requests(self, path: str) -> list[tuple[str, dict[str, str]]]:
        return [(method, headers) for method, asked, headers in self.asked if asked == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: Web

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_one(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.web.asked.append((self.command, path, dict(self.headers)))
        moods = self.web.moods.get(path)
        if moods:
            return moods.pop(0)(self)
        if self.command == "GET":
            found = self.web.files.get(path)
            return self.answer(404) if found is None else self.answer(200, found)
        self.web.files[path] = self.body()
        return self.answer(201)

    def abort(self) -> None:
        """Close the connection without a word."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def half(self) -> None:
        """Announce more than there is."""
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"half")
        self.close_connection = True

    def refuse_early(self) -> None:
        """Answer before the body has come, and hang up."""
        self.answer(403, Connection="close")
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_MKCOL = handle_one

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def web() -> Iterator[Web]:
    class Own(Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    Own.web = Web(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Own.web
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, authority: Pki) -> Iterator[http.Web]:
    """A real web server."""
    with http.nginx(tmp_path_factory.mktemp("nginx"), authority) as running:
        yield running


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3]:
    with s3.minio(tmp_path_factory.mktemp("minio")) as running:
        yield running


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.S3]:
    with s3.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as running:
        yield running


@pytest.fixture(params=["minio", "seaweedfs"])
def bucket(request: pytest.FixtureRequest) -> s3.Bucket:
    """An empty bucket of each kind of S3 server; always one, for each costs SeaweedFS its room."""
    server: s3.S3 = request.getfixturevalue(request.param)
    bucket = server.bucket("of-the-tests")
    for key in bucket.names():
        bucket.client.delete_object(Bucket=bucket.name, Key=key)
    return bucket
