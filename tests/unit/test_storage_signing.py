"""Signed URLs: those that botocore makes, and made fast."""

import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from botocore.config import Config
from botocore.session import Session
from hypothesis import example, given
from hypothesis import strategies as st

from tesp_api.storage.signing import Addresses, Keys, Signer, Style

ACCESS, SECRET, TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "tok/en+=="
AMAZON = "https://s3.eu-west-3.amazonaws.com"


def theirs(endpoint: str, style: Style, token: str | None) -> Any:
    return Session().create_client(
        "s3",
        endpoint_url=endpoint,
        region_name="eu-west-3",
        aws_access_key_id=ACCESS,
        aws_secret_access_key=SECRET,
        aws_session_token=token,
        config=Config(signature_version="s3v4", s3={"addressing_style": style}),
    )


def ours(endpoint: str, style: Style, at: datetime, token: str | None) -> Signer:
    keys = Keys(access_key=ACCESS, secret_key=SECRET, session_token=token)
    return Signer(Addresses(endpoint, style), keys, "eu-west-3", at, 3600)


def parts(url: str) -> tuple[Any, ...]:
    split = urlsplit(url)
    port = {"http": ":80", "https": ":443"}[split.scheme]
    host = split.netloc.removesuffix(port)  # no client names it in `Host`
    return split.scheme, host, split.path, sorted(parse_qsl(split.query))


def moment(url: str) -> datetime:
    return datetime.strptime(
        dict(parse_qsl(urlsplit(url).query))["X-Amz-Date"], "%Y%m%dT%H%M%SZ"
    ).replace(tzinfo=UTC)


@pytest.fixture(scope="module", params=[None, TOKEN], ids=["keys", "temporary"])
def token(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize(
    ("endpoint", "style"),
    [
        (AMAZON, "virtual"),
        (AMAZON, "path"),
        ("http://localhost:9000", "path"),
        ("https://storage.googleapis.com", "path"),
        ("https://h.example:443/under/this", "path"),
        ("http://h.example:80", "virtual"),
    ],
)
@pytest.mark.parametrize("bucket", ["data", "my.data", "UPPER_case"])
def test_a_url_is_the_one_that_botocore_makes(
    endpoint: str, style: Style, bucket: str, token: str | None
) -> None:
    client = theirs(endpoint, style, token)
    for key in ("k", "a b/ü+%&=?#~*'()!", "x//y", "-._~"):
        params = {"Bucket": bucket, "Key": key}
        get = client.generate_presigned_url("get_object", params)
        signer = ours(endpoint, style, moment(get), token)
        assert parts(signer.url("GET", bucket, key)) == parts(get)
        more = {**params, "PartNumber": 7, "UploadId": "a/b+c=="}
        put = client.generate_presigned_url("upload_part", more)
        signer = ours(endpoint, style, moment(put), token)
        query = {"partNumber": "7", "uploadId": "a/b+c=="}
        assert parts(signer.url("PUT", bucket, key, query)) == parts(put)


CLIENT = theirs("http://localhost:9000", "path", None)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=50))
@example("a/b c")
def test_any_name_is_signed_as_botocore_does(key: str) -> None:
    url = CLIENT.generate_presigned_url("get_object", {"Bucket": "data", "Key": key})
    signer = ours("http://localhost:9000", "path", moment(url), None)
    assert parts(signer.url("GET", "data", key)) == parts(url)


def test_ten_thousand_are_signed_in_far_less_than_two_seconds() -> None:
    signer = ours(AMAZON, "virtual", datetime.now(UTC), TOKEN)
    begun = time.process_time()
    for number in range(10_000):
        signer.url("GET", "data", f"some/directory/file {number}.fastq.gz")
    assert time.process_time() - begun < 1


def test_without_keys_a_url_is_plain() -> None:
    signer = Signer(Addresses(AMAZON, "virtual"), None, "r", datetime.now(UTC), 60)
    assert signer.url("GET", "data", "a b") == "https://data.s3.eu-west-3.amazonaws.com/a%20b"


def test_keys_are_not_printed() -> None:
    keys = Keys(access_key=ACCESS, secret_key=SECRET, session_token=TOKEN)
    assert not any(text in repr(keys) for text in (ACCESS, SECRET, TOKEN))
