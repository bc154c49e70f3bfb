"""What the server refuses of URLs, and what it tells the node of the others."""

import re
from typing import Any

import pytest

from tesp_api.domain.errors import OutOfReach
from tesp_api.domain.tes import Input, Output
from tesp_api.storage import FileScheme, HttpScheme, UrlStorage

STORAGE = UrlStorage(HttpScheme(), FileScheme(["/data", "/mnt/shared"]))


def an_input(url: str | None, **more: Any) -> Input:
    return Input(path="/in", url=url, **more)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://h/x", "http://h/x"),
        ("https://user:pw@h:8443/a%20b?X-Amz-Signature=1&b=#f", None),
        ("http://x//y/", "http://x//y/"),
        ("http://[::1]:80/x", None),
        ("file:///data/x", "file:///data/x"),
        ("file:///data", "file:///data"),
        ("file:/data/x", "file:///data/x"),
        ("file://localhost/data/x", "file:///data/x"),
        ("file:///data/a%20b%3F%23%25", "file:///data/a%20b%3F%23%25"),
        ("file:///data/./x//y/", "file:///data/x/y"),
        ("/data/x", "file:///data/x"),
        ("/data/a?b#c%20d", "file:///data/a%3Fb%23c%2520d"),
        ("/mnt/shared/ü", "file:///mnt/shared/%C3%BC"),
    ],
)
def test_what_is_served_is_ordered_as_it_is_meant(url: str, sent: str | None) -> None:
    item = an_input(url)
    assert STORAGE.refusal(item) is None
    assert STORAGE.fetch_order(item) == {"path": "/in", "type": "FILE", "url": sent or url}


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://bucket/x", "scheme 's3' is not served.*bare path, file, http, https"),
        ("x", "scheme|absolute"),
        ("http:///x", "names no host"),
        ("http://h:no/x", "is no URL"),
        ("http://h:99999/x", "is no URL"),
        ("http://[::1/x", "is no URL"),
        ("file://other/data/x", "names a host"),
        ("file:///etc/passwd", "is not below /data or /mnt/shared"),
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
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(url: str, why: str) -> None:
    item = an_input(url)
    refusal = STORAGE.refusal(item)
    assert refusal is not None
    assert re.search(why, refusal), refusal
    with pytest.raises(OutOfReach, match="/in: "):
        STORAGE.fetch_order(item)


def test_percent_signs_of_a_bare_path_are_letters() -> None:
    refusal = STORAGE.refusal(an_input("/data/%2e%2e/x"))
    assert refusal is None
    order = STORAGE.fetch_order(an_input("/data/%2e%2e/x"))
    assert order["url"] == "file:///data/%252e%252e/x"


def test_without_roots_no_file_is_served() -> None:
    closed = UrlStorage(FileScheme([]))
    assert "storage.file.roots" in (closed.refusal(an_input("/data/x")) or "")


def test_directories_are_served_from_files_only() -> None:
    assert STORAGE.refusal(an_input("/data/d", type="DIRECTORY")) is None
    assert "directory" in (STORAGE.refusal(an_input("http://h/d", type="DIRECTORY")) or "")


def test_a_content_makes_the_url_meaningless() -> None:
    item = an_input("gopher://nowhere", content="text")
    assert STORAGE.refusal(item) is None
    assert STORAGE.fetch_order(item) == {"path": "/in", "type": "FILE", "content": "text"}


def test_an_empty_content_is_an_empty_file_unless_there_is_a_url() -> None:
    assert STORAGE.fetch_order(an_input(None, content=""))["content"] == ""
    assert STORAGE.fetch_order(an_input("http://h/x", content=""))["url"] == "http://h/x"
    assert STORAGE.refusal(an_input("gopher://nowhere", content="")) is not None


def test_outputs_are_ordered_in_the_same_way() -> None:
    output = Output(path="/out", url="/data/o?", type="DIRECTORY")
    expected = {"path": "/out", "type": "DIRECTORY", "url": "file:///data/o%3F"}
    assert STORAGE.send_order(output) == expected
    with pytest.raises(OutOfReach):
        STORAGE.send_order(Output(path="/out", url=""))


def test_service_info_lists_schemes_and_roots() -> None:
    assert STORAGE.served() == ["http://", "https://", "file:///data", "file:///mnt/shared"]


def test_an_output_by_wildcards_is_told_and_not_silently_left_out() -> None:
    output = Output(path="/out/*.txt", path_prefix="/out", url="http://host/dir/")
    with pytest.raises(OutOfReach, match="wildcards"):
        UrlStorage(HttpScheme()).send_order(output)
