"""The second example of the reference's README, FTP in and out, with the data transfer stack."""

import ftplib
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.compose.dts import Dts, dts
from tests.e2e.stack import Stack, begin_stack
from tests.needs import need

CONTENT: Final = b"holy\n" * 100_000
pytestmark = pytest.mark.slow


def example(host: str) -> dict[str, Any]:
    """Word for word but for its host."""
    return {
        "name": "md5sum of a file, FTP in and out",
        "inputs": [{"url": f"ftp://{host}/holy_file", "path": "/data/file1", "type": "FILE"}],
        "outputs": [{"path": "/data/outfile", "url": f"ftp://{host}/outfile-1", "type": "FILE"}],
        "executors": [
            {
                "image": "alpine",
                "command": ["md5sum"],
                "stdin": "/data/file1",
                "stdout": "/data/outfile",
            }
        ],
    }


@pytest.fixture(scope="module")
def storage() -> Iterator[Dts]:
    with dts() as stack:
        yield stack


@pytest.fixture(scope="module")
def stack(storage: Dts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server that knows the login of the data transfer stack."""
    need("pulsar")
    directory: Path = tmp_path_factory.mktemp("stack")
    stack = begin_stack(directory, "docker", **_logins(storage))
    try:
        stack.pulsar.wait_until_up()
        stack.api.wait_until_up()
        yield stack
    finally:
        stack.stop()


def _logins(storage: Dts) -> dict[str, str]:
    """The settings that README.md names."""
    login = {"username": storage.username, "password": storage.password}
    ftp = {"prefixes": [f"ftp://localhost:{storage.ftp}/"], **login}
    http = {"prefixes": [f"http://localhost:{storage.http}/"], **login}
    s3 = {
        "prefixes": ["s3://files/"],
        "endpoint": f"http://localhost:{storage.s3}",
        "access_key": storage.username,
        "secret_key": storage.password,
    }
    return {
        "TESP_STORAGE__FTP": json.dumps([ftp]),
        "TESP_STORAGE__HTTP": json.dumps([http]),
        "TESP_STORAGE__S3": json.dumps([s3]),
    }


def test_the_sum_of_what_the_console_put_in_is_sent_by_ftp_and_seen_in_the_console(
    storage: Dts, stack: Stack
) -> None:
    storage.bucket.put("holy_file", CONTENT)

    ended = stack.api.run(example(f"localhost:{storage.ftp}"))

    assert ended["state"] == "COMPLETE", ended
    line = f"{hashlib.md5(CONTENT).hexdigest()}  -\n"
    assert storage.bucket.get("outfile-1").decode() == line
    (attempt,) = ended["logs"]
    assert attempt["outputs"] == [
        {
            "url": f"ftp://localhost:{storage.ftp}/outfile-1",
            "path": "/data/outfile",
            "size_bytes": str(len(line)),
        }
    ]
    assert storage.password not in json.dumps(ended)
    stack.wait_until_nothing_is_left(ended["id"])


def test_without_the_login_in_the_settings_the_users_own_is_needed(
    storage: Dts, stack: Stack
) -> None:
    """By another name of the same host, for which the server has no login."""
    storage.bucket.put("holy_file", CONTENT)
    host = f"127.0.0.1:{storage.ftp}"

    refused = stack.api.run(example(host))
    own = stack.api.run(example(f"{storage.username}:{storage.password}@{host}"))

    assert (refused["state"], own["state"]) == ("SYSTEM_ERROR", "COMPLETE"), (refused, own)
    assert "530" in json.dumps(refused["logs"][0]["system_logs"])
    with ftplib.FTP() as client:
        client.connect("127.0.0.1", storage.ftp)
        client.login(storage.username, storage.password)
        got = io.BytesIO()
        client.retrbinary("RETR outfile-1", got.write)
    assert got.getvalue().split()[0].decode() == hashlib.md5(CONTENT).hexdigest()


def test_a_tree_goes_in_by_one_way_and_out_by_the_others(storage: Dts, stack: Stack) -> None:
    files = {"in/a": b"1", "in/b/c d": b"2"}
    for key, content in files.items():
        storage.bucket.put(key, content)
    places = {
        "by-s3": "s3://files/by-s3",
        "by-http": f"http://localhost:{storage.http}/by-http/",
        "by-ftp": f"ftp://localhost:{storage.ftp}/by-ftp",
    }
    ways = list(places)
    copies = [
        f"mkdir -p /{to}/out && cp -r /{way}/in/. /{to}/out/"
        for way, to in zip(ways, ways[1:] + ways[:1], strict=True)
    ]
    task = {
        "inputs": [
            {"url": f"{url.replace(way, 'in')}", "path": f"/{way}/in", "type": "DIRECTORY"}
            for way, url in places.items()
        ],
        "outputs": [
            {"url": url, "path": f"/{way}/out", "type": "DIRECTORY"} for way, url in places.items()
        ],
        "executors": [
            {
                "image": "alpine",
                "command": ["sh", "-c", "; ".join(copies)],
            }
        ],
    }

    ended = stack.api.run(task)

    assert ended["state"] == "COMPLETE", ended
    for way in places:
        below = f"{way}/"
        names = storage.bucket.names(below)
        assert {f"in/{name.removeprefix(below)}": storage.bucket.get(name) for name in names} == (
            files
        )
    stack.wait_until_nothing_is_left(ended["id"])
