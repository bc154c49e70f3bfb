"""The settings for people: the README's table, and the effective values without secrets."""

from collections.abc import Iterator, Mapping

from tesp_api.domain.masking import BLOT, mask
from tesp_api.settings.keys import IGNORED, Key, keys, plain, value_of
from tesp_api.settings.model import Keys


def table() -> str:
    """Return all settings as a Markdown table, section after section."""
    rows = [_row(key) for key in sorted(keys(), key=_order)]
    rows += [f"| `{name}` | | | Accepted, no effect: {why}. |" for name, why in IGNORED.items()]
    head = ["| Key | Environment variable | Default | Meaning |", "|---|---|---|---|"]
    return "\n".join(head + rows)


def masked(settings: Keys) -> Mapping[str, str]:
    """Return each setting's effective value as text, secrets and passwords in URLs blotted out."""
    ordered = sorted(keys(), key=_order)
    return {key.name: _masked(key, value_of(settings, key)) for key in ordered}


def secret_values(settings: Keys) -> tuple[str, ...]:
    """Return what must not appear in a log: tokens, passwords, also those within URLs."""
    values = (value_of(settings, key) for key in keys() if key.secret or key.name.endswith("url"))
    return tuple(secret for value in values if value for secret in _secrets_in(str(value)))


def _order(key: Key) -> tuple[str, str]:
    section, _, name = key.name.rpartition(".")
    return section, name


def _row(key: Key) -> str:
    meaning = " ".join((key.field.description or "").split()).replace("|", "\\|")
    default = _text(plain(key.field.default))
    shown = f"`{default}`" if default else ""
    return f"| `{key.name}` | `{key.variable}` | {shown} | {meaning} |"


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
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _secrets_in(value: str) -> Iterator[str]:
    """Yield the secret itself, or, of a URL, its password."""
    _, is_url, rest = value.partition("://")
    if not is_url:
        yield value
    elif password := rest.rpartition("@")[0].partition(":")[2]:
        yield password
