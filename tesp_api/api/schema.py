"""What crosses the wire beyond a request: the models that answers are made from and described by.

Tasks themselves are rendered by `domain.views`; `Task` describes what comes of it.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from tesp_api.domain.tes import ExecutorLog, OutputFileLog, State, TaskRequest

ByServer = Field(json_schema_extra={"readOnly": True})


class Answer(BaseModel):
    """Base of answers; fields are spelt as the standard has them."""

    model_config = ConfigDict(frozen=True)


class TaskLog(Answer):
    """tesTaskLog: one attempt to run the task's executors."""

    logs: Sequence[ExecutorLog]
    outputs: Sequence[OutputFileLog]
    metadata: Mapping[str, str] | None = None
    start_time: str | None = None
    end_time: str | None = None
    system_logs: Sequence[str] | None = None


class Task(TaskRequest):
    """tesTask. What only the server sets is ignored in a request."""

    id: Annotated[str | None, ByServer] = None
    state: Annotated[State | None, ByServer] = None
    logs: Annotated[Sequence[TaskLog] | None, ByServer] = None
    creation_time: Annotated[str | None, ByServer] = None


class MinimalTask(Answer):
    """A task in the view MINIMAL."""

    id: str
    state: State


class TaskList(Answer):
    """tesListTasksResponse: newest tasks first; there is a token where there are more."""

    tasks: Sequence[Task | MinimalTask]
    next_page_token: str | None = None


class CreatedTask(Answer):
    """tesCreateTaskResponse."""

    id: str


class CanceledTask(Answer):
    """tesCancelTaskResponse: the task is being ended, or had ended before."""


class Organization(Answer):
    """Who runs the service."""

    name: str
    url: Annotated[str, Field(json_schema_extra={"format": "uri"})]


class ServiceType(Answer):
    """tesServiceType; `version` is that of the standard."""

    group: str
    artifact: Literal["tes"]
    version: str


class ServiceDescription(Answer):
    """tesServiceInfo."""

    id: str
    name: str
    type: ServiceType
    organization: Organization
    version: str
    description: str | None = None
    contactUrl: Annotated[str | None, Field(json_schema_extra={"format": "uri"})] = None
    documentationUrl: Annotated[str | None, Field(json_schema_extra={"format": "uri"})] = None
    createdAt: Annotated[str | None, Field(json_schema_extra={"format": "date-time"})] = None
    updatedAt: Annotated[str | None, Field(json_schema_extra={"format": "date-time"})] = None
    environment: str | None = None
    storage: Sequence[str] = ()
    tesResources_backend_parameters: Sequence[str] = ()


class LegacyDescription(Answer):
    """What clients of TES before 1.0 expect of service-info: these keys and no other."""

    name: str
    doc: str
    storage: Sequence[str]


class Complaint(Answer):
    """One thing wrong in a request: `path` says where, empty for the whole."""

    path: str
    message: str


class Problem(Answer):
    """Every answer that is an error."""

    status: int
    error: str
    message: str
    details: Sequence[Complaint] | None = None
