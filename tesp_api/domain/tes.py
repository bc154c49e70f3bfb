"""The GA4GH TES 1.1 schema, as a client writes it.

Field names, types and meanings are those of the OpenAPI document
(`task_execution_service.openapi.yaml`, 1.1.0). Beyond it: a null anywhere means "absent" (pydantic-
tes sends every unset field as null), names may be camelCase (Funnel's command line posts them so),
unknown fields are ignored and never kept.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import (
    AliasChoices,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    model_validator,
)
from pydantic.alias_generators import to_camel


class State(StrEnum):
    """tesState. No task of ours is ever UNKNOWN, PAUSED or PREEMPTED; a filter may ask for them."""

    UNKNOWN = "UNKNOWN"
    QUEUED = "QUEUED"
    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETE = "COMPLETE"
    EXECUTOR_ERROR = "EXECUTOR_ERROR"
    SYSTEM_ERROR = "SYSTEM_ERROR"
    CANCELED = "CANCELED"
    PREEMPTED = "PREEMPTED"
    CANCELING = "CANCELING"


class View(StrEnum):
    """How much of a task an answer holds:

    MINIMAL is id and state, BASIC leaves out log texts and contents.
    """

    MINIMAL = "MINIMAL"
    BASIC = "BASIC"
    FULL = "FULL"


class FileType(StrEnum):
    """tesFileType."""

    FILE = "FILE"
    DIRECTORY = "DIRECTORY"


def _either_spelling(name: str) -> AliasChoices:
    return AliasChoices(name, to_camel(name))


class Wire(BaseModel):
    """Base of everything that crosses the wire:

    frozen, nulls dropped, either spelling of a name.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=AliasGenerator(validation_alias=_either_spelling),
        populate_by_name=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {key: item for key, item in value.items() if item is not None}
        return value


INT32_MAX = 2**31 - 1


def _integer(value: object) -> object:
    """Take 2.0 for 2, as JSON Schema does."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Strict: `true` is no number, and `0` or `"no"` is no boolean.
Flag = Annotated[bool, Strict()]
Cores = Annotated[int, Strict(), Field(ge=0, le=INT32_MAX), BeforeValidator(_integer)]
Gigabytes = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]


class Input(Wire):
    """tesInput: a file or directory that is there before the first executor starts."""

    path: str
    url: str | None = None
    content: str | None = None
    name: str | None = None
    description: str | None = None
    type: FileType = FileType.FILE
    streamable: Flag | None = None


class Output(Wire):
    """tesOutput: a file, directory or pattern that is sent away after the last executor."""

    path: str
    url: str
    path_prefix: str | None = None
    name: str | None = None
    description: str | None = None
    type: FileType = FileType.FILE


class Resources(Wire):
    """tesResources. A gigabyte of memory is 2^30 bytes here."""

    cpu_cores: Cores | None = None
    preemptible: Flag | None = None
    ram_gb: Annotated[Gigabytes, Field(le=1e6)] | None = None
    disk_gb: Annotated[Gigabytes, Field(le=1e9)] | None = None
    zones: tuple[str, ...] | None = None
    backend_parameters: Mapping[str, str] | None = None
    backend_parameters_strict: Flag | None = None


class Executor(Wire):
    """tesExecutor: one command in one container; executors run one after another."""

    image: str
    command: tuple[str, ...]
    workdir: str | None = None
    stdin: str | None = None
    stdout: str | None = None
    stderr: str | None = None
    env: Mapping[str, str] | None = None
    ignore_error: Flag | None = None

    @model_validator(mode="before")
    @classmethod
    def _env_without_nulls(cls, value: object) -> object:
        return _without_nulls_in(value, "env")


class TaskRequest(Wire):
    """tesTask as posted, without what only the server may set:

    id, state, logs and creation_time are ignored.
    """

    name: str | None = None
    description: str | None = None
    inputs: tuple[Input, ...] | None = None
    outputs: tuple[Output, ...] | None = None
    resources: Resources | None = None
    executors: tuple[Executor, ...]
    volumes: tuple[str, ...] | None = None
    tags: Mapping[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _tags_without_nulls(cls, value: object) -> object:
        return _without_nulls_in(value, "tags")


def _without_nulls_in(value: object, field: str) -> object:
    """Drop the null values of the map `field`, as Funnel does with tags."""
    if isinstance(value, Mapping) and isinstance(inner := value.get(field), Mapping):
        return {**value, field: {k: v for k, v in inner.items() if v is not None}}
    return value


class ExecutorLog(Wire):
    """tesExecutorLog of an executor that has ended. Times are RFC 3339, by the node's clock."""

    start_time: str | None = None
    end_time: str | None = None
    stdout: str | None = None
    stderr: str | None = None
    exit_code: int


class OutputFileLog(Wire):
    """tesOutputFileLog:

    one file that was sent; `size_bytes` is a decimal string, as the standard has it (the runner
    tells a number).
    """

    url: str
    path: str
    size_bytes: Annotated[str, Field(coerce_numbers_to_str=True)]
