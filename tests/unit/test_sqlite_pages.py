"""Lists of the embedded store: the same whatever leads, and never by reading everything."""

import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesp_api.domain.tes import State, View
from tesp_api.ports import Page, Query
from tesp_api.store import sqlite_reads, sqlite_writes
from tesp_api.store.rows import Row
from tesp_api.store.sqlite_pages import (
    Filter,
    Sql,
    choose,
    count,
    few_of,
    filters,
    oldest,
    statement,
)
from tesp_api.store.sqlite_schema import SCHEMA

FILTERS: Mapping[str, Any] = {
    "owner": "anna",
    "name_prefix": "na",
    "states": frozenset({State.QUEUED, State.RUNNING, State.COMPLETE}),
    "tags": (("k", "v"), ("any", "")),
}
COMBINATIONS = [names for size in range(5) for names in combinations(FILTERS, size)]


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for text in SCHEMA:
        connection.execute(text)
    yield connection
    connection.close()


@pytest.fixture
def filled(db: sqlite3.Connection) -> Sequence[Row]:
    chance = random.Random(5)
    rows = [row(number, chance) for number in range(300)]
    sqlite_writes.apply(db, [sqlite_writes.Add(one) for one in rows])
    return rows


def row(number: int, chance: random.Random) -> Row:
    full = f'{{"id":"{number:03}"}}'.encode()
    tags = {"k": chance.choice(["v", "v", "w"]), "any": chance.choice(["", "x"])}
    return Row(
        id=f"{number:03}",
        state=chance.choice(["QUEUED", "RUNNING", "CANCELED"]),
        revision=0,
        owner=chance.choice(["anna", "anna", "bert", None]),
        name=chance.choice(["na", "name", "nb", None]),
        tags={key: tags[key] for key in chance.sample(list(tags), chance.randrange(3))},
        driver=None,
        slot=None,
        claimed=False,
        untidy=False,
        minimal=full,
        basic=None,
        full=full,
        task=b"{}",
    )


def query_of(names: Sequence[str], view: View = View.FULL, **more: Any) -> Query:
    return Query(view=view, **({"limit": 10} | {name: FILTERS[name] for name in names} | more))


def leads(query: Query) -> list[Filter | None]:
    return [*filters(query), None]


def plan(db: sqlite3.Connection, sql: Sql) -> list[str]:
    return [line[3] for line in db.execute("EXPLAIN QUERY PLAN " + sql.text, sql.values)]


def reads_everything(lines: Sequence[str]) -> bool:
    """Whether a table or index is read from end to end, or rows are sorted aside."""
    scans = [line for line in lines if line.startswith("SCAN") and "(subquery" not in line]
    return bool(scans) or any("TEMP B-TREE" in line for line in lines)


@pytest.mark.parametrize("view", View)
@pytest.mark.parametrize("names", COMBINATIONS, ids=str)
@pytest.mark.parametrize("before", [None, 17])
def test_every_combination_of_filters_is_answered_by_an_index(
    db: sqlite3.Connection, names: Sequence[str], view: View, before: int | None
) -> None:
    query = query_of(names, view, before=before)
    for lead in leads(query):
        lines = plan(db, statement(query, lead))
        assert not reads_everything(lines), lines


@pytest.mark.parametrize("names", COMBINATIONS[1:], ids=str)
def test_counting_what_a_filter_matches_reads_indexes_only(
    db: sqlite3.Connection, names: Sequence[str]
) -> None:
    for one in filters(query_of(names)):
        lines = plan(db, count(one, 10))
        found = [line for line in lines if line.startswith("SEARCH")]
        assert found
        assert all("COVERING INDEX" in line or "PRIMARY KEY" in line for line in found)
        assert not reads_everything(lines), lines


def test_the_lead_is_walked_by_its_own_index(db: sqlite3.Connection) -> None:
    query = query_of(list(FILTERS))
    walked = [plan(db, statement(query, lead)) for lead in filters(query)]
    wanted = ("PRIMARY KEY (key=", "tag_by_key", "task_by_owner_and_state", "task_by_name")
    for lines, index in zip(walked, wanted, strict=True):
        assert any(line.startswith("SEARCH lead USING") and index in line for line in lines), lines


@pytest.mark.parametrize("names", COMBINATIONS, ids=str)
@pytest.mark.parametrize("before", [None, 200])
@pytest.mark.parametrize("limit", [7, 1000])
def test_a_page_is_the_same_whatever_leads(
    db: sqlite3.Connection, filled: Sequence[Row], names: Sequence[str], before: int, limit: int
) -> None:
    query = query_of(names, before=before, limit=limit)
    rows = list(enumerate(filled, start=1))[::-1]
    seqs = [seq for seq, one in rows if matches(one, query) and (before is None or seq < before)]
    walked = seqs[: limit + 1]
    rendered = [filled[seq - 1].full for seq in walked]
    for lead in leads(query):
        sql = statement(query, lead)
        number, documents, _ = db.execute(sql.text, sql.values).fetchone()
        assert number == len(walked)
        assert (documents or b"") == b",\n".join(rendered)


def matches(one: Row, query: Query) -> bool:
    return (
        (query.owner is None or one.owner == query.owner)
        and (query.states is None or one.state in query.states)
        and (query.name_prefix is None or (one.name or "").startswith(query.name_prefix))
        and all(key in one.tags and value in {"", one.tags[key]} for key, value in query.tags)
    )


@pytest.mark.parametrize("names", COMBINATIONS[1:], ids=str)
def test_a_filter_counts_what_it_matches_up_to_the_limit(
    db: sqlite3.Connection, filled: Sequence[Row], names: Sequence[str]
) -> None:
    for name in names:
        query = query_of([name])
        (counted, *_) = counts(db, query, 1000)
        assert counted >= sum(matches(one, query) for one in filled)
        assert counts(db, query, 5)[0] == 5


def counts(db: sqlite3.Connection, query: Query, most: int) -> list[int]:
    statements = [count(one, most) for one in filters(query)]
    return [db.execute(sql.text, sql.values).fetchone()[0] for sql in statements]


def counter(numbers: Mapping[str, int]) -> Callable[[Filter], int]:
    return lambda one: next(number for name, number in numbers.items() if name in one.index)


@pytest.mark.parametrize(
    ("numbers", "lead"),
    [
        ({"task_by_name": 3, "task_by_owner": 9, "tag": 50}, "task_by_name"),
        ({"task_by_name": 70, "task_by_owner": 9, "tag": 50}, "task_by_owner"),
        ({"task_by_name": 100, "task_by_owner": 100, "tag": 99}, "tag"),
        ({"task_by_name": 100, "task_by_owner": 100, "tag": 100}, "tag"),
    ],
)
def test_the_rarest_filter_leads(numbers: Mapping[str, int], lead: str) -> None:
    query = query_of(["owner", "name_prefix", "tags"])
    chosen = choose(filters(query), counter(numbers), few=100)
    assert chosen is not None
    assert lead in chosen.index


def test_a_name_that_many_have_is_met_on_a_walk_along_all() -> None:
    query = query_of(["name_prefix"])
    assert choose(filters(query), lambda _: 100, few=100) is None
    assert choose(filters(query), lambda _: 99, few=100) == filters(query)[0]


def test_a_single_filter_is_not_counted() -> None:
    def no(_: Filter) -> int:
        raise AssertionError

    for names in (["owner"], ["states"], ["owner", "states"]):
        assert choose(filters(query_of(names)), no, few=100) == filters(query_of(names))[0]
    assert choose((), no, few=100) is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (sqlite_reads._QUEUED, (5,)),
        (sqlite_reads._CLAIMED, ()),
        (sqlite_reads._UNTIDY, (0, 5)),
        (sqlite_reads._SLOTS, ()),
        (sqlite_reads._TASK, ("x",)),
        *((text, ("x",)) for text in sqlite_reads._DOCUMENT.values()),
        (sqlite_writes._HOLDERS, ()),
        (oldest("x", "y").text, ("x", "y")),
    ],
)
def test_the_other_questions_are_answered_by_an_index(
    db: sqlite3.Connection, text: str, values: tuple[str | int, ...]
) -> None:
    lines = plan(db, Sql(text=text, values=values))
    assert not reads_everything(lines), lines


TASKS = st.lists(st.binary(min_size=1).map(lambda one: one.replace(b"\n", b"") or b"x"))


@given(st.lists(TASKS.filter(bool)))
def test_a_page_of_runs_is_the_page_of_its_tasks(runs: list[list[bytes]]) -> None:
    tasks = [task for run in runs for task in run]
    page = Page(documents=[Page.between.join(run) for run in runs], next_before=None)
    assert page.each == tasks
    assert page.joined == Page(documents=tasks, next_before=None).joined


def test_the_next_page_begins_where_this_one_ends_unless_a_task_is_gone(
    db: sqlite3.Connection, filled: Sequence[Row]
) -> None:
    def found() -> list[int]:
        sql = oldest(further=filled[6].id, last=filled[7].id)
        return [seq for (seq,) in db.execute(sql.text, sql.values)]

    assert found() == [7]
    db.execute("UPDATE task SET seq = 999 WHERE seq = 7")
    assert found() == []
    db.execute("DELETE FROM task WHERE seq = 999")
    assert found() == []


def test_a_page_tells_that_nothing_is_canceling_unless_something_is(
    db: sqlite3.Connection, filled: Sequence[Row]
) -> None:
    query = query_of([])
    assert sqlite_reads.page(db, query).lacks == {State.CANCELING}
    db.execute("UPDATE task SET state = 'CANCELING' WHERE seq = 7")
    assert sqlite_reads.page(db, query).lacks == frozenset()


@pytest.mark.parametrize("limit", [1, 256, 2047])
def test_more_is_looked_up_the_more_tasks_there_are(limit: int) -> None:
    few = [few_of(number, limit) for number in (0, 10_000, 100_000, 1_000_000)]
    assert few == sorted(few)
    assert limit <= few[0]
    assert few[-1] <= 40_000
