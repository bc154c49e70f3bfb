"""What sections of the settings are made of: the base of all, and the kinds of values."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SecretStr,
)

from tesp_api.domain.issuers import issuer_mistake


def _none_if_blank(value: object) -> object:
    """Read an empty text as "not given", as the reference's settings file means it."""
    return None if isinstance(value, str) and not value.strip() else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("it should be a URL that begins with http:// or https:// and names a host")
    return value.rstrip("/")


def _mongodb_uri(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
        raise ValueError("it should begin with mongodb:// or mongodb+srv://")
    return value


def _amqp_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("amqp://", "amqps://", "pyamqp://")):
        raise ValueError("it should begin with amqp:// or amqps://")
    return value


def _issuer(value: str) -> str:
    if mistake := issuer_mistake(value):
        raise ValueError(f"it should {mistake}")
    return value


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("it should be an absolute path")
    return value


BLANK_IS_NONE = BeforeValidator(_none_if_blank)
Text = Annotated[str | None, BLANK_IS_NONE]
Secret = Annotated[SecretStr | None, BLANK_IS_NONE]
File = Annotated[Path | None, BLANK_IS_NONE]
Count = Annotated[int | None, BLANK_IS_NONE]
Days = Annotated[float | None, BLANK_IS_NONE]
Moment = Annotated[AwareDatetime | None, BeforeValidator(_none_if_blank)]
Directory = Annotated[Path, AfterValidator(_absolute)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Issuer = Annotated[str, AfterValidator(_issuer)]
MongodbUri = Annotated[Annotated[SecretStr, AfterValidator(_mongodb_uri)] | None, BLANK_IS_NONE]
AmqpUrl = Annotated[Annotated[SecretStr, AfterValidator(_amqp_url)] | None, BLANK_IS_NONE]
Level = Annotated[
    Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
]
Engine = Literal["docker", "podman", "singularity", "apptainer", "host"]


class Section(BaseModel):
    """Keys that belong together."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
