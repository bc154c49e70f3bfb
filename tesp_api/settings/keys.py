"""The keys by name: `pulsar.client_timeout` is `TESP_PULSAR__CLIENT_TIMEOUT` in the environment."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from tesp_api.settings.model import Keys

PREFIX: Final = "TESP_"

IGNORED: Final[Mapping[str, str]] = MappingProxyType(
    {"pulsar.status.max_polls": "a task may run as long as it needs"}
)
"""Keys of the reference implementation that are accepted without effect, each with the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One setting: its dotted name and its field."""

    name: str
    field: FieldInfo

    @property
    def variable(self) -> str:
        """Name of the environment variable that overrides it."""
        return variable(self.name)

    @property
    def secret(self) -> bool:
        """Whether its value must not be shown."""
        return is_secret(self.field)

    @property
    def many(self) -> bool:
        """Whether it is a list."""
        return get_origin(self.field.annotation) is tuple

    @property
    def entries(self) -> Mapping[str, FieldInfo]:
        """The fields of each entry, by name, where it is a list of tables."""
        (kind, *_) = get_args(self.field.annotation) if self.many else (None,)
        if get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        is_table = isinstance(kind, type) and issubclass(kind, BaseModel)
        return kind.model_fields if is_table else {}


def is_secret(field: FieldInfo) -> bool:
    """Whether the field's value must not be shown."""
    annotation = field.annotation
    return any("SecretStr" in str(part) for part in (annotation, *get_args(annotation)))


def variable(name: str) -> str:
    """Return the environment variable for a dotted name."""
    return PREFIX + name.upper().replace(".", "__")


def keys(model: type[BaseModel] = Keys, prefix: str = "") -> Iterator[Key]:
    """Yield every setting, those of a section together."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{name}.")
        else:
            yield Key(name=prefix + name, field=field)


def value_of(settings: Keys, key: Key) -> object:
    """Return the key's value, a secret in plain text."""
    value: object = settings
    for part in key.name.split("."):
        value = getattr(value, part)
    return plain(value)


def plain(value: object) -> object:
    """Unwrap a secret."""
    return value.get_secret_value() if isinstance(value, SecretStr) else value
