"""How failed transfers end a task: with URL, status and attempts, and without credentials."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import pytest

from tests.e2e.data_sides import Site, data_stack, entry
from tests.e2e.stack import Json, Stack, fastest, shell
from tests.needs import need
from tests.servers.ftp import Ftp
from tests.servers.http import Web
from tests.servers.process import HOST, nobody_listens

WRONG: Final = "wrongcanary4711"
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Strict:
    """A stack that knows wrong passwords, and wants every output."""

    stack: Stack
    closed: int


@pytest.fixture(scope="module")
def strict(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Strict]:
    need("pulsar")
    directory = tmp_path_factory.mktemp("strict") / "run"
    with nobody_listens() as closed:
        nobody = replace(site.minio, endpoint=f"http://{HOST}:{closed}")
        login = {"username": "tester", "password": WRONG}
        entries: dict[str, list[dict[str, Any]]] = {
            "http": [{"prefixes": [f"{site.web.base}/private/"], **login}],
            "ftp": [{"prefixes": [site.ftp.url("")], **login}],
            "s3": [
                entry(site.minio.with_secret(WRONG), "s3://lab/"),
                entry(nobody, "s3://nobody/"),
                entry(site.minio, "s3://no-such-bucket/", "s3://is-up/"),
            ],
        }
        settings = {
            "TESP_OUTPUTS__MISSING": "error",
            "TESP_STORAGE__ATTEMPTS": "2",
            "TESP_STORAGE__TIMEOUT_S": "5",
        }
        with data_stack(directory, fastest(), entries, **settings) as stack:
            yield Strict(stack, closed)


def fails(stack: Stack, **request: Any) -> str:
    """Return why; nothing of it may be left, nor a secret be told."""
    ended = stack.api.run(shell("echo there > /out/there", volumes=["/out"], **request))
    assert ended["state"] == "SYSTEM_ERROR", ended
    told = " ".join(ended["logs"][0]["system_logs"])
    assert WRONG not in json.dumps(ended)
    assert "X-Amz-" not in json.dumps(ended)
    stack.wait_until_nothing_is_left(ended["id"])
    return told


def fetching(url: str, **more: str) -> Json:
    return {"inputs": [{"path": "/in/x", "url": url, **more}]}


def sending(url: str) -> Json:
    return {"outputs": [{"path": "/out/there", "url": url}]}


def test_an_output_that_was_not_written_is_a_warning(data: Stack, site: Site) -> None:
    side = site.sides["minio"]
    missing = [
        {"path": "/out/optional", "url": side.url("missing/optional")},
        {"path": "/out/*.bam", "path_prefix": "/out", "url": side.url("missing/w")},
    ]
    ended = data.api.run(
        shell(
            "echo there > /out/there",
            outputs=[*missing, *sending(side.url("missing/there"))["outputs"]],
            volumes=["/out"],
        )
    )
    assert ended["state"] == "COMPLETE", ended["logs"]
    told = "\n".join(ended["logs"][0]["system_logs"])
    for item in missing:
        assert item["path"] in told
    assert [one["path"] for one in ended["logs"][0]["outputs"]] == ["/out/there"]
    assert side.names("missing") == ["there"]


def test_it_is_an_error_where_the_operator_says_so(strict: Strict, site: Site) -> None:
    missing = {"path": "/out/optional", "url": "s3://is-up/missing/optional"}
    there = {"path": "/out/there", "url": "s3://is-up/missing/there"}
    told = fails(strict.stack, outputs=[missing, there])
    assert "/out/optional" in told
    assert site.minio.bucket("is-up").get("missing/there") == b"there\n", "sent all the same"


@pytest.mark.parametrize("name", ["http", "https", "ftp", "ftps", "minio", "weed", "file"])
def test_an_input_that_is_not_there_is_named(data: Stack, site: Site, name: str) -> None:
    side = site.sides[name]
    side.put("in/there", b"")
    told = fails(data, **fetching(side.url("in/no-such")))
    assert side.url("in/no-such") in told
    if name in {"http", "https", "minio", "weed"}:
        assert "404" in told
    if name in {"ftp", "ftps"}:
        assert "550" in told


@pytest.mark.parametrize("name", ["minio", "weed", "http", "ftp", "file"])
def test_a_directory_that_is_not_there_is_named(data: Stack, site: Site, name: str) -> None:
    side = site.sides[name]
    told = fails(data, **fetching(side.url("in/no-such/"), type="DIRECTORY"))
    assert side.url("in/no-such") in told


@pytest.mark.parametrize("order", [fetching, sending])
@pytest.mark.parametrize(("name", "status"), [("http", "401"), ("ftp", "530"), ("minio", "403")])
def test_a_wrong_password_is_an_answer(
    strict: Strict, site: Site, name: str, status: str, order: Any
) -> None:
    url = site.sides[name].url("in/one")
    told = fails(strict.stack, **order(url))
    assert url in told
    assert status in told
    assert "attempt 1" in told


@pytest.mark.parametrize("name", ["http", "ftp"])
def test_a_user_s_own_login_goes_before_the_server_s(strict: Strict, site: Site, name: str) -> None:
    server: Web | Ftp = site.web if name == "http" else site.ftp
    side = site.sides[name]
    side.put("in/own", b"by the user's own\n")
    login = f"://{server.username}:{server.password}@"
    source, target = (side.url(path).replace("://", login) for path in ("in/own", "out/own"))
    ended = strict.stack.api.run(
        shell(
            "cp /in/x /out/x",
            inputs=[{"path": "/in/x", "url": source}],
            outputs=[{"path": "/out/x", "url": target}],
        )
    )
    assert ended["state"] == "COMPLETE", ended["logs"]
    assert side.get("out/own") == b"by the user's own\n"
    assert [one["url"] for one in ended["logs"][0]["outputs"]] == [side.url("out/own")]
    assert server.password not in strict.stack.api.log.read_text()


@pytest.mark.parametrize("order", [fetching, sending])
def test_a_bucket_that_is_not_there_is_an_answer(strict: Strict, order: Any) -> None:
    told = fails(strict.stack, **order("s3://no-such-bucket/x"))
    assert "s3://no-such-bucket/x" in told
    assert "404" in told


@pytest.mark.parametrize("order", [fetching, sending])
@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "ftps", "s3"])
def test_a_refused_connection_is_tried_again_and_then_told(
    strict: Strict, scheme: str, order: Any
) -> None:
    url = "s3://nobody/x" if scheme == "s3" else f"{scheme}://{HOST}:{strict.closed}/x"
    told = fails(strict.stack, **order(url))
    assert url in told
    assert "2 attempts" in told
    assert "refused" in told
