"""The data transfer stack: one directory by HTTP, FTP and S3, built, brought up, taken down."""

import contextlib
import ftplib
import hashlib
import io
import json
import secrets
import socket
import struct
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest

from tests.compose.dts import Dts, dts
from tests.compose.project import said
from tests.servers.process import HOST

CONTENT: Final = secrets.token_bytes(3_000_000)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack() -> Iterator[Dts]:
    with dts() as stack:
        yield stack


@pytest.fixture
def ftp(stack: Dts) -> Iterator[ftplib.FTP]:
    with ftplib.FTP(timeout=20) as client:
        client.connect(HOST, stack.ftp)
        client.login(stack.username, stack.password)
        yield client


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _by_ftp(client: ftplib.FTP, path: str) -> bytes:
    got = io.BytesIO()
    client.retrbinary(f"RETR {path}", got.write)
    return got.getvalue()


def _by_http(stack: Dts, path: str, **more: Any) -> httpx.Response:
    return httpx.get(stack.url(path), auth=(stack.username, stack.password), **more)


def test_what_s3_puts_in_is_read_by_ftp_and_http(stack: Dts, ftp: ftplib.FTP) -> None:
    stack.bucket.put("in/by s3.bin", CONTENT)
    assert _sha(_by_ftp(ftp, "in/by s3.bin")) == _sha(CONTENT)
    assert _sha(_by_http(stack, "in/by%20s3.bin").content) == _sha(CONTENT)


def test_what_ftp_puts_in_is_seen_by_s3_and_http(stack: Dts, ftp: ftplib.FTP) -> None:
    ftp.mkd("out")
    ftp.storbinary("STOR out/by ftp.bin", io.BytesIO(CONTENT))
    assert stack.bucket.names("out/") == ["out/by ftp.bin"]
    assert _sha(stack.bucket.get("out/by ftp.bin")) == _sha(CONTENT)
    assert _sha(_by_http(stack, "out/by%20ftp.bin").content) == _sha(CONTENT)


def test_what_http_puts_in_is_seen_by_s3_and_ftp(stack: Dts, ftp: ftplib.FTP) -> None:
    login = (stack.username, stack.password)
    assert httpx.put(stack.url("new/er/x"), content=CONTENT, auth=login).status_code == 201
    assert _sha(stack.bucket.get("new/er/x")) == _sha(CONTENT)
    assert _sha(_by_ftp(ftp, "new/er/x")) == _sha(CONTENT)


def test_what_one_replaced_is_new_to_the_others_with_its_own_etag(
    stack: Dts, ftp: ftplib.FTP
) -> None:
    first = stack.bucket.client.put_object(Bucket="files", Key="same", Body=b"one")["ETag"]
    ftp.storbinary("STOR same", io.BytesIO(b"two"))
    second = stack.bucket.client.get_object(Bucket="files", Key="same")
    assert (second["Body"].read(), second.get("ETag") == first) == (b"two", False)
    third = stack.bucket.client.put_object(Bucket="files", Key="same", Body=b"three")["ETag"]
    assert (_by_ftp(ftp, "same"), third == first) == (b"three", False)


def test_an_upload_that_is_reset_leaves_what_was_there(stack: Dts) -> None:
    stack.bucket.put("kept", b"whole")
    with ftplib.FTP(timeout=20) as client:
        # Not by the published port: Docker's own proxy makes an orderly end of a reset.
        client.connect(stack.address_of("ftp"), 2121)
        client.login(stack.username, stack.password)
        with contextlib.closing(client.transfercmd("STOR kept")) as data:
            data.sendall(CONTENT)
            data.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with pytest.raises(ftplib.error_temp, match="426"):
            client.voidresp()
    assert stack.bucket.get("kept") == b"whole"


def test_directories_can_be_listed_each_way(stack: Dts, ftp: ftplib.FTP) -> None:
    stack.bucket.put("tree/a/1", b"1")
    stack.bucket.put("tree/2", b"2")
    assert sorted(name for name, _ in ftp.mlsd("tree")) == ["2", "a"]
    assert ".sgwtmp" not in ftp.nlst()
    page = _by_http(stack, "tree/").text
    assert '<a href="a/">' in page
    assert ".sgwtmp" not in _by_http(stack, "").text


def test_http_and_ftp_resume(stack: Dts, ftp: ftplib.FTP) -> None:
    stack.bucket.put("resumed", CONTENT)
    part = _by_http(stack, "resumed", headers={"Range": f"bytes={len(CONTENT) - 5}-"})
    assert (part.status_code, part.content) == (206, CONTENT[-5:])
    got = io.BytesIO()
    ftp.retrbinary("RETR resumed", got.write, rest=len(CONTENT) - 5)
    assert got.getvalue() == CONTENT[-5:]


def test_the_console_is_a_page_that_leads_to_s3(stack: Dts) -> None:
    page = httpx.get(f"http://{HOST}:{stack.console}/")
    assert (page.status_code, "text/html" in page.headers["Content-Type"]) == (200, True)
    origin = {"Origin": f"http://{HOST}:{stack.console}", "Access-Control-Request-Method": "PUT"}
    allowed = httpx.options(f"http://{HOST}:{stack.s3}/files/x", headers=origin)
    assert allowed.headers["Access-Control-Allow-Origin"] == "*"


def test_without_the_login_nothing_is_read_or_written(stack: Dts, ftp: ftplib.FTP) -> None:
    stack.bucket.put("secret", b"1")
    for answer in (
        httpx.get(stack.url("secret")),
        httpx.put(stack.url("secret"), content=b"2", auth=(stack.username, "wrong")),
        httpx.get(f"http://{HOST}:{stack.s3}/files/secret"),
    ):
        assert answer.status_code in {401, 403}
    with ftplib.FTP(timeout=20) as stranger:
        stranger.connect(HOST, stack.ftp)
        for login in ((), (stack.username, "wrong")):
            with pytest.raises(ftplib.error_perm, match="530"):
                stranger.login(*login)
    assert stack.bucket.get("secret") == b"1"


def test_all_is_published_on_loopback_and_nothing_is_privileged(stack: Dts) -> None:
    found = json.loads(said(["docker", "inspect", *stack.compose("ps", "-q").split()]))
    assert len(found) == 3
    for one in found:
        bound = one["HostConfig"]["PortBindings"].values()
        assert {port["HostIp"] for ports in bound for port in ports} == {HOST}
        assert (one["Config"]["User"], one["HostConfig"]["Privileged"]) == ("10003:10003", False)
        assert one["HostConfig"]["ReadonlyRootfs"] is True


def test_the_password_is_in_no_configuration_log_or_command_line(stack: Dts) -> None:
    containers = stack.compose("ps", "-aq").split()
    seen = [said(["docker", "inspect", *containers]), stack.compose("logs", "--no-color")]
    seen += [said(["docker", "top", one]) for one in stack.compose("ps", "-q").split()]
    assert not [text for text in seen if stack.password in text]


def test_the_login_stays_when_the_stack_is_made_anew(stack: Dts) -> None:
    stack.bucket.put("stays", b"1")
    stack.compose("down")
    stack.compose("up", "--detach", "--wait")
    assert stack.login() == (stack.username, stack.password)
    assert stack.bucket.get("stays") == b"1"


def test_down_with_its_volumes_leaves_nothing() -> None:
    with dts() as stack:
        pass
    assert stack.left() == []
