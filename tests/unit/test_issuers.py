"""Which URLs may be issuers, and where those may keep their keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesp_api.domain.issuers import is_loopback, issuer_mistake, may_hold_keys

ELSEWHERE = "https://issuer.example"
HERE = "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    "url",
    [
        "https://issuer.example",
        "https://issuer.example/",
        "https://issuer.example:8443/realms/a-b_c~d/",
        "https://192.0.2.1",
        "https://[2001:db8::1]/x",
        "http://localhost",
        "http://localhost:8080/realm",
        "http://127.0.0.1",
        "http://127.1.2.3:9",
        "http://[::1]:8080/",
    ],
)
def test_https_anywhere_and_http_to_this_machine_may_be_issuers(url: str) -> None:
    assert issuer_mistake(url) is None
    assert may_hold_keys(url, url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "issuer.example",
        "http://issuer.example",
        "http://localhost.example",
        "http://localhost@issuer.example",
        "http://127.0.0.1@issuer.example",
        "http://127.0.0.1.example",
        "http://127.1",
        "http://2130706433",
        "http://0.0.0.0",
        "http://[::]",
        "http://[::1",
        "http://10.0.0.1",
        "ftp://localhost",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://user@issuer.example",
        "https://user:secret@issuer.example",
        "https://issuer.example?x=y",
        "https://issuer.example?",
        "https://issuer.example#x",
        "https://issuer.example#",
        "https://issuer.example:0",
        "https://issuer.example:99999",
        "https://issuer.example:x",
        "https://issuer.example/a|b",
        "https://issuer.example/a b",
        "https://issuer.example/\r\nX: y",
        "https://issuer.example\n",
        "https://issüer.example",
        "https://issuer.example/" + "a" * 500,
    ],
)
def test_anything_else_may_not(url: str) -> None:
    assert issuer_mistake(url) is not None


def test_keys_may_lie_elsewhere_and_have_a_query_but_not_on_the_servers_own_machine() -> None:
    assert may_hold_keys("https://keys.example/v1?of=issuer", ELSEWHERE)
    assert may_hold_keys("https://keys.example", HERE)
    assert may_hold_keys(HERE + "/keys", HERE)
    assert not may_hold_keys(HERE + "/keys", ELSEWHERE)
    assert not may_hold_keys("http://keys.example", HERE)


@given(st.text() | st.text("htps:/@[]#?.|1270 lo", max_size=30))
def test_no_text_is_too_odd_to_be_judged(text: str) -> None:
    assert is_loopback(text) in {True, False}
    assert may_hold_keys(text, text) in {True, False}
    if issuer_mistake(text) is None:
        assert text.lower().startswith("https://") or is_loopback(text)
