"""Page tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesp_api.api.pages import PageTokens

TOKENS = PageTokens(b"key")
PLACES = st.integers(0, 2**63 - 1)


@given(PLACES)
def test_a_token_is_read_as_it_was_made(before: int) -> None:
    assert TOKENS.read(TOKENS.issue(before)) == before


@given(PLACES)
def test_another_key_does_not_read_it(before: int) -> None:
    with pytest.raises(ValueError, match="no token"):
        PageTokens(b"another").read(TOKENS.issue(before))


@given(st.text())
def test_what_is_no_token_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="no token"):
        TOKENS.read(text)


@given(PLACES, st.integers(0, 21), st.sampled_from("ABab09-_"))
def test_a_changed_token_is_not_read(before: int, place: int, letter: str) -> None:
    token = TOKENS.issue(before)
    changed = token[:place] + letter + token[place + 1 :]
    if changed != token:
        with pytest.raises(ValueError, match="no token"):
            TOKENS.read(changed)


def test_neighbours_have_nothing_in_common_to_see() -> None:
    assert len({TOKENS.issue(number)[:6] for number in range(1000)}) == 1000
