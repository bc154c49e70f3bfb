"""Which statement answers a `Query`: every list walks one index from its newest end.

The *lead* is the filter whose index is walked; the others are checked on each row it yields. The
rarest leads, by a count that stops early. A name prefix is a range of names, not of `seq`: it leads
where few names match (they are looked up and put in order); where many do, a walk along all tasks
soon meets enough of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import Final, TypeAlias

from tesp_api.domain.tes import State, View
from tesp_api.ports import Page, Query
from tesp_api.store.rows import beyond

Value: TypeAlias = str | int
_BEFORE_ALL: Final = 2**63 - 1
_COLUMN: Final = {
    View.MINIMAL: "task.minimal",
    View.BASIC: "coalesce(document.basic, document.full)",
    View.FULL: "document.full",
}
_ANY_CANCELING: Final = (
    "EXISTS (SELECT 1 FROM task INDEXED BY task_by_state WHERE state = 'CANCELING')"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sql:
    """A piece of SQL and the values of its marks, in their order."""

    text: str
    values: tuple[Value, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """One way to choose tasks: by ranges of an index, or by a check of a row of `task`."""

    index: str
    """To stand behind FROM; it calls the index `lead` and holds `lead.seq`."""
    ranges: tuple[Sql, ...]
    check: Sql
    of_tasks: bool = True
    """Whether the index is one of `task`, which may then hold all that is asked for."""
    ordered: bool = True
    """Whether a range is in the order of `seq`, so that one can stop after a page."""


@lru_cache(maxsize=64)
def filters(query: Query) -> tuple[Filter, ...]:
    """Return the filters of `query`; the tasks wanted match all."""
    by_tag = [_by_tag(key, value, query) for key, value in query.tags]
    by_scope = [] if query.owner is None and query.states is None else [_by_scope(query)]
    by_name = [_by_name(query.name_prefix, query)] if query.name_prefix else []
    return (*by_tag, *by_scope, *by_name)


def count(one: Filter, most: int) -> Sql:
    """Return the statement that counts what `one` matches, and stops at `most`."""
    union = _union(_select("1", one.index, [some]) for some in one.ranges)
    return _select("count(*)", f"({union.text} LIMIT ?)", values=(*union.values, most))


def few_of(number: int, limit: int) -> int:
    """Return how many matches among `number` tasks are better looked up than met on a walk.

    A match looked up costs about twice a row walked past, and if matches lie evenly, a walk to a
    full page passes `number * limit / matches` rows.
    """
    return isqrt(number * limit // 2) + limit


def obvious(candidates: Sequence[Filter]) -> bool:
    """Tell whether nothing needs to be counted to know which filter leads."""
    return not candidates or (len(candidates) == 1 and candidates[0].ordered)


def choose(
    candidates: Sequence[Filter], counted: Callable[[Filter], int], few: int
) -> Filter | None:
    """Return the filter that leads, or None: walk along all tasks. `counted` may stop at `few`."""
    if obvious(candidates):
        return next(iter(candidates), None)
    least, rarest = min((counted(one), place) for place, one in enumerate(candidates))
    return (
        candidates[rarest]
        if least < few
        else next((one for one in candidates if one.ordered), None)
    )


@lru_cache(maxsize=64)
def statement(query: Query, lead: Filter | None) -> Sql:
    """Return the statement for a page and one task more.

    It finds how many there are, the tasks, and whether any task at all is CANCELING: few ever are,
    and one look into an index spares a search through the page. The tasks are joined as they are
    given out, by a literal: a call for each row, as of `char`, would cost a fifth of the whole, and
    a fifth it would be to fetch each `seq` for `oldest`. One row, for the reason that
    `sqlite_writes` gives.
    """
    checks = [one.check for one in filters(query) if lead is None or one.check != lead.check]
    walk = _union(_legs(query, lead, checks))
    return _select(
        f"count(*), CAST(group_concat(document, '{Page.between.decode()}') AS BLOB),"
        f" {_ANY_CANCELING}",
        f"({walk.text} ORDER BY seq DESC LIMIT ?)",
        values=(*walk.values, query.limit + 1),
    )


def oldest(further: str, last: str) -> Sql:
    """Return the statement for the `seq` of the task one too many, which is older than the `last`.

    It finds nothing if that task was removed meanwhile, even if its id has come again.
    """
    return Sql(
        text="SELECT further.seq FROM task AS further CROSS JOIN task AS last"
        " WHERE further.id = ? AND last.id = ? AND further.seq < last.seq",
        values=(further, last),
    )


def _legs(query: Query, lead: Filter | None, checks: Sequence[Sql]) -> Iterable[Sql]:
    if lead is not None and lead.ordered:
        if lead.of_tasks and query.view is View.MINIMAL and not checks:
            what = _what("lead", "lead.minimal", lead)
            return [_select(what, lead.index, [some]) for some in lead.ranges]
        return [_leg("lead", lead.index, query, [some], checks, lead=lead) for some in lead.ranges]
    first = "task" if checks or query.view is View.MINIMAL else "document"
    if lead is None:
        wanted = [Sql(text=f"{first}.seq < ?", values=(_before(query),))]
    else:
        found = [_select("lead.seq", lead.index, [some]) for some in lead.ranges]
        wanted = [Sql(text=f"{first}.seq IN ({one.text})", values=one.values) for one in found]
    return [_leg(first, f"{first} NOT INDEXED", query, [one], checks, lead=lead) for one in wanted]


def _leg(
    first: str,
    source: str,
    query: Query,
    conditions: Sequence[Sql],
    checks: Sequence[Sql],
    *,
    lead: Filter | None,
) -> Sql:
    """Walk `first`, and join the tables beside it that are looked at."""
    looked_at = ["task"] if checks or query.view is View.MINIMAL else []
    looked_at += [] if query.view is View.MINIMAL else ["document"]
    joins = [f"CROSS JOIN {one} USING (seq)" for one in looked_at if one != first]
    what = _what(first, _COLUMN[query.view], lead)
    return _select(what, " ".join([source, *joins]), [*conditions, *checks])


def _what(first: str, document: str, lead: Filter | None) -> str:
    """Name what is fetched of each row: `seq` only where several legs are merged by it."""
    merged = lead is not None and len(lead.ranges) > 1
    return f"{first}.seq AS seq, {document} AS document" if merged else f"{document} AS document"


def _select(
    what: str, source: str, conditions: Sequence[Sql] = (), *, values: tuple[Value, ...] = ()
) -> Sql:
    """Put a statement together from texts of this file; what a client wrote is in `values` only."""
    where = " AND ".join(one.text for one in conditions)
    return Sql(
        text=" ".join(["SELECT", what, "FROM", source, *(["WHERE", where] if where else [])]),
        values=values + tuple(value for one in conditions for value in one.values),
    )


def _union(parts: Iterable[Sql]) -> Sql:
    parts = tuple(parts)
    return Sql(
        text=" UNION ALL ".join(part.text for part in parts),
        values=tuple(value for part in parts for value in part.values),
    )


def _before(query: Query) -> int:
    return _BEFORE_ALL if query.before is None else query.before


def _by_tag(key: str, value: str, query: Query) -> Filter:
    tag = Sql(text="{}.key = ?", values=(key,))
    match = [tag, Sql(text="{}.value = ?", values=(value,))] if value else [tag]
    same = _select("1", "tag", [_of("tag", match), Sql(text="tag.seq = task.seq")])
    return Filter(
        of_tasks=False,
        index="tag AS lead" if value else "tag AS lead INDEXED BY tag_by_key",
        ranges=(_of("lead", [*match, Sql(text="{}.seq < ?", values=(_before(query),))]),),
        check=Sql(text=f"EXISTS ({same.text})", values=same.values),
    )


def _by_scope(query: Query) -> Filter:
    """By owner, by state, or by both: each of the three has its index."""
    owner = [] if query.owner is None else [Sql(text="{}.owner = ?", values=(query.owner,))]
    states = [] if query.states is None else [[_in_state(state)] for state in sorted(query.states)]
    any_state = [
        Sql(
            text=f"{{}}.state IN ({', '.join('?' * len(states))})", values=tuple(query.states or ())
        )
    ]
    index = "_and_".join(["owner"] * bool(owner) + ["state"] * bool(states))
    before = Sql(text="{}.seq < ?", values=(_before(query),))
    return Filter(
        index=f"task AS lead INDEXED BY task_by_{index}",
        ranges=tuple(_of("lead", [*owner, *state, before]) for state in states or [[]]),
        check=_of("task", owner + (any_state if states else [])),
    )


def _in_state(state: State) -> Sql:
    return Sql(text="{}.state = ?", values=(state.value,))


def _of(table: str, conditions: Sequence[Sql]) -> Sql:
    return Sql(
        text=" AND ".join(one.text.format(table) for one in conditions),
        values=tuple(value for one in conditions for value in one.values),
    )


def _by_name(prefix: str, query: Query) -> Filter:
    end = beyond(prefix)
    span = Sql(text="{}.name >= ?", values=(prefix,))
    spans = [span] if end is None else [span, Sql(text="{}.name < ?", values=(end,))]
    return Filter(
        index="task AS lead INDEXED BY task_by_name",
        ranges=(_of("lead", [*spans, Sql(text="{}.seq < ?", values=(_before(query),))]),),
        check=_of("task", spans),
        ordered=False,
    )
