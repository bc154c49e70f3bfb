"""What the environment says: `TESP_…` variables as one more layer over the file.

Read here and not by dynaconf, which makes a number of a password such as `0x10` or `1e5` before
anybody can tell it that it is a password.
"""

import json
import re
import shlex
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final, get_args

from pydantic import TypeAdapter, ValidationError

from tesp_api.settings.keys import IGNORED, PREFIX, Key, keys, variable

Tree = dict[str, object]

OTHERS: Final = re.compile(r"TESP_(TEST_.*|DATA_DIR|SETTINGS_FILE)")
"""Variables with our prefix that are no settings."""

# Kubernetes puts these into every container of a name space where a service is called tesp-….
_INJECTED: Final = re.compile(
    r"TESP_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_INJECTED_PORT: Final = re.compile(r"(tcp|udp|sctp)://")


def layer(environ: Mapping[str, str]) -> Tree:
    """Return the settings that variables give, as a file would hold them.

    CONTAINER_TYPE gives way to TESP_CONTAINER__TYPE.
    """
    known = {key.variable: key for key in keys()}
    ignored = {variable(name): name for name in IGNORED}
    found: Tree = {}
    if "CONTAINER_TYPE" in environ:
        _put(found, "container.type", environ["CONTAINER_TYPE"])
    for given, text in environ.items():
        if key := known.get(given):
            _put(found, key.name, _value(key, text))
        elif name := ignored.get(given):
            _put(found, name, text)
    return found


def mistakes(environ: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable with our prefix that is no setting."""
    known = [key.variable for key in keys()] + [variable(name) for name in IGNORED]
    given = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    unknown = [name for name in given if not _foreign(name, environ[name])]
    return [f"{name} is no setting{_meant(name, known)}." for name in unknown]


def _foreign(name: str, text: str) -> bool:
    injected = name.endswith("_PORT") and _INJECTED_PORT.match(text)
    return bool(OTHERS.fullmatch(name) or _INJECTED.fullmatch(name) or injected)


def _meant(name: str, known: list[str]) -> str:
    close = get_close_matches(name.upper(), known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _value(key: Key, text: str) -> object:
    """Read `text` as the key's type where possible; the check of the whole sees the rest."""
    if key.many:
        return _words(text)
    types = {key.field.annotation, *get_args(key.field.annotation)}
    number = next((one for one in (bool, int, float) if one in types), None)
    if number is None:
        return text
    try:
        return TypeAdapter[object](number).validate_python(text)
    except ValidationError:
        return text


def _words(text: str) -> object:
    """Read a list: `["a", "b"]`, or words as a shell takes them."""
    try:
        return json.loads(text) if text.lstrip().startswith("[") else shlex.split(text)
    except ValueError:
        return text


def _put(tree: Tree, name: str, value: object) -> None:
    *sections, last = name.split(".")
    for section in sections:
        below = tree.setdefault(section, {})
        assert isinstance(below, dict)
        tree = below
    tree[last] = value
