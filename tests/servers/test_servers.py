"""The servers that tests of data run against do what these tests take for granted."""

import contextlib
import ftplib
import hashlib
import io
import secrets
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from botocore.exceptions import ClientError

from tests.servers import ftp as ftps
from tests.servers import s3 as s3s
from tests.servers.ftp import Ftp
from tests.servers.http import STATUS, Web, nginx
from tests.servers.pki import Pki, pki
from tests.servers.process import nobody_listens
from tests.servers.proxy import (
    Answer,
    Corrupt,
    Cut,
    CutUpload,
    Delay,
    Fault,
    Length,
    Proxy,
    Silence,
    Truncate,
    faulty,
)
from tests.servers.s3 import S3, Bucket

CONTENT: Final = secrets.token_bytes(1_000_000)
NAME: Final = "a/b c+ü.bin"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def own_pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return pki(tmp_path_factory.mktemp("pki"))


# --- S3 ---


@pytest.fixture(scope="module", params=[s3s.minio, s3s.seaweedfs])
def s3(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with request.param(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def bucket(s3: S3) -> Bucket:
    bucket = s3.bucket("data")
    bucket.put(NAME, CONTENT)
    return bucket


def test_s3_keeps_an_object_and_lists_it(bucket: Bucket) -> None:
    assert sha(bucket.get(NAME)) == sha(CONTENT)
    assert bucket.names("a/") == [NAME]


def test_s3_serves_and_takes_by_signed_urls(bucket: Bucket) -> None:
    got = httpx.get(bucket.presigned("GET", NAME))
    put = httpx.put(bucket.presigned("PUT", "signed/put"), content=CONTENT)
    assert (sha(got.content), put.status_code) == (sha(CONTENT), 200)
    assert put.headers["ETag"].strip('"') == hashlib.md5(CONTENT).hexdigest()
    assert sha(bucket.get("signed/put")) == sha(CONTENT)


def test_s3_resumes_by_range(bucket: Bucket) -> None:
    got = httpx.get(bucket.presigned("GET", NAME), headers={"Range": "bytes=999990-"})
    assert (got.status_code, got.content) == (206, CONTENT[-10:])


def test_s3_refuses_a_changed_signature(bucket: Bucket) -> None:
    url = bucket.presigned("GET", NAME)
    changed = url[:-1] + ("0" if url[-1] != "0" else "1")
    assert httpx.get(changed).status_code == 403


def test_s3_refuses_a_signature_for_another_object_or_method(bucket: Bucket) -> None:
    url = bucket.presigned("GET", NAME)
    assert httpx.get(url.replace("b%20c", "b%20d")).status_code == 403
    assert httpx.put(url, content=b"x").status_code == 403


def test_s3_refuses_a_signature_that_has_expired(bucket: Bucket) -> None:
    url = bucket.presigned("GET", NAME, at=datetime.now(UTC) - timedelta(hours=1))
    assert httpx.get(url).status_code in {400, 403}


def test_s3_refuses_a_wrong_secret_and_nobody(s3: S3, bucket: Bucket) -> None:
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        s3.with_secret("wrong").client().get_object(Bucket=bucket.name, Key=NAME)
    assert httpx.get(f"{s3.endpoint}/{bucket.name}/signed").status_code == 403


def test_s3_puts_an_object_together_of_signed_parts(bucket: Bucket) -> None:
    part, where = b"p" * (5 << 20), {"Bucket": bucket.name, "Key": "parts"}
    upload = bucket.client.create_multipart_upload(**where)["UploadId"]
    assert bucket.uploads("parts") == ["parts"]
    etags = [
        httpx.put(
            bucket.presigned("PUT", "parts", partNumber=str(number), uploadId=upload), content=part
        ).headers["ETag"]
        for number in (1, 2)
    ]
    parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(etags, 1)]
    bucket.client.complete_multipart_upload(
        **where, UploadId=upload, MultipartUpload={"Parts": parts}
    )
    assert sha(bucket.get("parts")) == sha(part * 2)
    assert bucket.uploads("parts") == []


@pytest.mark.parametrize("server", [s3s.minio, s3s.seaweedfs])
def test_s3_by_tls_is_known_by_the_ca(
    server: Callable[..., AbstractContextManager[S3]], tmp_path: Path, own_pki: Pki
) -> None:
    with server(tmp_path, own_pki) as s3:
        url = s3.bucket("data").presigned("GET", "none")
        trusting = ssl.create_default_context(cafile=s3.ca)
        assert httpx.get(url, verify=trusting).status_code == 404
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(url)


# --- FTP ---


@pytest.fixture(scope="module", params=[ftps.ftp, ftps.vsftpd])
def ftp_program(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module", params=["ftp", "ftps"])
def ftp(
    request: pytest.FixtureRequest,
    ftp_program: Any,
    tmp_path_factory: pytest.TempPathFactory,
    own_pki: Pki,
) -> Iterator[Ftp]:
    own = own_pki if request.param == "ftps" else None
    with ftp_program(tmp_path_factory.mktemp("ftp"), own) as server:
        yield server


def test_ftp_keeps_a_file_and_serves_it(ftp: Ftp) -> None:
    with ftp.client() as client:
        client.mkd("d")
        client.storbinary("STOR d/b c.bin", io.BytesIO(CONTENT))
        got: list[bytes] = []
        client.retrbinary("RETR d/b c.bin", got.append)
        names = client.nlst("d")
    assert sha(b"".join(got)) == sha(CONTENT)
    assert sha((ftp.files / "d/b c.bin").read_bytes()) == sha(CONTENT)
    assert [name.removeprefix("d/") for name in names] == ["b c.bin"]


def test_ftp_resumes_at_a_place(ftp: Ftp) -> None:
    (ftp.files / "resumed").write_bytes(CONTENT)
    got: list[bytes] = []
    with ftp.client() as client:
        client.retrbinary("RETR resumed", got.append, rest=999_990)
    assert b"".join(got) == CONTENT[-10:]


def test_ftp_refuses_a_wrong_password_and_nobody(ftp: Ftp) -> None:
    with pytest.raises(ftplib.error_perm, match="530"):
        ftp.client(password="wrong")


def test_ftps_refuses_a_login_in_the_clear(ftp_program: Any, tmp_path: Path, own_pki: Pki) -> None:
    with ftp_program(tmp_path, own_pki) as server, ftplib.FTP() as client:
        client.connect("127.0.0.1", server.port)
        with pytest.raises(ftplib.error_perm, match=r"^5[35]0"):
            client.login(server.username, server.password)


def _fetched(ftp: Ftp, name: str, rest: int = 0) -> bytes:
    got = io.BytesIO()
    with ftp.client() as client:
        client.retrbinary(f"RETR {name}", got.write, rest=rest)
    return got.getvalue()


def test_ftp_cuts_the_first_files_and_serves_the_next(tmp_path: Path) -> None:
    with ftps.ftp(tmp_path, cut_after=300_000, cut_times=1) as server:
        (server.files / "x").write_bytes(CONTENT)
        with pytest.raises((ConnectionResetError, ftplib.error_temp)):
            _fetched(server, "x")
        assert sha(_fetched(server, "x")) == sha(CONTENT)


def test_ftp_cuts_an_upload(tmp_path: Path) -> None:
    with ftps.ftp(tmp_path, cut_after=300_000) as server:
        cut = pytest.raises((OSError, ftplib.error_temp))
        with contextlib.closing(server.client()) as client, cut:
            client.storbinary("STOR x", io.BytesIO(CONTENT * 4))
        assert (server.files / "x").stat().st_size < 300_000


def test_a_lying_ftp_server_serves_a_part_and_says_all_is_well(tmp_path: Path) -> None:
    with ftps.ftp(tmp_path, cut_after=300_000, liar=True) as server:
        (server.files / "x").write_bytes(CONTENT)
        assert _fetched(server, "x") == CONTENT[:300_000]


def test_a_lying_ftp_server_keeps_a_part_and_says_all_is_well(tmp_path: Path) -> None:
    with ftps.ftp(tmp_path, cut_after=30_000, liar=True) as server, server.client() as client:
        # Less than the connection holds: the client has sent it before the server ends it.
        client.storbinary("STOR x", io.BytesIO(CONTENT[:60_000]))
        assert (server.files / "x").stat().st_size < 60_000


def test_ftp_is_busy_as_often_as_it_was_told(tmp_path: Path) -> None:
    with ftps.ftp(tmp_path, busy_times=1) as server:
        (server.files / "x").write_bytes(CONTENT)
        with pytest.raises(ftplib.error_temp, match="450"):
            _fetched(server, "x")
        assert sha(_fetched(server, "x")) == sha(CONTENT)


def test_ftp_lacks_what_it_is_to_lack_and_lets_anybody_read(tmp_path: Path) -> None:
    with ftps.ftp(tmp_path, anonymous=True, without=["MLSD"]) as server:
        (server.files / "x").write_bytes(CONTENT)
        with ftplib.FTP() as client:
            client.connect("127.0.0.1", server.port)
            client.login()
            client.voidcmd("TYPE I")
            assert client.size("x") == len(CONTENT)
            with pytest.raises(ftplib.error_perm, match="500"):
                list(client.mlsd())
            with pytest.raises(ftplib.error_perm, match="550"):
                client.storbinary("STOR y", io.BytesIO(b""))


# --- HTTP ---


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory, own_pki: Pki) -> Iterator[Web]:
    with nginx(tmp_path_factory.mktemp("http"), own_pki) as server:
        server.offer("d/x.bin", CONTENT)
        server.offer("d/y z.bin", b"2")
        yield server


def test_http_serves_takes_and_lists(web: Web) -> None:
    assert sha(httpx.get(f"{web.base}/d/x.bin").content) == sha(CONTENT)
    assert httpx.put(f"{web.base}/new/er/z.bin", content=CONTENT).status_code == 201
    assert sha((web.files / "new/er/z.bin").read_bytes()) == sha(CONTENT)
    assert '<a href="y%20z.bin">' in httpx.get(f"{web.base}/d/").text


def test_http_resumes_by_range_but_where_it_is_to_lack_that(web: Web) -> None:
    part = {"Range": "bytes=999990-"}
    resumed = httpx.get(f"{web.base}/d/x.bin", headers=part)
    whole = httpx.get(f"{web.base}/whole/d/x.bin", headers=part)
    assert (resumed.status_code, resumed.content) == (206, CONTENT[-10:])
    assert (whole.status_code, sha(whole.content)) == (200, sha(CONTENT))


def test_http_private_files_want_the_password(web: Web) -> None:
    url, login = f"{web.base}/private/d/x.bin", (web.username, web.password)
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, auth=(web.username, "wrong")).status_code == 401
    assert sha(httpx.get(url, auth=login).content) == sha(CONTENT)
    assert httpx.put(f"{web.base}/private/p/x", content=CONTENT).status_code == 401
    assert httpx.put(f"{web.base}/private/p/x", content=CONTENT, auth=login).status_code == 201
    assert sha((web.files / "p/x").read_bytes()) == sha(CONTENT)


def test_http_token_files_want_the_token(web: Web) -> None:
    url, bearer = f"{web.base}/token/d/x.bin", {"Authorization": f"Bearer {web.token}"}
    assert httpx.get(url).status_code == 401
    assert sha(httpx.get(url, headers=bearer).content) == sha(CONTENT)
    assert httpx.put(f"{web.base}/token/t/x", content=b"1", headers=bearer).status_code == 201


@pytest.mark.parametrize("way", ["moved", "kept", "elsewhere"])
def test_http_redirects_lead_to_the_file(web: Web, way: str) -> None:
    url = f"{web.base}/{way}/d/y%20z.bin"
    assert httpx.get(url, follow_redirects=True).content == b"2"


def test_http_redirects_may_lead_to_the_second_host_and_to_tls(web: Web) -> None:
    paths = {"elsewhere": f"{web.other}/d/x.bin", "secure": f"{web.tls}/d/x.bin"}
    for way, there in paths.items():
        assert httpx.get(f"{web.base}/{way}/d/x.bin").headers["Location"] == there
    trusting = ssl.create_default_context(cafile=web.ca)
    assert sha(httpx.get(paths["secure"], verify=trusting).content) == sha(CONTENT)


def test_http_redirects_may_lead_astray(web: Web) -> None:
    places = {
        f"{way}/x": httpx.get(f"{web.base}/{way}/x").headers["Location"]
        for way in ("leads/ftp", "leads/file", "round", "login")
    }
    assert places == {
        "leads/ftp/x": f"ftp://127.0.0.1:{web.port}/x",
        "leads/file/x": "file:///x",
        "round/x": "/round/x",
        "login/x": "/pages/sign-in.html",
    }


def test_http_error_pages_come_with_200(web: Web) -> None:
    for answer in (
        httpx.get(f"{web.base}/page/d/x.bin"),
        httpx.get(f"{web.base}/login/d/x.bin", follow_redirects=True),
    ):
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html")
        assert "Who are you?" in answer.text


def test_http_statuses_are_those_asked_for(web: Web) -> None:
    assert [httpx.get(f"{web.base}/status/{s}").status_code for s in STATUS] == list(STATUS)
    assert httpx.put(f"{web.base}/readonly/x", content=b"").status_code == 405


def test_http_may_send_without_a_length_or_with_a_wrong_checksum(web: Web) -> None:
    chunked = httpx.get(f"{web.base}/chunked/d/x.bin")
    assert "Content-Length" not in chunked.headers
    assert sha(chunked.content) == sha(CONTENT)
    wrong = httpx.get(f"{web.base}/md5-wrong/d/x.bin")
    assert wrong.headers["Content-MD5"] == "1B2M2Y8AsgTpgAmY7PhCfg=="


def test_http_tells_who_showed_what_to_whom(web: Web) -> None:
    httpx.get(f"{web.other}/told", headers={"Authorization": "Bearer t", "Range": "bytes=1-"})
    (asked,) = web.asked("/told")
    assert (asked.method, asked.status, asked.host) == ("GET", 404, web.other_port)
    assert (asked.authorization, asked.range) == ("Bearer t", "bytes=1-")


# --- the proxy ---


@pytest.fixture
def proxy(web: Web) -> Iterator[Proxy]:
    with faulty(web.port) as proxy:
        yield proxy


def _get(proxy: Proxy, path: str = "/d/x.bin") -> bytes:
    with urllib.request.urlopen(proxy.url(path), timeout=5) as answer:
        content: bytes = answer.read()
        return content


def test_the_proxy_passes_both_ways(proxy: Proxy, web: Web) -> None:
    assert sha(_get(proxy)) == sha(CONTENT)
    assert httpx.put(proxy.url("/by/proxy"), content=CONTENT).status_code == 201
    assert sha((web.files / "by/proxy").read_bytes()) == sha(CONTENT)


def test_the_proxy_answers_itself_as_often_as_told(proxy: Proxy) -> None:
    proxy.next(Answer(503, {"Retry-After": "1"}), Answer(429))
    got = httpx.get(proxy.url("/d/x.bin"))
    assert (got.status_code, got.headers["Retry-After"]) == (503, "1")
    assert httpx.put(proxy.url("/again"), content=CONTENT).status_code == 429
    assert sha(_get(proxy)) == sha(CONTENT)
    assert proxy.connections == 3


@pytest.mark.parametrize("fault", [Cut(), Cut(after=10), Cut(after=500_000)])
def test_the_proxy_cuts(proxy: Proxy, fault: Fault) -> None:
    proxy.next(fault)
    with pytest.raises(OSError, match="reset by peer"):
        _get(proxy)
    assert sha(_get(proxy)) == sha(CONTENT)


def test_the_proxy_cuts_an_upload(proxy: Proxy) -> None:
    proxy.next(CutUpload(after=300_000))
    with pytest.raises(httpx.TransportError):
        httpx.put(proxy.url("/cut"), content=CONTENT * 8)


@pytest.mark.parametrize("fault", [Truncate(after=500_000), Length(by=10)])
def test_the_proxy_makes_the_body_shorter_than_it_is_said_to_be(proxy: Proxy, fault: Fault) -> None:
    proxy.next(fault)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        httpx.get(proxy.url("/d/x.bin"))


def test_the_proxy_says_less_than_there_is(proxy: Proxy) -> None:
    proxy.next(Length(by=-10))
    assert _get(proxy) == CONTENT[:-10]


def test_the_proxy_changes_a_byte(proxy: Proxy) -> None:
    proxy.next(Corrupt(at=7))
    got = _get(proxy)
    assert [n for n in range(len(CONTENT)) if got[n] != CONTENT[n]] == [7]


@pytest.mark.parametrize("fault", [Silence(), Delay(seconds=60)])
def test_the_proxy_keeps_silent(proxy: Proxy, fault: Fault) -> None:
    proxy.always(fault)
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(proxy.url("/d/x.bin"), timeout=0.3)


def test_nobody_listens_where_nobody_is_to_listen() -> None:
    with nobody_listens() as port, pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/")
