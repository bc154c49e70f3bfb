"""The settings for people: the README's table, and the effective values without secrets."""

import json
from collections.abc import Iterator, Mapping

from pydantic.fields import FieldInfo

from tesp_api.domain.masking import BLOT, mask
from tesp_api.settings.keys import IGNORED, Key, is_secret, keys, plain, value_of
from tesp_api.settings.model import Keys, Section


def table() -> str:
    """Return all settings as a Markdown table, section after section."""
    rows = [row for key in sorted(keys(), key=_order) for row in _rows(key)]
    rows += [f"| `{name}` | | | Accepted, no effect: {why}. |" for name, why in IGNORED.items()]
    head = ["| Key | Environment variable | Default | Meaning |", "|---|---|---|---|"]
    return "\n".join(head + rows)


def masked(settings: Keys) -> Mapping[str, str]:
    """Return each setting's effective value as text, secrets and passwords in URLs blotted out."""
    ordered = sorted(keys(), key=_order)
    return {key.name: _masked(key, value_of(settings, key)) for key in ordered}


def secret_values(settings: Keys) -> tuple[str, ...]:
    """Return what must not appear in a log: tokens, passwords, also those within URLs."""
    values = [value_of(settings, key) for key in keys() if key.secret or key.name.endswith("url")]
    values += [value for key in keys() if key.entries for value in _of_entries(settings, key)]
    return tuple(secret for value in values if value for secret in _secrets_in(str(value)))


def _of_entries(settings: Keys, key: Key) -> Iterator[object]:
    """Yield the secrets in the entries of a list of tables."""
    entries = value_of(settings, key)
    assert isinstance(entries, tuple)
    names = [name for name, field in key.entries.items() if is_secret(field)]
    yield from (plain(getattr(entry, name)) for entry in entries for name in names)


def _order(key: Key) -> tuple[str, str]:
    section, _, name = key.name.rpartition(".")
    return section, name


def _rows(key: Key) -> Iterator[str]:
    yield _row(key.name, f"`{key.variable}`", key.field)
    for name, field in key.entries.items():
        yield _row(f"{key.name}[].{name}", "", field)


def _row(name: str, variable: str, field: FieldInfo) -> str:
    meaning = " ".join((field.description or "").split()).replace("|", "\\|")
    default = "" if field.is_required() else _text(plain(field.default))
    shown = f"`{default}`" if default else ""
    return f"| `{name}` | {variable} | {shown} | {meaning} |"


def _masked(key: Key, value: object) -> str:
    text = _text(value)
    return BLOT if key.secret and text and "://" not in text else mask(text)


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return ", ".join(map(_text, value))
        case Section():
            return json.dumps(value.model_dump(mode="json", exclude_defaults=True))
        case _:
            return str(value)


def _secrets_in(value: str) -> Iterator[str]:
    """Yield the secret itself, or, of a URL, its password."""
    _, is_url, rest = value.partition("://")
    if not is_url:
        yield value
    elif password := rest.rpartition("@")[0].partition(":")[2]:
        yield password
