"""What the server signs and asks, against two real S3 servers that check signatures."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from tesp_api.adapters import make_storage
from tesp_api.domain.errors import OutOfReach, StorageUnreachable
from tesp_api.domain.task import Left
from tesp_api.domain.tes import Input, Output
from tesp_api.settings.model import Keys as AllSettings
from tesp_api.settings.model import Settings
from tesp_api.storage import UrlStorage
from tests.servers import pki as certificates
from tests.servers.process import nobody_listens
from tests.servers.s3 import S3, Bucket, minio, seaweedfs

MIB = 1024 * 1024
ALICE, BOB = "https://idp.example|alice", "https://idp.example|bob"
ALICES = "https%3A%2F%2Fidp.example%7Calice"


class MovableClock:
    """Time that a test may set, in a server that lives in the real one."""

    def __init__(self) -> None:
        self.behind = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) - self.behind

    def monotonic(self) -> float:
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        raise NotImplementedError


Server = Callable[[Path], AbstractContextManager[S3]]


@pytest.fixture(scope="module", params=[minio, seaweedfs], ids=["minio", "seaweedfs"])
def s3(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    server: Server = request.param
    with server(tmp_path_factory.mktemp("s3")) as s3:
        yield s3


@pytest.fixture(scope="module")
def bucket(s3: S3) -> Bucket:
    return s3.bucket("data")


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
def storage(s3: S3, clock: MovableClock) -> UrlStorage:
    return storage_of(clock, entry(s3))


def entry(s3: S3, **more: Any) -> dict[str, Any]:
    keys = {"access_key": s3.access_key, "secret_key": s3.secret_key}
    return {"prefixes": ["s3://"], "endpoint": s3.endpoint, **keys, **more}


def storage_of(clock: MovableClock, *entries: Mapping[str, Any], **more: Any) -> UrlStorage:
    auth = more.pop("auth", {})
    given = {"storage": {"s3": entries, **more}, **auth}
    keys = AllSettings.model_validate_json(json.dumps(given))
    return make_storage(Settings(**dict(keys)), clock)


async def fetch(storage: UrlStorage, url: str, owner: str | None = None, **more: Any) -> Any:
    return await storage.fetch_order(Input(path="/in", url=url, **more), owner)


async def put_url(storage: UrlStorage, url: str) -> str:
    order = await storage.send_order(Output(path="/out", url=url), None)
    return str(order["url"])


def left(path: str, below: str, size_bytes: int) -> Left:
    return Left(output=0, path=path, below=below, size_bytes=size_bytes)


KEYS = [
    "plain",
    "a b/c d.txt",
    "ünï/日本.txt",
    "plus+and%and%20.txt",
    "q?u=e&r#y.txt",
    "quote'\"<>&;:@=,$!*().txt",
    "tilde~dash-dot._",
    "dir/deep/er/file",
]


@pytest.mark.parametrize("key", KEYS)
async def test_an_object_of_any_name_is_read_and_written_by_its_signed_url(
    storage: UrlStorage, bucket: Bucket, key: str
) -> None:
    content = key.encode() * 3
    order = await storage.send_order(Output(path="/out", url=f"s3://data/names/{key}"), None)
    assert order["signed"]
    assert put(order["url"], content).status_code == 200
    assert bucket.get(f"names/{key}") == content

    order = await fetch(storage, f"s3://data/names/{key}")
    answer = get(order["url"])
    assert (answer.status_code, answer.content) == (200, content)
    assert (order["name"], order["signed"]) == (f"s3://data/names/{key}", True)


@pytest.mark.parametrize("key", ["/leading", "double//slash", "end//x"])
async def test_slashes_are_letters_of_a_name_or_refused_by_the_server_and_never_another_object(
    storage: UrlStorage, bucket: Bucket, key: str
) -> None:
    url = await put_url(storage, f"s3://data/{key}")
    if put(url, key.encode()).status_code != 200:
        return
    read = get((await fetch(storage, f"s3://data/{key}"))["url"])
    assert read.content == bucket.get(key) == key.encode()


async def test_a_signature_is_for_one_method_one_object_and_not_to_be_changed(
    storage: UrlStorage, bucket: Bucket
) -> None:
    bucket.put("sealed", b"x")
    url = (await fetch(storage, "s3://data/sealed"))["url"]
    assert get(url).status_code == 200
    assert put(url, b"y").status_code == 403
    assert get(url.replace("sealed", "plain")).status_code == 403
    assert get(url.replace("X-Amz-Expires=43200", "X-Amz-Expires=604800")).status_code == 403
    assert get(url[:-1] + ("0" if url[-1] != "0" else "1")).status_code == 403
    assert bucket.get("sealed") == b"x"


async def test_a_url_is_good_for_as_long_as_the_settings_say(
    s3: S3, bucket: Bucket, clock: MovableClock
) -> None:
    bucket.put("old", b"x")
    short = storage_of(clock, entry(s3), presign_s=60)
    clock.behind = timedelta(seconds=50)
    assert get((await fetch(short, "s3://data/old"))["url"]).status_code == 200
    clock.behind = timedelta(seconds=70)
    answer = get((await fetch(short, "s3://data/old"))["url"])
    assert answer.status_code == 403
    assert "expired" in answer.text


async def test_nothing_of_the_secret_key_is_in_an_order(storage: UrlStorage, s3: S3) -> None:
    order = await fetch(storage, "s3://data/x")
    assert s3.secret_key not in str(order)


# Directories.


async def test_a_directory_is_listed_with_all_its_pages_and_its_empty_directories(
    storage: UrlStorage, bucket: Bucket
) -> None:
    wanted = {f"many/{at % 7}/ü {at}.txt": str(at).encode() for at in range(1_020)}
    put_all(bucket, {**wanted, "many/empty/": b"", "many/0/": b"", "manyother": b"no"})
    for url in ("s3://data/many", "s3://data/many/"):
        order = await fetch(storage, url, type="DIRECTORY")
        assert {file["name"]: file["size_bytes"] for file in order["files"]} == {
            key.removeprefix("many/"): len(content) for key, content in wanted.items()
        }
        assert "empty" in order["directories"]
        assert "url" not in order
    last = order["files"][-1]
    assert get(last["url"]).content == wanted[f"many/{last['name']}"]


async def test_a_whole_bucket_is_a_directory_too(storage: UrlStorage, s3: S3) -> None:
    other = s3.bucket("whole")
    other.put("a/b", b"1")
    order = await fetch(storage, "s3://whole", type="DIRECTORY")
    assert [file["name"] for file in order["files"]] == ["a/b"]


async def test_a_directory_of_nothing_and_a_bucket_that_is_not_there_are_told(
    storage: UrlStorage,
) -> None:
    with pytest.raises(OutOfReach, match="s3://data/nothing/: there are no objects below it"):
        await fetch(storage, "s3://data/nothing/", type="DIRECTORY")
    with pytest.raises(OutOfReach, match="s3://no-such-bucket/x: S3 answered NoSuchBucket"):
        await fetch(storage, "s3://no-such-bucket/x", type="DIRECTORY")


async def test_wrong_keys_are_told_without_them(s3: S3, clock: MovableClock) -> None:
    wrong = storage_of(clock, entry(s3.with_secret("hunter2hunter2")))
    with pytest.raises(OutOfReach, match="S3 answered SignatureDoesNotMatch") as caught:
        await fetch(wrong, "s3://data/x", type="DIRECTORY")
    assert s3.access_key not in str(caught.value)
    stranger = storage_of(clock, entry(s3, access_key="AKSTRANGER01"))
    with pytest.raises(OutOfReach, match="S3 answered InvalidAccessKeyId") as caught:
        await fetch(stranger, "s3://data/x", type="DIRECTORY")
    assert "AKSTRANGER01" not in str(caught.value)


async def test_a_bucket_is_not_public_by_mistake(s3: S3, clock: MovableClock) -> None:
    public = {"prefixes": ["s3://"], "endpoint": s3.endpoint, "anonymous": True}
    open_to_all = storage_of(clock, public)
    order = await fetch(open_to_all, "s3://data/x")
    assert "signed" not in order
    assert get(order["url"]).status_code == 403
    with pytest.raises(OutOfReach, match="S3 answered AccessDenied"):
        await fetch(open_to_all, "s3://data/x", type="DIRECTORY")


async def test_an_s3_that_does_not_answer_is_weather(s3: S3, clock: MovableClock) -> None:
    with nobody_listens() as port:
        away = storage_of(clock, entry(s3, endpoint=f"http://127.0.0.1:{port}"), timeout_s=1)
        with pytest.raises(StorageUnreachable, match="s3://data/x: its S3 does not answer"):
            await fetch(away, "s3://data/x", type="DIRECTORY")
        # A file is signed without a word to S3.
        assert (await fetch(away, "s3://data/x"))["signed"]


# Whose.


async def test_what_is_alices_is_not_bobs(s3: S3, bucket: Bucket, clock: MovableClock) -> None:
    url = bucket.put(f"{ALICES}/secret/file", b"hers")
    own = storage_of(clock, entry(s3, prefixes=["s3://data/{owner}/"], owners=["*"]), auth=AUTH)
    for kind in ({}, {"type": "DIRECTORY"}):
        with pytest.raises(OutOfReach, match=r"no storage\.s3 of this server serves it"):
            await fetch(own, url, BOB, **kind)
        with pytest.raises(OutOfReach):
            await own.send_order(Output(path="/out", url=url, **kind), BOB)
    with pytest.raises(OutOfReach):
        await own.stage_order(Output(path="/o", url=url), left("/o", "", 1), BOB, None)
    assert get((await fetch(own, url, ALICE))["url"]).content == b"hers"


async def test_with_authentication_nobody_is_served_unless_named(
    s3: S3, bucket: Bucket, clock: MovableClock
) -> None:
    url = bucket.put("whose", b"x")
    nobodys = storage_of(clock, entry(s3), auth=AUTH)
    alices = storage_of(clock, entry(s3, owners=[ALICE]), auth=AUTH)
    for storage, owner in ((nobodys, ALICE), (nobodys, None), (alices, BOB), (alices, None)):
        with pytest.raises(OutOfReach):
            await fetch(storage, url, owner)
    assert get((await fetch(alices, url, ALICE))["url"]).content == b"x"


AUTH = {"oauth": {"enable": True, "issuers": ["https://idp.example"], "required_audience": "tes"}}


# What is left by the run job.


async def test_left_files_are_sent_by_urls_of_their_own(
    storage: UrlStorage, bucket: Bucket
) -> None:
    for url in ("s3://data/results", "s3://data/results/"):
        output = Output(path="/out", url=url, type="DIRECTORY")
        order = await storage.send_order(output, None)
        assert order == {"path": "/out", "type": "DIRECTORY", "name": url, "deferred": True}
        file = left("/out/a b/ü", "a b/ü", 3)
        assert await storage.open_uploads(output, file, None) is None, "one PUT will do"
        order = await storage.stage_order(output, file, None, None)
        assert order["name"] == "s3://data/results/a b/ü"
        assert put(order["url"], url.encode()).status_code == 200
        assert bucket.get("results/a b/ü") == url.encode()


async def test_a_large_file_goes_up_in_parts(s3: S3, bucket: Bucket, clock: MovableClock) -> None:
    storage = storage_of(clock, entry(s3, multipart_bytes=MIB))
    content = bytes(range(256)) * 4 * 1024 * 65
    output, file = Output(path="/out", url="s3://data/large.bin"), left("/out", "", len(content))
    upload = await storage.begin_upload(output, file, None)
    order = await storage.stage_order(output, file, None, upload)
    etags = send_parts(order, content)
    assert len(etags) == 2

    await storage.complete_upload(output, file, None, upload, etags)
    assert digest(bucket.get("large.bin")) == digest(content)
    assert bucket.uploads("large.bin") == []
    # Twice, as after a restart.
    await storage.complete_upload(output, file, None, upload, etags)
    await storage.abort_upload(output, file, None, upload)
    assert digest(bucket.get("large.bin")) == digest(content)


async def test_uploads_under_way_to_the_same_key_are_known_and_no_others(
    s3: S3, bucket: Bucket, clock: MovableClock
) -> None:
    storage = storage_of(clock, entry(s3, multipart_bytes=MIB))
    output, file = Output(path="/out", url="s3://data/open"), left("/out/a b", "a b", 2 * MIB)
    longer = left("/out/a b c", "a b c", 2 * MIB)
    assert await storage.open_uploads(output, file, None) == set()
    one = await storage.begin_upload(output, file, None)
    two = await storage.begin_upload(output, file, None)
    other = await storage.begin_upload(output, longer, None)
    assert await storage.open_uploads(output, file, None) == {one, two}
    await storage.abort_upload(output, file, None, one)
    assert await storage.open_uploads(output, file, None) == {two}
    await storage.abort_upload(output, file, None, two)
    await storage.abort_upload(output, longer, None, other)


async def test_an_upload_that_is_gone_is_not_taken_for_an_older_object_of_the_same_size(
    s3: S3, bucket: Bucket, clock: MovableClock
) -> None:
    storage = storage_of(clock, entry(s3, multipart_bytes=MIB))
    output, file = Output(path="/out", url="s3://data/again.bin"), left("/out", "", 2 * MIB)
    bucket.put("again.bin", b"o" * 2 * MIB)
    upload = await storage.begin_upload(output, file, None)
    etags = send_parts(await storage.stage_order(output, file, None, upload), b"n" * 2 * MIB)
    await storage.abort_upload(output, file, None, upload)
    await storage.abort_upload(output, file, None, upload)
    assert bucket.uploads("again.bin") == []
    with pytest.raises(OutOfReach, match=r"s3://data/again\.bin: S3 answered NoSuchUpload"):
        await storage.complete_upload(output, file, None, upload, etags)


async def test_parts_without_their_right_etags_make_no_object(
    s3: S3, bucket: Bucket, clock: MovableClock
) -> None:
    storage = storage_of(clock, entry(s3, multipart_bytes=MIB))
    output, file = Output(path="/out", url="s3://data/odd.bin"), left("/out", "", 2 * MIB)
    upload = await storage.begin_upload(output, file, None)
    send_parts(await storage.stage_order(output, file, None, upload), b"n" * 2 * MIB)
    with pytest.raises(OutOfReach, match="S3 answered InvalidPart"):
        await storage.complete_upload(output, file, None, upload, [f'"{"0" * 32}"'])
    assert bucket.names("odd.bin") == []


async def test_a_ca_of_the_operator_is_trusted_beside_the_systems(
    tmp_path: Path, clock: MovableClock
) -> None:
    pki = certificates.pki(tmp_path / "pki")
    with minio(tmp_path, pki) as s3:
        s3.bucket("tls").put("d/x", b"1")
        trusting = storage_of(clock, entry(s3), ca_file=str(pki.ca))
        order = await fetch(trusting, "s3://tls/d", type="DIRECTORY")
        assert [file["name"] for file in order["files"]] == ["x"]
        with pytest.raises(OutOfReach, match="no TLS with its S3"):
            await fetch(storage_of(clock, entry(s3)), "s3://tls/d", type="DIRECTORY")


async def test_keys_are_found_where_botocore_looks_for_them(
    s3: S3, bucket: Bucket, clock: MovableClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket.put("chain", b"x")
    bare = {"prefixes": ["s3://"], "endpoint": s3.endpoint}
    home = tmp_path / "credentials"
    home.write_text(
        f"[lab]\naws_access_key_id = {s3.access_key}\naws_secret_access_key = {s3.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    order = await fetch(storage_of(clock, {**bare, "profile": "lab"}), "s3://data/chain")
    assert get(order["url"]).content == b"x"
    with pytest.raises(OutOfReach, match="this server has no keys for it"):
        await fetch(storage_of(clock, bare), "s3://data/chain")
    with pytest.raises(OutOfReach, match="profile"):
        await fetch(storage_of(clock, {**bare, "profile": "no"}), "s3://data/chain")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    storage = storage_of(clock, bare)
    assert get((await fetch(storage, "s3://data/chain"))["url"]).content == b"x"
    assert (await fetch(storage, "s3://data", type="DIRECTORY"))["files"]


# Answers that no healthy server gives.


class Moody(BaseHTTPRequestHandler):
    """Answers everything with the status and body that its server has."""

    def do_GET(self) -> None:
        server = cast("MoodyServer", self.server)
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(server.body)))
        self.end_headers()
        self.wfile.write(server.body)

    do_POST = do_DELETE = do_HEAD = do_GET

    def log_message(self, *_arguments: Any) -> None:
        pass


class MoodyServer(ThreadingHTTPServer):
    status, body = 200, b""


@pytest.fixture
def moody() -> Iterator[MoodyServer]:
    with MoodyServer(("127.0.0.1", 0), Moody) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def moody_storage(server: MoodyServer, clock: MovableClock) -> UrlStorage:
    endpoint = f"http://127.0.0.1:{server.server_port}"
    keys = {"access_key": "AKCANARY", "secret_key": "canary-5e1f"}
    return storage_of(clock, {"prefixes": ["s3://"], "endpoint": endpoint, **keys}, timeout_s=2)


def told(code: str, message: str = "says S3") -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (503, told("SlowDown"), StorageUnreachable),
        (500, told("InternalError"), StorageUnreachable),
        (502, b"<html>Bad Gateway</html>", StorageUnreachable),
        (429, told("TooManyRequests"), StorageUnreachable),
        (400, told("RequestTimeout"), StorageUnreachable),
        (200, b"<html>Welcome</html><", StorageUnreachable),
        (403, told("AccessDenied"), OutOfReach),
        (403, told("AccessDenied", "AKCANARY may not, with canary-5e1f"), OutOfReach),
        (404, told("NoSuchBucket"), OutOfReach),
        (501, told("NotImplemented"), OutOfReach),
        (400, told("ExpiredToken"), OutOfReach),
    ],
)
async def test_weather_is_told_from_answers_and_neither_tells_keys(
    moody: MoodyServer,
    clock: MovableClock,
    status: int,
    body: bytes,
    error: type[Exception],
) -> None:
    moody.status, moody.body = status, body
    storage = moody_storage(moody, clock)
    with pytest.raises(error, match="s3://data/d") as caught:
        await fetch(storage, "s3://data/d", type="DIRECTORY")
    assert "CANARY" not in str(caught.value)
    assert "canary" not in str(caught.value)


async def test_a_completion_that_fails_with_200_is_a_failure(
    moody: MoodyServer, clock: MovableClock
) -> None:
    moody.body = b'<?xml version="1.0" encoding="UTF-8"?>' + told("InternalError")
    output, file = Output(path="/out", url="s3://data/x"), left("/out", "", 2)
    with pytest.raises(StorageUnreachable):
        await moody_storage(moody, clock).complete_upload(output, file, None, "id", ['"e"'])


def get(url: str) -> httpx.Response:
    return httpx.get(url)


def put(url: str, content: bytes) -> httpx.Response:
    return httpx.put(url, content=content)


def put_all(bucket: Bucket, objects: Mapping[str, bytes]) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(bucket.put, objects.keys(), objects.values()))


def send_parts(order: Mapping[str, Any], content: bytes) -> Sequence[str]:
    size, urls = order["part_bytes"], order["parts"]
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    answers = [put(url, part) for url, part in zip(urls, parts, strict=True)]
    return [answer.headers["ETag"] for answer in answers]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
