"""Says what is wrong with the settings, a line a mistake: what was given and what is wanted."""

import json
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tesp_api.domain.masking import mask
from tesp_api.settings.keys import is_secret, keys, variable

LONGEST_SHOWN: Final = 60

_INDEX: Final = re.compile(r"\[\d+\]")
_SUBJECT: Final = re.compile(r"^\w+ should")
"""How the model's own messages begin: "Input should", "String should"."""


def sentences(error: ValidationError, environ: Mapping[str, str]) -> list[str]:
    """Return a line for each mistake that the model found. Secrets are not shown."""
    return [_sentence(detail, environ) for detail in error.errors(include_url=False)]


def _sentence(detail: ErrorDetails, environ: Mapping[str, str]) -> str:
    name = "".join(_step(part) for part in detail["loc"]).lstrip(".")
    if detail["type"] == "missing":
        return f"`{name}` is missing."
    given = f"`{name}` is {_shown(name, detail['input'])}{_origin(name, environ)}"
    match detail["type"]:
        case "extra_forbidden":
            return f"`{name}` is no setting{_meant(name)}."
        case "model_type" | "model_attributes_type":
            return f"{given}, but it should be a table of settings."
        case "value_error" if isinstance(detail["input"], dict):
            # Of several keys together: the sentence names them.
            return f"{f'`{name}`: ' * name.endswith(']')}{detail['ctx']['error']}."
        case "value_error":
            return f"{given}, but {detail['ctx']['error']}."
        case _:
            return f"{given}, but {_SUBJECT.sub('it should', detail['msg'])}."


def _step(part: int | str) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{part}"


def _origin(name: str, environ: Mapping[str, str]) -> str:
    names = [variable(name.partition("[")[0])]
    names += ["CONTAINER_TYPE"] if name == "container.type" else []
    used = [given for given in names if given in environ]
    return f" (from {used[0]})" if used else ""


def _meant(name: str) -> str:
    known = [key.name for key in keys()]
    known += [f"{key.name}[].{field}" for key in keys() for field in key.entries]
    close = get_close_matches(_INDEX.sub("[]", name), [*known, *_sections(known)], n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _sections(names: list[str]) -> Iterator[str]:
    yield from sorted({name.rpartition(".")[0].removesuffix("[]") for name in names} - {""})


def _shown(name: str, given: object) -> str:
    if _holds_secrets(name):
        return "given"
    text = mask(json.dumps(given, default=str, ensure_ascii=False))
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "…"


def _holds_secrets(name: str) -> bool:
    """Whether the key, or a part of one that has secrets in its entries, is not to be shown."""
    whole, index, rest = _INDEX.sub("[]", name).partition("[]")
    key = next((key for key in keys() if key.name == whole), None)
    if key is None or not any(map(is_secret, key.entries.values())):
        return key is not None and key.secret
    field = key.entries.get(rest.lstrip(".").partition("[")[0])
    return not index or field is None or is_secret(field)
