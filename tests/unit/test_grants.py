"""Whom grants serve: by owner, and by whole names of a URL's path."""

from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tesp_api.storage.grants import Grant, Grants
from tesp_api.storage.places import (
    Place,
    bucket_place,
    host_place,
    object_place,
    split,
    url_place,
)

EVERYBODY = frozenset({"*"})


def grants(*prefixes: str, owners: frozenset[str] = EVERYBODY) -> Grants[str]:
    granted = [(Grant(prefixes=(prefix,), owners=owners), prefix) for prefix in prefixes]
    return Grants(granted, bucket_place if prefixes[0][:2] in ("s3", "gs") else host_place)


def found(granted: Grants[str], url: str, owner: str | None = None) -> str | None:
    parts = split(url)
    place = object_place(parts) if parts.scheme in ("s3", "gs") else url_place(parts)
    return thing[1] if (thing := granted.find(place, owner)) else None


@pytest.mark.parametrize(
    ("prefix", "url"),
    [
        ("https://h/private/", "https://h/private/x"),
        ("https://h/private", "https://h/private/x"),
        ("https://h/private/", "https://H:443/private"),
        ("https://h:443/", "https://h/x"),
        ("http://h:8080/", "http://h:8080/x?y=z#f"),
        ("https://h", "https://h"),
        ("https://h/a%20b/", "https://h/a b/x"),
        ("https://h/a b/", "https://h/%61%20b/x"),
        ("ftp://h/", "ftp://h:21/x"),
        ("ftp://h/", "ftp://h/%2Fabsolute"),
        ("s3://", "s3://any/x"),
        ("s3://b", "s3://b/x"),
        ("s3://b/", "s3://b"),
        ("s3://b/", "s3://b//x"),
        ("s3://b/a/", "s3://b/a//x"),
        ("s3://b/a%20b/", "s3://b/a%20b/x"),
        ("gs://b/", "GS://b/x"),
    ],
)
def test_a_prefix_holds_what_is_below_it_in_any_spelling(prefix: str, url: str) -> None:
    assert found(grants(prefix), url) == prefix


@pytest.mark.parametrize(
    ("prefix", "url"),
    [
        ("https://h/private/", "https://h/privateer"),
        ("https://h/private/", "https://h/private%2Fx"),
        ("https://h/private/", "https://h//private/x"),
        ("https://h/private/", "https://h/other/../private/x"),
        ("https://h/private/", "https://h/private/../other"),
        ("https://h/private/", "https://h/private/%2e%2e/other"),
        ("https://h/private/", "https://h/private/%252e%252e/other"),
        ("https://h/private/", "https://h/private/..%2fother"),
        ("https://h/private/", "https://h/private/..%5cother"),
        ("https://h/private/", "https://h/private/..;/other"),
        ("https://h/private/", "https://h/private/./x"),
        ("https://h/", "http://h/x"),
        ("https://h/", "https://h:8443/x"),
        ("https://h/", "https://h.example/x"),
        ("https://h/", "https://h%2eexample/x"),
        ("https://h/", "https://xh/x"),
        ("ftp://h/", "ftps://h/x"),
        ("ftp://h/a/", "ftp://h/%2Fa/x"),
        ("s3://b/", "gs://b/x"),
        ("s3://b/", "s3://bb/x"),
        ("s3://b/ali", "s3://b/alice/x"),
        ("s3://b/a b/", "s3://b/a%20b/x"),
        ("s3://b/alice/", "s3://b/alice/../bob/x"),
        ("s3://b/alice/", "s3://b//alice/x"),
    ],
)
def test_a_prefix_holds_nothing_else(prefix: str, url: str) -> None:
    assert found(grants(prefix), url) is None


def test_the_longest_prefix_counts_and_of_equals_the_first() -> None:
    granted = grants("s3://", "s3://b/x/", "s3://b", "s3://b/x")
    assert found(granted, "s3://b/x/y") == "s3://b/x/"
    assert found(granted, "s3://b/y") == "s3://b"
    assert found(granted, "s3://c/x/y") == "s3://"


def test_owners_are_served_who_are_named() -> None:
    granted = grants("s3://b/", owners=frozenset({"alice", "carol"}))
    assert found(granted, "s3://b/x", "alice")
    assert not found(granted, "s3://b/x", "bob")
    assert not found(granted, "s3://b/x", "*")
    assert not found(granted, "s3://b/x", None)
    assert not found(grants("s3://b/", owners=frozenset()), "s3://b/x", "alice")
    assert granted.public() == []


def test_an_owners_own_name_is_the_owner_percent_encoded() -> None:
    in_bucket, on_web = grants("s3://b/u-{owner}/"), grants("https://h/{owner}/")
    assert found(in_bucket, "s3://b/u-https%3A%2F%2Fidp%7Calice/x", "https://idp|alice")
    assert found(on_web, "https://h/https%253A%252F%252Fidp%257Calice/x", "https://idp|alice")
    assert not found(on_web, "https://h/https%3A%2F%2Fidp%7Calice/x", "https://idp|alice")
    assert not found(in_bucket, "s3://b/u-/x", "")
    assert not found(in_bucket, "s3://b/u-None/x", None)
    assert not found(in_bucket, "s3://b/u-{owner}/x", None)
    assert in_bucket.public() == ["s3://b/u-{owner}/"]


OWNERS = st.text(st.characters(), min_size=1) | st.sampled_from(
    ["a", "a/b", "..", ".", "a/../b", "%2e%2e", "{owner}", "basic:a", "\ud800"]
)


@given(OWNERS, OWNERS, st.text(), st.booleans())
def test_no_two_owners_share_a_name(one: str, other: str, rest: str, on_web: bool) -> None:
    assume(one != other)
    granted = grants("https://h/{owner}/" if on_web else "s3://b/{owner}/")
    name = quote(one, safe="", errors="surrogatepass")
    path = quote(f"{name}/{rest}", errors="surrogatepass") if on_web else f"{name}/{rest}"
    url = f"https://h/{path}" if on_web else f"s3://b/{path}"
    assert found(granted, url, other) is None


@given(st.text(), st.text(min_size=1))
def test_any_path_is_below_an_owners_name_or_not_without_an_error(path: str, owner: str) -> None:
    parts = split(f"s3://b/{path}")
    place = object_place(parts)
    own = Place("s3", "b", (quote(owner, safe="", errors="surrogatepass"),))
    assert bool(found(grants("s3://b/{owner}/"), f"s3://b/{path}", owner)) == bool(
        place and own.holds(place)
    )
