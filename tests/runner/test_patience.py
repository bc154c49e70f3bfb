"""The small parts of transfers: patience, threads, checksums, compression, where things lead."""

import base64
import gzip
import hashlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesp_api.runner.checksums import checksums
from tesp_api.runner.crew import Crew, Hand
from tesp_api.runner.gunzip import Gunzip
from tesp_api.runner.http import is_expired
from tesp_api.runner.order import read_order
from tesp_api.runner.patience import Outdated, Patience
from tesp_api.runner.transfer import (
    Expired,
    Place,
    Refused,
    Stopped,
    Terms,
    Transient,
    below_url,
    public_url,
)
from tesp_api.runner.trouble import Trouble
from tests.runner.conftest import Engine, Handler, Node, Web, sh

PLACE = Place("http://u:secret@h/a?sig=hidden", "http://h/a", {"X-Key": "Bearer covered"})


class Steps:
    """Raises one after another, then returns."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def patience(attempts: int = 3, backoff_s: float = 0.001) -> Patience:
    return Patience(attempts, backoff_s, lambda: True, [])


def test_no_pause_after_the_last_attempt() -> None:
    steps = Steps(*[Transient("x", 25.0)] * 2)
    began = time.monotonic()
    with pytest.raises(Trouble, match="input x failed after 1 attempts: x"):
        patience(1)("input x", PLACE, steps)
    assert time.monotonic() - began < 5


def test_a_pause_that_the_other_side_asks_for_is_kept_if_it_is_short() -> None:
    for said, least, most in ((0.3, 0.3, 5.0), (86400.0, 0.0, 5.0), (0.0, 0.0, 5.0)):
        began = time.monotonic()
        assert patience()("x", PLACE, Steps(Transient("x", said))) == "done"
        assert least <= time.monotonic() - began < most


def test_a_sentence_holds_none_of_the_secrets_that_another_side_repeats() -> None:
    said = "secret sig=hidden hidden Bearer covered covered"
    for error in (Transient(said), Refused(400, said), Trouble(said)):
        with pytest.raises(Trouble) as told:
            patience(1)("input http://h/a", PLACE, Steps(error))
        assert not any(word in str(told.value) for word in ("secret", "hidden", "covered"))


def test_only_what_was_signed_by_the_server_can_be_outdated() -> None:
    for signed in (True, False):
        with pytest.raises(Trouble) as told:
            patience()("x", PLACE._replace(signed=signed), Steps(Expired(403, "over")))
        assert isinstance(told.value, Outdated) is signed


def crew(size: int = 3) -> Crew:
    return Crew(size, lambda: Hand({}, Terms(1.0)))


def test_a_crew_does_all_and_what_comes_of_it_and_leaves_no_thread() -> None:
    done: list[int] = []

    def errand(number: int) -> Any:
        def do(_hand: Hand) -> Iterator[Any]:
            done.append(number)
            return (errand(number * 10 + inner) for inner in range(3) if number < 100)

        return do

    crew().work(errand(number) for number in (1, 2))
    assert sorted(done) == sorted(
        [1, 2, *(10 * a + b for a in (1, 2) for b in range(3))]
        + [100 * a + 10 * b + c for a in (1, 2) for b in range(3) for c in range(3)]
    )
    assert not [one for one in threading.enumerate() if one.name.startswith("transfer-")]


def test_a_crew_stops_at_the_first_failure() -> None:
    waiting = crew()
    held = threading.Event()

    def hold(_hand: Hand) -> None:
        held.set()
        while waiting.wanted():
            time.sleep(0.01)
        raise Stopped

    def fail(_hand: Hand) -> None:
        held.wait(5)
        raise Trouble("the first")

    with pytest.raises(Trouble, match="the first"):
        waiting.work([hold, fail, *[hold] * 100])


def test_a_crew_whose_errands_cannot_be_told_fails() -> None:
    def errands() -> Iterator[Any]:
        yield lambda _hand: None
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        crew().work(errands())


DATA = b"some content" * 1000


def digest(name: str) -> str:
    return base64.b64encode(hashlib.new(name, DATA).digest()).decode()


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("Content-MD5", digest("md5")),
        ("Digest", f"SHA-256={digest('sha256')}"),
        ("Digest", f"md5={digest('md5')}, sha-512={digest('sha512')}"),
        ("Repr-Digest", f"sha-256=:{digest('sha256')}:"),
        ("x-goog-hash", f"crc32c=n03x6A==, md5={digest('md5')}"),
    ],
)
def test_each_kind_of_checksum_is_understood(header: str, text: str) -> None:
    for data, right in ((DATA, True), (DATA + b"x", False)):
        checks = checksums(lambda name: {header: text}.get(name, ""))
        assert checks
        for check in checks:
            check.update(data)
        assert all((check.verdict() is None) is right for check in checks)


def test_a_checksum_that_nobody_knows_is_none() -> None:
    told = {"Digest": "adler32=abcd, id-sha=:x", "x-goog-hash": "crc32c=n03x6A=="}
    assert checksums(lambda name: told.get(name, "")) == []


def test_gzip_is_undone_also_in_several_members_and_pieces() -> None:
    packed = gzip.compress(DATA) + gzip.compress(b"more") + gzip.compress(b"")
    gunzip, found = Gunzip(), b""
    for start in range(0, len(packed), 7):
        found += b"".join(gunzip.pieces(packed[start : start + 7]))
    gunzip.end()
    assert found == DATA + b"more"


def test_a_broken_gzip_is_an_error() -> None:
    gunzip = Gunzip()
    list(gunzip.pieces(gzip.compress(DATA)[:-5]))
    with pytest.raises(Transient, match="not all"):
        gunzip.end()
    with pytest.raises(Transient, match="no proper gzip"):
        list(Gunzip().pieces(b"<html>"))


def test_a_little_gzip_that_becomes_much_comes_in_pieces() -> None:
    packed = gzip.compress(bytes(64 << 20))
    assert max(map(len, Gunzip().pieces(packed))) <= 1 << 20


@pytest.mark.parametrize(
    ("coding", "name"), [("gzip", "x"), ("x-gzip", "x.txt"), ("gzip", "x.gz"), ("gzip", "x.BGZ")]
)
def test_an_answer_that_is_compressed_unasked_is_read_right(
    host: Engine, node: Node, web: Web, coding: str, name: str
) -> None:
    kept = name.lower().endswith("gz")
    packed = gzip.compress(DATA)
    web.moods[f"/{name}"] = [lambda one: one.answer(200, packed, Content_Encoding=coding)]
    inputs = [{"path": "/in/x", "url": f"{web.url}/{name}"}]
    done = node.run(host, sh("sha256sum < /in/x"), inputs=inputs).complete()
    expected = hashlib.sha256(packed if kept else DATA).hexdigest()
    assert done.stdout().split()[0] == expected
    assert web.requests(f"/{name}")[0][1]["Accept-Encoding"] == "identity"


def test_a_compression_that_is_unknown_is_refused(host: Engine, node: Node, web: Web) -> None:
    web.moods["/x"] = [lambda one: one.answer(200, b"?", Content_Encoding="br")]
    done = node.run(host, ["true"], inputs=[{"path": "/in/x", "url": f"{web.url}/x"}])
    assert "the answer is coded as 'br'" in done.reason


AT = "Mon, 23 Nov 2026 05:00:00 GMT"


@pytest.mark.parametrize(
    ("query", "expired"),
    [
        ("X-Amz-Date=20261123T040000Z&X-Amz-Expires=3599", True),
        ("x-amz-date=20261123T040000Z&x-amz-expires=3599", True),
        ("X-Amz-Date=20261123T040000Z&X-Amz-Expires=3600", False),
        ("X-Amz-Date=20261123T040000Z", False),
        ("X-Amz-Date=yesterday&X-Amz-Expires=1", False),
        ("", False),
    ],
)
def test_a_signature_has_ended_by_the_clock_of_the_answer(query: str, expired: bool) -> None:
    assert is_expired(f"http://h/a?{query}", AT) is expired
    assert not is_expired(f"http://h/a?{query}", "")


STEP = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1)
NAME = st.lists(STEP, min_size=1, max_size=4).map("/".join)


@given(st.sampled_from(["http://h/a", "ftp://h/a", "s3://b/a", "file:///a", "/a", "http://h"]),
       st.sampled_from(["", "/", "//"]), NAME)  # fmt: skip
def test_a_name_is_joined_by_exactly_one_slash(url: str, slash: str, name: str) -> None:
    joined = below_url(url + slash, name)
    assert joined.startswith(f"{url}/")
    assert not joined[len(url) + 1 :].startswith("/")
    if not url.startswith("/"):
        assert all(32 < ord(char) < 127 for char in joined)
        assert not set(joined[len(url) :]) & set("?#\\ ")


def test_a_query_stays_at_the_end() -> None:
    assert below_url("https://h/d/?token=t", "a b") == "https://h/d/a%20b?token=t"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:p@h/a?b#c", "http://h/a"),
        ("ftp://u:p@h:21/a", "ftp://h:21/a"),
        ("http://h?sig=x", "http://h"),
        ("/a?b", "/a?b"),
        ("file:///a%3Fb", "file:///a%3Fb"),
    ],
)
def test_a_url_is_shown_without_credentials(url: str, shown: str) -> None:
    assert public_url(url) == shown


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/x", "a//b", "", ".", "a\0b"])
def test_a_listed_name_that_leads_elsewhere_is_refused(name: str) -> None:
    base = {"job": "j", "engine": {"kind": "host"}}
    one = {"path": "/in", "type": "DIRECTORY", "name": "s3://b/d"}
    listed = {"files": [{"name": name, "url": "http://h/x"}]}
    for more in (listed, {"files": [], "directories": [name]}):
        with pytest.raises(Trouble):
            read_order({**base, "inputs": [{**one, **more}]})


def test_directories_above_are_made_by_webdav_where_they_are_wanted(
    host: Engine, node: Node, web: Web
) -> None:
    made: list[str] = []

    def put(handler: Handler) -> None:
        handler.body()
        handler.answer(409)

    def mkcol(handler: Handler) -> None:
        made.append(handler.path)
        handler.answer(409 if handler.path == "/d/o/sub/" and len(made) == 1 else 201)

    web.moods["/d/o/sub/x"] = [put]
    web.moods["/d/o/sub/"] = [mkcol, mkcol]
    web.moods["/d/o/"] = [mkcol]
    outputs = [{"path": "/out", "type": "DIRECTORY", "url": f"{web.url}/d/o"}]
    node.run(host, sh("mkdir /out/sub; echo 1 > /out/sub/x"), outputs=outputs).complete()
    assert made == ["/d/o/sub/", "/d/o/", "/d/o/sub/"]
    assert web.files["/d/o/sub/x"] == b"1\n"
