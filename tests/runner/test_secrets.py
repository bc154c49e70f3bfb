"""What the order's secrets leave behind: nothing, wherever one looks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tesp_api.pulsar.wire import Parcels
from tests.runner.conftest import Engine, Handler, Node, Report, Web, sh, until
from tests.servers.s3 import Bucket

CANARY = "canary0secret0value"


def found_below(directory: Path, secret: str) -> list[Path]:
    files = (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if secret.encode() in path.read_bytes()]


def seen_in_processes(secret: str) -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            for name in ("cmdline", "environ"):
                try:
                    data = (process / name).read_bytes()
                except OSError:
                    continue
                if secret.encode() in data:
                    found.append(f"{process.name} {name}: {data[:200]!r}")
    return found


def orders(web: Web) -> dict[str, dict[str, object]]:
    """Return a place for each kind of secret, as orders carry them."""
    port = web.url.rpartition(":")[2]
    query = f"X-Amz-Credential=k&X-Amz-Signature={CANARY}"
    return {
        "header": {"url": f"{web.url}/a", "headers": {"Authorization": f"Bearer {CANARY}"}},
        "user": {"url": f"http://someone:{CANARY}@127.0.0.1:{port}/a"},
        "signature": {"url": f"{web.url}/a?{query}", "signed": True, "name": "s3://b/a"},
        "ftp": {"url": "ftp://127.0.0.1:1/a", "username": "someone", "password": CANARY},
        "ftp user": {"url": f"ftp://someone:{CANARY}@127.0.0.1:1/a"},
    }


KINDS = ("header", "user", "signature", "ftp", "ftp user")


def told(report: Report) -> str:
    return json.dumps(report.document) + report.stderr


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mood", ["echo", "refuse", "cut"])
def test_a_failed_transfer_tells_no_secret(
    host: Engine, node: Node, web: Web, kind: str, mood: str
) -> None:
    def echo(handler: Handler) -> None:
        """Answer as a server does that gives everything back that it was told."""
        handler.body()
        said = f"{handler.path} {handler.headers.get('Authorization')}"
        handler.send_response(503, said)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    moods = {"echo": echo, "refuse": lambda handler: handler.answer(403), "cut": Handler.abort}
    web.moods["/a"] = [moods[mood]] * 9
    place = orders(web)[kind]
    for more in (
        {"inputs": [{"path": "/in/x", **place}]},
        {"inputs": [{"path": "/in", "type": "DIRECTORY", **place}]},
        {"outputs": [{"path": "/out/x", **place}]},
    ):
        done = node.run(host, sh("echo 1 > /out/x") if "outputs" in more else ["true"], **more)
        assert done.outcome == "system_error"
        assert CANARY not in told(done)
        for directory in ("outputs", "metadata", "working"):
            assert found_below(done.directory / directory, CANARY) == []


@pytest.mark.parametrize("kind", ["header", "user", "signature"])
def test_a_task_finds_no_secret_and_nobody_sees_one_in_the_process_list(
    engine: Engine, node: Node, web: Web, kind: str
) -> None:
    place = orders(web)[kind]
    web.files["/a"] = b"content"
    inputs = [{"path": "/in/x", **place}]
    outputs = [{"path": "/in/x", **place}]
    job = node.start(engine, sh("env; until test -e /in/go; do :; done"),
                     inputs=inputs, outputs=outputs)  # fmt: skip
    # The file by which the test gives the order is not there in earnest.
    until(job.journal, 60)
    (job.directory / "inputs" / "order.json").unlink()
    assert found_below(job.directory, CANARY) == []
    assert seen_in_processes(CANARY) == []
    (job.directory / "working" / "task" / "root" / "in" / "go").touch()
    done = job.report().complete()
    assert len(done.outputs) == 1
    assert CANARY not in told(done)
    assert found_below(job.directory, CANARY) == []


def test_the_parcel_is_gone_before_the_first_transfer(
    host: Engine, tmp_path: Path, web: Web
) -> None:
    for part in ("working", "inputs", "outputs"):
        (tmp_path / part).mkdir()
    place = orders(web)["header"]
    order = {"job": "j1", "engine": vars(host), "inputs": [{"path": "/in/x", **place}],
             "executors": [], "transfer": {"attempts": 1}}  # fmt: skip
    parcel = tmp_path / "inputs" / "run.pyz"
    parcel.write_bytes(Parcels().pack(order))
    seen: list[Path] = []

    def look(handler: Handler) -> None:
        seen.extend(found_below(tmp_path, CANARY))
        seen.extend(path for path in (parcel,) if path.exists())
        handler.answer(200, b"content")

    web.moods["/a"] = [look]
    subprocess.run(
        [sys.executable, "-IS", "../inputs/run.pyz"],
        cwd=tmp_path / "working",
        check=True,
        capture_output=True,
    )
    assert len(web.requests("/a")) == 1
    assert seen == []
    assert found_below(tmp_path, CANARY) == []


def test_no_signature_is_in_the_report_of_a_stage_out(
    host: Engine, node: Node, bucket: Bucket
) -> None:
    output = {"path": "/out", "type": "DIRECTORY", "name": "s3://b/r", "deferred": True}
    job = node.start(host, sh("echo 1 > /out/x"), outputs=[output])
    job.report().complete()
    url = bucket.presigned("PUT", "x")
    wrong = {"path": "/out/x", "size_bytes": 2, "name": "s3://b/r/x", "url": f"{url[:-4]}0000"}
    done = node.run(host, mode="send", of=job.name, files=[wrong])
    assert done.outcome == "system_error"
    assert "SignatureDoesNotMatch" in done.reason
    assert "X-Amz" not in told(done)
    assert url.rpartition("=")[2][:20] not in told(done)
