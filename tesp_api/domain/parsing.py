"""From the bytes of a request to a `TaskRequest`, or to all its mistakes at once.

Mistakes of shape (a missing field, a wrong type) hide those of meaning: a request with a hole in it
cannot be looked at as a whole. So the holes are filled with something harmless, and the rest is
judged by `rules` all the same.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any, Final

from pydantic import ValidationError
from pydantic.alias_generators import to_snake
from pydantic_core import ErrorDetails, from_json

from tesp_api.domain.errors import InvalidRequest, Mistake
from tesp_api.domain.rules import Policy, mistakes
from tesp_api.domain.tes import TaskRequest

MISTAKES_TOLD: Final = 100
VALUES: Final = 100_000
"""How many values a document may hold. Each is looked at and may be a mistake: without a bound one
request of some megabytes could keep the server from all others for minutes."""


def parse(body: bytes, policy: Policy, owner: str | None = None) -> TaskRequest:
    """Return the request of `owner` in `body`. Raises InvalidRequest."""
    if _is_overfull(body):
        raise InvalidRequest(Mistake("", f"The body holds more than {VALUES} values."))
    try:
        request = TaskRequest.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise InvalidRequest(*_told(_all_mistakes(body, details, policy, owner))) from None
    if found := _told(mistakes(request, policy, owner)):
        raise InvalidRequest(*found)
    return request


_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def _is_overfull(body: bytes) -> bool:
    if len(body) <= 2 * VALUES:
        return False
    ends_of_strings = body.count(b'"') - body.count(b'\\"')
    return ends_of_strings > 4 * VALUES or _STRING.sub(b"", body).count(b",") >= VALUES


def _all_mistakes(
    body: bytes, errors: Sequence[ErrorDetails], policy: Policy, owner: str | None
) -> Iterator[Mistake]:
    blamed = []
    for error in errors:
        blamed.append(_where(error["loc"]))
        yield Mistake(blamed[-1], _sentence(error))
    if not errors[0]["loc"]:
        return  # no JSON, or no object: nothing to mend
    try:
        request = TaskRequest.model_validate(_mended(body, errors))
    except ValidationError:
        return  # a field in both spellings, both wrong
    found = mistakes(request, policy, owner)
    yield from (each for each in found if not _is_at(each.path, blamed))


def _told(found: Iterator[Mistake]) -> tuple[Mistake, ...]:
    """Return the first mistakes; the rest of a million is not even looked for."""
    first = tuple(islice(found, MISTAKES_TOLD))
    return (*first, Mistake("", "There are more mistakes.")) if next(found, None) else first


_FIELDS: Final[Mapping[str, Any]] = {
    "path": "/x",
    "url": "http://x/",
    "image": "x",
    "command": ["x"],
    "executors": [{"image": "x", "command": ["x"]}],
}
"""What fills a required field; others are left out."""
_ITEMS: Final[Mapping[str, Any]] = {
    "inputs": {"path": "/x", "content": "x"},
    "outputs": {"path": "/x", "url": "http://x/"},
    "executors": {"image": "x", "command": ["x"]},
}
"""What fills a place in a list of objects; other lists hold strings."""


_MAPS: Final = frozenset({"tags", "env", "backend_parameters", "backendParameters"})


def _mended(body: bytes, errors: Sequence[ErrorDetails]) -> object:
    document = from_json(body)
    for error in errors:
        *way, last = error["loc"]
        holder = document
        for step in way:
            holder = holder[step]
        if isinstance(last, int):
            holder[last] = _ITEMS.get(str(way[-1]), "/x")
        elif way and way[-1] in _MAPS:
            holder[last] = "x"
        elif last in _FIELDS:
            holder[last] = _FIELDS[last]
        else:
            del holder[last]
    return document


def _is_at(path: str, blamed: Sequence[str]) -> bool:
    """Return whether `path` is, or lies in, what was mended."""
    return any(path == other or path.startswith((f"{other}.", f"{other}[")) for other in blamed)


def _where(loc: Sequence[int | str]) -> str:
    """Return a place in the document as a path; fields are spelt as the standard spells them."""
    text = ""
    for before, step in pairwise((None, *loc)):
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step if before in _MAPS else to_snake(str(step))}"
    return text.removeprefix(".")


def _sentence(error: ErrorDetails) -> str:
    if error["type"] == "json_invalid":
        return f"The body is not JSON: {error['msg'].removeprefix('Invalid JSON: ')}."
    if not error["loc"]:
        return "The body must be a JSON object."
    if error["type"] == "missing":
        return "is required."
    return error["msg"].replace("Input should be", "must be") + "."
