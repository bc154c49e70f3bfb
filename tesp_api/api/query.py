"""Query strings: what a client asks of a list or of a task. Unknown parameters are ignored."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from itertools import zip_longest
from typing import Final, TypeVar
from urllib.parse import parse_qsl

from starlette.types import Scope

from tesp_api.api.pages import PageTokens
from tesp_api.domain.errors import InvalidRequest, Mistake
from tesp_api.domain.tes import State, View
from tesp_api.ports import Query

PAGE_SIZE: Final = 256
PAGE_SIZE_MAX: Final = 2047
_SHORT: Final = 128

Parameters = Mapping[str, Sequence[str]]
Value = TypeVar("Value")
Choice = TypeVar("Choice", bound=StrEnum)


def parameters(scope: Scope) -> Parameters:
    """Return the parameters of a request; each may be there several times."""
    raw: bytes = scope["query_string"]
    return _remembered(raw) if len(raw) <= _SHORT else _parsed(raw)


def _parsed(raw: bytes) -> Parameters:
    found: dict[str, list[str]] = {}
    if raw:
        for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
            found.setdefault(name, []).append(value)
    return found


@lru_cache(maxsize=256)
def _remembered(raw: bytes) -> Parameters:
    """Who polls asks the same again and again."""
    return _parsed(raw)


def view_asked(given: Parameters) -> View:
    """Return the view that is asked for, MINIMAL by default. Raises InvalidRequest."""
    if not given:
        return View.MINIMAL
    reader = _Reader(given)
    view = reader.read("view", _one_of(View), View.MINIMAL)
    reader.finish()
    return view


def list_asked(
    given: Parameters, tokens: PageTokens, states: Callable[[State], frozenset[State]]
) -> Query:
    """Return the list that is asked for. Raises InvalidRequest with every mistake.

    `states` tells which states of ours the client means by one of its own.
    """
    reader = _Reader(given)
    state = reader.read("state", _one_of(State), None)
    query = Query(
        view=reader.read("view", _one_of(View), View.MINIMAL),
        limit=reader.read("page_size", _page_size, PAGE_SIZE),
        before=reader.read("page_token", lambda text: tokens.read(text) if text else None, None),
        name_prefix=reader.read("name_prefix", str, "") or None,
        states=None if state is None else states(state),
        tags=_tags(reader, given.get("tag_key", ()), given.get("tag_value", ())),
    )
    reader.finish()
    return query


class _Reader:
    """Reads parameters one by one and gathers what is wrong; of a repeated one the last counts."""

    def __init__(self, given: Parameters) -> None:
        self._given = given
        self.mistakes: list[Mistake] = []

    def read(self, name: str, convert: Callable[[str], Value], default: Value) -> Value:
        values = self._given.get(name)
        if not values:
            return default
        try:
            return convert(values[-1])
        except ValueError as error:
            self.mistakes.append(Mistake(name, f"{error}."))
            return default

    def finish(self) -> None:
        if self.mistakes:
            raise InvalidRequest(*self.mistakes)


def _tags(
    reader: _Reader, keys: Sequence[str], values: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Pair keys with values by their position; a value that is missing matches any."""
    if len(values) > len(keys):
        # Dropping the surplus would show more than was asked for.
        reader.mistakes.append(Mistake("tag_value", "has no tag_key that belongs to it."))
    return tuple(zip_longest(keys, values[: len(keys)], fillvalue=""))


def _one_of(choices: type[Choice]) -> Callable[[str], Choice]:
    def convert(text: str) -> Choice:
        try:
            return choices(text)
        except ValueError:
            raise ValueError(f"must be one of {', '.join(choices)}") from None

    return convert


def _page_size(text: str) -> int:
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= PAGE_SIZE_MAX:
        return int(text)
    raise ValueError(f"must be a whole number from 1 to {PAGE_SIZE_MAX}")
