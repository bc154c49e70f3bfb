"""What both stores make of a task before it is stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesp_api.domain.task import Task
from tesp_api.domain.tes import View
from tesp_api.domain.views import basic_differs, render
from tesp_api.store.rows import beyond, row_of, squeeze, unsqueeze
from tests.contract.test_task_store import lives, new_task, rich_task

CODE_POINTS = st.characters(exclude_categories=["Cs"])


@given(st.text(CODE_POINTS), st.text(CODE_POINTS))
def test_beyond_a_prefix_lies_all_that_does_not_begin_with_it(prefix: str, text: str) -> None:
    end = beyond(prefix)
    inside = prefix <= text and (end is None or text < end)
    assert inside == text.startswith(prefix)


@given(st.text(CODE_POINTS, min_size=1), st.text(CODE_POINTS))
def test_what_begins_with_a_prefix_lies_within(prefix: str, rest: str) -> None:
    end = beyond(prefix)
    assert prefix <= prefix + rest
    assert end is None or prefix + rest < end


@pytest.mark.parametrize(
    ("prefix", "end"),
    [
        ("", None),
        ("a", "b"),
        ("ab", "ac"),
        ("\ud7ff", "\ue000"),
        ("a\U0010ffff", "b"),
        ("\U0010ffff", None),
        ("\U0010ffff\U0010ffff", None),
        ("a%", "a&"),
    ],
)
def test_the_end_of_a_prefix(prefix: str, end: str | None) -> None:
    assert beyond(prefix) == end


@pytest.mark.parametrize("size", [0, 10, 64 * 1024, 10**6])
def test_squeezing_loses_nothing(size: int) -> None:
    document = b'{"x":"' + b"a" * size + b'"}'
    assert unsqueeze(squeeze(document)) == document
    assert len(squeeze(document)) <= 66_000


@pytest.mark.parametrize("task", [new_task("plain"), rich_task()], ids=["plain", "rich"])
def test_basic_is_kept_apart_exactly_where_it_differs(task: Task) -> None:
    for one in (task, *lives(task, slot=0)):
        differs = render(one, View.BASIC) != render(one, View.FULL)
        assert basic_differs(one) == differs
        assert row_of(one).basic == (render(one, View.BASIC) if differs else None)


def test_a_claimed_row_and_an_untidy_one_are_told_from_others() -> None:
    task = new_task()
    rows = [row_of(one) for one in (task, *lives(task, slot=4))]
    assert [row.slot for row in rows] == [None, 4, 4, 4, None, 4, 4, 4, None, None]
    assert [row.claimed for row in rows] == [False] + [True] * 7 + [False, False]
    assert [row.untidy for row in rows] == [False] * 8 + [True, False]
