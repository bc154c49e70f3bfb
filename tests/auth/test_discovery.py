"""Discovery over real connections: what an issuer, or whoever stands in its place, may answer."""

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tesp_api.auth import Discovery
from tesp_api.auth.fetch import LONGEST
from tesp_api.domain.errors import IssuerUnreachable
from tests.auth.keys import Signer, ec_key, rsa_key
from tests.auth.web import DESCRIPTION, KEYS, Answer, Web, answer, drops, for_ever, serving

SIGNER = Signer(rsa_key(0))
SHORT_S = 0.5


@pytest.fixture
async def issuer() -> AsyncIterator[Web]:
    async with serving() as web:
        web.publish(SIGNER)
        yield web


@pytest.fixture
async def other() -> AsyncIterator[Web]:
    """A server that must never be asked for anything."""
    async with serving() as web:
        web.publish(SIGNER)
        yield web


@pytest.fixture(scope="module")
def discover() -> Discovery:
    return Discovery(ssl.create_default_context(), deadline_s=SHORT_S)


async def test_the_keys_are_found_by_two_plain_requests(issuer: Web, discover: Discovery) -> None:
    [key] = await discover(issuer.url)
    assert key.id == "one"
    assert issuer.paths == [DESCRIPTION, KEYS]
    for request in issuer.requests:
        names = {line.partition(":")[0].lower() for line in request.splitlines()[1:] if line}
        assert names == {"host", "user-agent", "accept", "accept-encoding", "connection"}


async def test_an_issuer_below_a_path_or_with_a_slash_is_found_where_the_standard_says(
    issuer: Web, discover: Discovery
) -> None:
    for name in (issuer.url + "/", issuer.url + "/realms/a", issuer.url + "/realms/b/"):
        said = {"issuer": name, "jwks_uri": issuer.url + KEYS + "?of=a"}
        path = name.removeprefix(issuer.url).rstrip("/") + DESCRIPTION
        issuer.answers[path] = answer(said)
        issuer.answers[KEYS + "?of=a"] = answer({"keys": [SIGNER.jwk()]})
        assert len(await discover(name)) == 1


async def test_an_answer_in_chunks_is_put_together(issuer: Web, discover: Discovery) -> None:
    body = json.dumps({"keys": [SIGNER.jwk()]}).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:50], body[50:]))
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    issuer.answers[KEYS] = head + chunks + b"0\r\n\r\n"
    assert len(await discover(issuer.url)) == 1


async def test_entries_that_are_no_usable_keys_are_passed_over(
    issuer: Web, discover: Discovery
) -> None:
    good, curve = SIGNER.jwk(), Signer(ec_key()).jwk()
    useless: list[Any] = [
        None,
        7,
        "key",
        [],
        {},
        {"kty": ["RSA"]},
        {"kty": "oct", "k": "c2VjcmV0"},
        {"kty": "RSA"},
        {"kty": "RSA", "n": 5, "e": "AQAB"},
        {"kty": "RSA", "n": "A", "e": "AQAB"},
        {"kty": "RSA", "n": good["n"], "e": "AA"},
        {"kty": "RSA", "n": "_" * 4000, "e": "AQAB"},
        {**good, "n": good["n"] + "=="},
        {**good, "kid": 5},
        {**good, "alg": ["RS256"]},
        {**good, "use": "enc"},
        {**good, "use": ["sig"]},
        {**good, "key_ops": ["encrypt"]},
        {**good, "key_ops": "verify"},
        {**curve, "crv": "P-384"},
        {**curve, "crv": ["P-256"]},
        {**curve, "crv": "secp256k1"},
        {**curve, "y": curve["x"]},
    ]
    issuer.answers[KEYS] = answer({"keys": [*useless, {**good, "key_ops": ["verify"]}]})
    assert [key.id for key in await discover(issuer.url)] == ["one"]


async def test_a_private_key_in_the_set_is_used_as_the_public_one(
    issuer: Web, discover: Discovery
) -> None:
    issuer.answers[KEYS] = answer({"keys": [SIGNER.jwk(d="AQAB", p="AQAB", q=7)]})
    [key] = await discover(issuer.url)
    assert key.has_signed(b"x", _seal(b"x"), "RS256")


def _seal(text: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

    return rsa_key(0).sign(text, PKCS1v15(), hashes.SHA256())


# What is no answer


@pytest.mark.parametrize("path", [DESCRIPTION, KEYS])
@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"\0" * 1000,
        b"no HTTP at all\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n{}",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
        answer({}, "201 Created"),
        answer({}, "500 Internal Server Error"),
        answer({}, "404 Not Found"),
        answer(b"", "204 No Content"),
        answer(b"<html>"),
        answer(b"[" * 100_000),
        answer(b"\xff\xfe"),
        answer(b"9" * 5000),
        answer([]),
        answer(None),
        answer({"keys": {}, "issuer": {}}),
        answer({"keys": [], "issuer": []}),
        answer(gzip.compress(b"{}"), "200 OK", "Content-Encoding: gzip"),
    ],
)
async def test_an_issuer_that_answers_nonsense_is_as_good_as_silent(
    issuer: Web, discover: Discovery, path: str, given: bytes
) -> None:
    issuer.answers[path] = given
    with pytest.raises(IssuerUnreachable):
        await discover(issuer.url)


@pytest.mark.parametrize("path", [DESCRIPTION, KEYS])
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 T", "308 P"])
async def test_redirects_are_not_followed(
    issuer: Web, other: Web, discover: Discovery, path: str, status: str
) -> None:
    good = issuer.answers[path]
    assert isinstance(good, bytes)
    head = f"HTTP/1.1 {status}\r\nLocation: {other.url}{path}\r\n".encode()
    issuer.answers[path] = good.replace(b"HTTP/1.1 200 OK\r\n", head)
    with pytest.raises(IssuerUnreachable):
        await discover(issuer.url)
    assert other.requests == []


@pytest.mark.parametrize("path", [DESCRIPTION, KEYS])
async def test_an_answer_that_is_too_long_is_not_read_to_its_end(
    issuer: Web, discover: Discovery, path: str
) -> None:
    issuer.answers[path] = answer(b" " * LONGEST + b"{}")
    with pytest.raises(IssuerUnreachable, match="longer than"):
        await discover(issuer.url)


@pytest.mark.parametrize("path", [DESCRIPTION, KEYS])
@pytest.mark.parametrize(
    "given",
    [
        for_ever,
        drops([], 0.01),
        drops([b"HTTP/1.1 200 OK\r\n"], 0.01),
        drops([b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{}"], 0.01),
    ],
)
async def test_an_issuer_that_is_slow_is_not_waited_for_longer_than_the_deadline(
    issuer: Web, discover: Discovery, path: str, given: Answer
) -> None:
    issuer.answers[path] = given
    begun = asyncio.get_running_loop().time()
    with pytest.raises(IssuerUnreachable):
        await discover(issuer.url)
    assert asyncio.get_running_loop().time() - begun < 4 * SHORT_S


async def test_an_issuer_that_is_not_there_is_unreachable(discover: Discovery) -> None:
    async with serving() as web:
        pass
    with pytest.raises(IssuerUnreachable):
        await discover(web.url)


@pytest.mark.parametrize(
    "name",
    [
        lambda url: url + "/",
        lambda url: url.upper(),
        lambda url: url.replace("127.0.0.1", "localhost"),
        lambda _: "https://other.example",
        lambda _: None,
        lambda url: [url],
    ],
)
async def test_an_issuer_must_describe_itself_by_its_very_name(
    issuer: Web, discover: Discovery, name: Callable[[str], object]
) -> None:
    issuer.publish(SIGNER, issuer=name(issuer.url))
    with pytest.raises(IssuerUnreachable):
        await discover(issuer.url)
    assert issuer.paths == [DESCRIPTION]


@pytest.mark.parametrize(
    "location",
    [
        None,
        "",
        7,
        "/keys",
        "file:///etc/passwd",
        "ftp://127.0.0.1/keys",
        "http://192.0.2.1/keys",
        "http://169.254.169.254/latest/meta-data",
        "http://issuer.example/keys",
        "http://user:secret@127.0.0.1/keys",
        "http://127.0.0.1@192.0.2.1/keys",
        "http://127.0.0.1:99999/keys",
        "http://127.0.0.1/keys\r\nX: y",
        "http://127.0.0.1/ keys",
    ],
)
async def test_keys_are_fetched_only_from_where_an_issuer_may_keep_them(
    issuer: Web, discover: Discovery, location: object
) -> None:
    issuer.publish(SIGNER, jwks_uri=location)
    with pytest.raises(IssuerUnreachable, match="jwks_uri"):
        await discover(issuer.url)
    assert issuer.paths == [DESCRIPTION]


async def test_the_environments_proxies_see_nothing(
    issuer: Web, other: Web, discover: Discovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, other.url)
    assert len(await discover(issuer.url)) == 1
    assert other.requests == []


# TLS


def certificate(directory: Path, name: str) -> Path:
    """Return a file with a certificate for `name` and its key."""
    key = ec_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    address = x509.IPAddress(ip_address("127.0.0.1"))
    alternative = address if name == "127.0.0.1" else x509.DNSName(name)
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = directory / f"{name}.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(made.public_bytes(Encoding.PEM) + private)
    return file


async def discovered_over_tls(file: Path, trusted: ssl.SSLContext, web_name: str) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's own complaint
    async with serving(context, web_name) as web:
        web.publish(SIGNER)
        return len(await Discovery(trusted, deadline_s=5)(web.url))


async def test_over_tls_a_trusted_certificate_with_the_right_name_is_wanted(tmp_path: Path) -> None:
    file = certificate(tmp_path, "localhost")
    trusting = ssl.create_default_context(cafile=file)
    assert await discovered_over_tls(file, trusting, "localhost") == 1
    with pytest.raises(IssuerUnreachable):
        await discovered_over_tls(file, ssl.create_default_context(), "localhost")
    with pytest.raises(IssuerUnreachable):
        await discovered_over_tls(file, trusting, "127.0.0.1")


async def test_an_issuer_elsewhere_cannot_point_to_this_machine(tmp_path: Path, other: Web) -> None:
    file = certificate(tmp_path, "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    discover = Discovery(ssl.create_default_context(cafile=file), deadline_s=5)
    async with serving(context, "localhost") as web:
        web.publish(SIGNER, jwks_uri=other.url + KEYS)
        with pytest.raises(IssuerUnreachable, match="jwks_uri"):
            await discover(web.url)
    assert other.requests == []
