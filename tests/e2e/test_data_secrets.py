"""What the server knows stays there: canaries are looked for everywhere a task leaves a trace."""

import contextlib
import io
import json
import re
import threading
import zipfile
import zlib
from base64 import b64decode, b64encode, encodebytes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tesp_api.pulsar.wire import Parcels
from tests.e2e.data_sides import Site
from tests.e2e.stack import Stack, shell
from tests.e2e.test_data import SCRIPT, inputs, offer, outputs
from tests.pulsars import until

_LONG_TEXT: Final = re.compile(rb"[A-Za-z0-9+/\n]{200,}={0,2}")

pytestmark = pytest.mark.slow


def test_who_looks_for_a_secret_finds_it_in_an_order(tmp_path: Path) -> None:
    parcel = Parcels(small=True).pack({"password": "canary"})
    (tmp_path / "raw").write_bytes(parcel)
    script = f"cat << 'E'\n{encodebytes(parcel).decode()}E\n"
    (tmp_path / "script").write_text(script)
    (tmp_path / "kept.json").write_text(json.dumps({"env": [script]}))
    (tmp_path / "else").write_bytes(Parcels().pack({"password": "another"}))
    assert sorted(holding(tmp_path, [b"canary"])) == ["kept.json", "raw", "script"]


def canaries(site: Site) -> Sequence[bytes]:
    """Return all secrets as they might be spelt; an access key is in every signed URL."""
    login = f"{site.web.username}:{site.web.password}"
    keys = [one.access_key for one in (site.minio, site.weed, site.secure)]
    words = [
        *site.secrets,
        *keys,
        b64encode(login.encode()).decode(),
        "X-Amz-Signature=",
        "X-Amz-Credential",
    ]
    return [word.encode() for word in words]


def holding(top: Path, words: Sequence[bytes]) -> list[str]:
    """Name the files below `top` with one of the words."""
    return [str(file.relative_to(top)) for file in top.rglob("*") if _has(file, words)]


def _has(file: Path, words: Sequence[bytes]) -> bool:
    with contextlib.suppress(OSError):
        if file.is_file():
            return any(word in form for form in _forms(file.read_bytes()) for word in words)
    return False


def _forms(content: bytes) -> Iterator[bytes]:
    """Yield it as it stands, and what is packed in it: orders go as zip, by messages as base64."""
    texts = _LONG_TEXT.findall(content.replace(b"\\n", b"\n"))
    for packed in (content, *map(_from_base64, texts)):
        yield packed
        with contextlib.suppress(zlib.error):
            yield zlib.decompress(packed)
        with (
            contextlib.suppress(zipfile.BadZipFile),
            zipfile.ZipFile(io.BytesIO(packed)) as archive,
        ):
            yield from (archive.read(name) for name in archive.namelist())


def _from_base64(text: bytes) -> bytes:
    whole = b"".join(text.split())
    return b64decode(whole[: len(whole) // 4 * 4])


@contextmanager
def watched(words: Sequence[bytes]) -> Iterator[set[str]]:
    """Collect the processes with one of the words in arguments or environment, all the while."""
    found: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            found.update(_processes(words))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _processes(words: Sequence[bytes]) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command, environ = ((entry / name).read_bytes() for name in ("cmdline", "environ"))
                if any(word in command + b"\0" + environ for word in words):
                    yield command.replace(b"\0", b" ").decode(errors="replace")


@pytest.mark.parametrize("engine", ["data", "data_docker", "data_amqp"])
def test_no_secret_of_the_server_leaves_a_trace(
    request: pytest.FixtureRequest, site: Site, engine: str
) -> None:
    data: Stack = request.getfixturevalue(engine)
    words = canaries(site)
    for side in site.sides.values():
        offer(side, "in")
    task = shell(
        "\n".join([*(f"({SCRIPT.format(name=name)})" for name in site.sides), "sleep 4"]),
        inputs=[one for name, side in site.sides.items() for one in inputs(side, name)],
        outputs=[one for name, side in site.sides.items() for one in outputs(side, name, "secret")],
        volumes=[f"/out/{name}" for name in site.sides],
    )
    with watched(words) as processes:
        task_id = data.api.post(task)
        until(lambda: _executes(data, task_id), 120, lambda: str(data.api.get(task_id)))
        during = holding(data.pulsar.staging, words)
        ended = data.api.wait(task_id, patience_s=120)
    assert ended["state"] == "COMPLETE", ended["logs"]
    # By messages the order stands in Pulsar's own files until the job is removed: README.
    assert during == [] or data.transport == "amqp"
    # MinIO has its own keys there: who looks does find.
    assert {Path(process.split()[0]).name for process in processes} == {"minio"}, processes
    data.wait_until_nothing_is_left(task_id)
    assert holding(data.pulsar.log.parent, words) == []
    assert holding(data.api.log.parent, words) == [".secrets.toml"], "the operator's own file alone"
    assert [word for word in words if word in json.dumps(ended).encode()] == []
    everything = json.dumps(data.api.list(view="FULL")).encode()
    assert [word for word in words if word in everything] == []


def _executes(stack: Stack, task_id: str) -> bool:
    journals = stack.pulsar.staging.glob(f"*{task_id}*/outputs/tes_journal")
    return any("executor_start" in journal.read_text() for journal in journals)


@pytest.mark.parametrize("name", ["http", "ftp"])
def test_a_user_s_own_password_stays_in_the_user_s_own_request(
    data: Stack, site: Site, name: str
) -> None:
    secret = f"owncanary{name}"
    url = site.sides[name].url("in/one")
    ended = data.api.run(
        shell("true", inputs=[{"path": "/in/x", "url": url.replace("://", f"://me:{secret}@")}])
    )
    assert ended["state"] == "SYSTEM_ERROR"
    assert url in str(ended["logs"])
    assert secret not in str(ended["logs"])
    data.wait_until_nothing_is_left(ended["id"])
    logs = [data.api.log, data.pulsar.log]
    assert [log for log in logs if secret in log.read_text()] == []
    assert holding(data.pulsar.log.parent, [secret.encode()]) == []
