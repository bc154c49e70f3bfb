"""What the server refuses of URLs, and what it tells the node of the others."""

import re
from typing import Any

import pytest

from tesp_api.domain.errors import OutOfReach
from tesp_api.domain.task import Left
from tesp_api.domain.tes import Input, Output
from tesp_api.storage import (
    FileScheme,
    FtpScheme,
    Grant,
    HttpScheme,
    Login,
    Root,
    S3Scheme,
    UrlStorage,
)

ALICE, BOB = "basic:alice", "basic:bob"
CANARY = "canary-9f3a"
LOGIN = Login(username="lab", password=CANARY)
ROOTS = [
    Root(path="/data"),
    Root(path="/mnt/shared", mode="bind"),
    Root(path="/mnt/shared/{owner}", mode="bind_rw"),
    Root(path="/home/alice", owners=frozenset({ALICE})),
]
STORAGE = UrlStorage(
    HttpScheme(
        [
            (Grant(prefixes=("https://h/lab/", "https://g")), LOGIN),
            (Grant(prefixes=("https://h/lab/{owner}/",)), Login(token=CANARY)),
        ]
    ),
    FtpScheme([(Grant(prefixes=("ftp://h/lab",), owners=frozenset({ALICE})), LOGIN)]),
    FileScheme(ROOTS),
    S3Scheme(),
)


def an_input(url: str | None, **more: Any) -> Input:
    return Input(path="/in", url=url, **more)


async def fetched(url: str, owner: str | None = None, **more: Any) -> dict[str, Any]:
    order = dict(await STORAGE.fetch_order(an_input(url, **more), owner))
    assert (order.pop("path"), order.pop("type")) == ("/in", more.get("type", "FILE"))
    return order


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/x", "http://h/x"),
        ("https://user:pw@h:8443/a%20b?X-Amz-Signature=1&b=#f", "https://h:8443/a%20b"),
        ("http://x//y/", "http://x//y/"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("ftp://user:pw@host:2121/a/b", "ftp://host:2121/a/b"),
        ("ftps://host/%2Fa", "ftps://host/%2Fa"),
    ],
)
async def test_urls_of_others_are_passed_on_as_they_are_and_named_without_credentials(
    url: str, name: str
) -> None:
    assert STORAGE.refusal(an_input(url), None) is None
    assert await fetched(url) == {"name": name, "url": url}


@pytest.mark.parametrize(
    ("url", "sent", "root", "bind"),
    [
        ("file:///data/x", "/data/x", "/data", None),
        ("file:///data", "/data", "/data", None),
        ("file:/data/x", "/data/x", "/data", None),
        ("file://localhost/data/x", "/data/x", "/data", None),
        ("file:///data/a%20b%3F%23%25", "/data/a%20b%3F%23%25", "/data", None),
        ("file:///data/./x//y/", "/data/x/y", "/data", None),
        ("/data/x", "/data/x", "/data", None),
        ("/data/a?b#c%20d", "/data/a%3Fb%23c%2520d", "/data", None),
        ("/mnt/shared/ü", "/mnt/shared/%C3%BC", "/mnt/shared", "ro"),
        ("/mnt/shared/basic%3Abob/x", "/mnt/shared/basic%253Abob/x", "/mnt/shared", "ro"),
        (
            "/mnt/shared/basic%3Aalice/x",
            "/mnt/shared/basic%253Aalice/x",
            "/mnt/shared/basic%3Aalice",
            "rw",
        ),
        ("/home/alice/x", "/home/alice/x", "/home/alice", None),
    ],
)
async def test_files_come_with_the_root_they_must_not_leave_and_the_way_in(
    url: str, sent: str, root: str, bind: str | None
) -> None:
    assert STORAGE.refusal(an_input(url), ALICE) is None
    shown = {"name": f"file://{sent}", "url": f"file://{sent}", "root": root}
    assert await fetched(url, ALICE) == {**shown, "bind": bind}
    output = Output(path="/out", url=url, type="DIRECTORY")
    ordered = {"path": "/out", "type": "DIRECTORY", **shown}
    assert await STORAGE.send_order(output, ALICE) == ordered


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("gopher://h/x", "scheme 'gopher' is not served.*bare path, file, ftp, ftps, http, https"),
        ("x", "scheme|absolute"),
        ("http:///x", "names no host"),
        ("ftp:///x", "names no host"),
        ("ftp://h/x%0d%0aDELE%20y", "line end"),
        ("ftp://u%0Ax:p@h/x", "line end"),
        ("http://h:no/x", "is no URL"),
        ("http://h:99999/x", "is no URL"),
        ("http://[::1/x", "is no URL"),
        ("file://other/data/x", "names a host"),
        ("file:///etc/passwd", "is not below /data or /mnt/shared$"),
        ("file:///database/x", "is not below"),
        ("file:///data/../etc/passwd", r"without '\.\.'"),
        ("file:///data/%2e%2e/etc/passwd", r"without '\.\.'"),
        ("file:///data/x/..", r"without '\.\.'"),
        ("file:data/x", "absolute"),
        ("file:///data/x?y", "query or fragment"),
        ("file:///data/x#y", "query or fragment"),
        ("/etc/passwd", "is not below"),
        ("/data/../etc/passwd", r"without '\.\.'"),
        ("//data/x", "is not below"),
        ("/home/alice/x", "is not below /data or /mnt/shared$"),
    ],
)
async def test_what_cannot_be_served_is_refused_with_the_reason(url: str, why: str) -> None:
    item = an_input(url)
    refusal = STORAGE.refusal(item, None)
    assert refusal is not None
    assert re.search(why, refusal), refusal
    with pytest.raises(OutOfReach, match="/in: "):
        await STORAGE.fetch_order(item, None)


def test_roots_of_others_are_not_told() -> None:
    refusal = STORAGE.refusal(an_input("/home/alice/x"), BOB) or ""
    assert refusal.endswith("not below /data or /mnt/shared or /mnt/shared/basic%3Abob")


async def test_percent_signs_of_a_bare_path_are_letters() -> None:
    assert STORAGE.refusal(an_input("/data/%2e%2e/x"), None) is None
    assert (await fetched("/data/%2e%2e/x"))["url"] == "file:///data/%252e%252e/x"


def test_without_roots_no_file_is_served() -> None:
    closed = UrlStorage(FileScheme())
    assert "storage.file.roots" in (closed.refusal(an_input("/data/x"), None) or "")


# Credentials.


async def test_credentials_are_sent_where_they_are_granted() -> None:
    lab = {"Authorization": f"Basic {'bGFiOmNhbmFyeS05ZjNh'}"}
    assert (await fetched("https://h/lab/x"))["headers"] == lab
    assert (await fetched("https://g/x", BOB))["headers"] == lab
    own = "https://h/lab/basic%253Aalice/x"
    assert (await fetched(own, ALICE))["headers"] == {"Authorization": f"Bearer {CANARY}"}
    assert (await fetched(own, BOB))["headers"] == lab
    output = Output(path="/out/*", path_prefix="/out", url="https://h/lab/x")
    assert (await STORAGE.send_order(output, None))["headers"] == lab
    ftp = await fetched("ftp://h/lab/x", ALICE)
    assert (ftp["username"], ftp["password"]) == ("lab", CANARY)


@pytest.mark.parametrize(
    ("url", "owner"),
    [
        ("https://h/x", None),
        ("http://h/lab/x", None),
        ("https://h/lab/../x", None),
        ("https://me:mine@h/lab/x", None),
        ("https://@h/lab/x", None),
        ("https://h\\@evil/lab/x", None),
        ("https://h.evil/lab/x", None),
        ("ftp://h/lab/x", BOB),
        ("ftp://h/lab/x", None),
        ("ftp://me:mine@h/lab/x", ALICE),
    ],
)
async def test_credentials_are_sent_nowhere_else(url: str, owner: str | None) -> None:
    assert CANARY not in str(await fetched(url, owner))
    assert set(await fetched(url, owner)) == {"name", "url"}


def test_credentials_are_not_printed() -> None:
    assert CANARY not in repr(LOGIN)
    assert CANARY not in repr(Login(token=CANARY))


# The rest.


def test_directories_are_served_by_all() -> None:
    for url in ("/data/d", "http://h/d", "ftp://h/d/", "s3://b", "s3://b/d/"):
        assert STORAGE.refusal(an_input(url, type="DIRECTORY"), None) is None


async def test_a_content_makes_the_url_meaningless() -> None:
    item = an_input("gopher://nowhere", content="text")
    assert STORAGE.refusal(item, None) is None
    order = await STORAGE.fetch_order(item, None)
    assert order == {"path": "/in", "type": "FILE", "content": "text"}


async def test_an_empty_content_is_an_empty_file_unless_there_is_a_url() -> None:
    assert (await STORAGE.fetch_order(an_input(None, content=""), None))["content"] == ""
    assert (await fetched("http://h/x", content=""))["url"] == "http://h/x"
    assert STORAGE.refusal(an_input("gopher://nowhere", content=""), None) is not None


async def test_an_output_by_wildcards_comes_with_its_prefix() -> None:
    output = Output(path="/out/*.txt", path_prefix="/out", url="http://host/dir/")
    assert await STORAGE.send_order(output, None) == {
        "path": "/out/*.txt",
        "type": "FILE",
        "path_prefix": "/out",
        "name": "http://host/dir/",
        "url": "http://host/dir/",
    }


async def test_what_the_run_job_sends_itself_cannot_be_left() -> None:
    output = Output(path="/out", url="http://host/x")
    left = Left(output=0, path="/out", below="", size_bytes=1)
    with pytest.raises(OutOfReach, match="should have sent itself"):
        await STORAGE.begin_upload(output, left, None)


def test_service_info_lists_schemes_and_what_everybody_may_name() -> None:
    web = ["http://", "https://", "ftp://", "ftps://"]
    files = ["file:///data", "file:///mnt/shared", "file:///mnt/shared/{owner}"]
    assert STORAGE.served() == web + files
