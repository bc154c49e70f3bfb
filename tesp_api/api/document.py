"""The OpenAPI document: made from the models that check requests and make answers.

It has the paths, names and types of the standard's own document; what it adds is what this server
does beyond: errors, limits, nulls that are taken for absent fields.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tesp_api.api import schema
from tesp_api.api.notes import NAMES, NOTES
from tesp_api.api.query import PAGE_SIZE, PAGE_SIZE_MAX
from tesp_api.api.service_info import ServiceInfo
from tesp_api.domain.tes import View

Json = dict[str, Any]

_DESCRIBED: Final[Sequence[type[BaseModel]]] = (
    schema.Task,
    schema.TaskList,
    schema.CreatedTask,
    schema.CanceledTask,
    schema.ServiceDescription,
    schema.Problem,
)
_ROOT: Final = "#/components/schemas/"


def openapi(
    info: ServiceInfo,
    servers: Mapping[str, str],
    schemes: Mapping[str, Json],
    examples: Mapping[str, Json],
) -> Json:
    """Return the document.

    `servers` are prefixes and what is there, `schemes` the kinds of authentication (none: open to
    all), `examples` tasks that can be posted as they are, by title.
    """
    about = info.description or "GA4GH Task Execution Service"
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": info.name, "version": info.version, "description": about},
        "servers": [{"url": url, "description": what} for url, what in servers.items()],
        "paths": _paths(examples),
        "components": _components(),
    }
    if schemes:
        document["security"] = [{name: []} for name in schemes]
        document["components"]["securitySchemes"] = dict(schemes)
    return document


def _components() -> Json:
    return {
        "schemas": _schemas(),
        "parameters": {"view": _VIEW},
        "responses": {"Problem": _answer("Problem", description="What is wrong.")},
    }


# Paths


def _query(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_VIEW: Final = _query(
    "view",
    {"type": "string", "enum": [str(view) for view in View], "default": str(View.MINIMAL)},
    "MINIMAL: id and state. BASIC: all but contents, log texts and system logs. FULL: all.",
)
_VIEW_REF: Final = {"$ref": "#/components/parameters/view"}
_ID: Final = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
_STRINGS: Final = {"type": "array", "items": {"type": "string"}}
_FILTERS: Final = (
    _query("name_prefix", {"type": "string"}, "How the task's name begins."),
    _query("state", {"$ref": f"{_ROOT}tesState"}, "The state the task is in."),
    _query("tag_key", _STRINGS, "Keys of tags that the task must have; may be repeated."),
    _query("tag_value", _STRINGS, "The values of those tags, by position; an empty one is any."),
    _query(
        "page_size",
        {
            "type": "integer",
            "format": "int32",
            "minimum": 1,
            "maximum": PAGE_SIZE_MAX,
            "default": PAGE_SIZE,
        },
        "How many tasks at most.",
    ),
    _query("page_token", {"type": "string"}, "next_page_token of the page before."),
)


def _operation(name: str, summary: str, *answers: str, **more: Any) -> Json:  # noqa: ANN401
    return {
        "tags": ["TaskService"],
        "operationId": name,
        "summary": summary,
        **more,
        "responses": {
            "200": _answer(*answers),
            "default": {"$ref": "#/components/responses/Problem"},
        },
    }


def _answer(*components: str, description: str = "As asked.") -> Json:
    refs = [{"$ref": _ROOT + component} for component in components]
    body = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {"description": description, "content": {"application/json": {"schema": body}}}


def _task_body(examples: Mapping[str, Json]) -> Json:
    named = {title: {"summary": title, "value": task} for title, task in examples.items()}
    content = {"schema": {"$ref": f"{_ROOT}tesTask"}, "examples": named}
    return {"required": True, "content": {"application/json": content}}


_GET_INFO: Final = _operation("GetServiceInfo", "What this server is.", "tesServiceInfo")
_LIST: Final = _operation(
    "ListTasks",
    "List tasks, newest first.",
    "tesListTasksResponse",
    parameters=[*_FILTERS, _VIEW_REF],
)
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The same key with the same body makes one task, however often it is sent.",
    "schema": {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
}
_CREATE: Final = _operation(
    "CreateTask", "Have a task run.", "tesCreateTaskResponse", parameters=[_KEY]
)
_GET: Final = _operation(
    "GetTask", "Show a task.", "tesTask", "tesTaskMinimal", parameters=[_ID, _VIEW_REF]
)
_CANCEL: Final = _operation(
    "CancelTask",
    "End a task; one that has ended stays as it is.",
    "tesCancelTaskResponse",
    parameters=[_ID],
)


def _paths(examples: Mapping[str, Json]) -> Json:
    return {
        "/service-info": {"get": _GET_INFO},
        "/tasks": {"get": _LIST, "post": {**_CREATE, "requestBody": _task_body(examples)}},
        "/tasks/{id}": {"get": _GET},
        "/tasks/{id}:cancel": {"post": _CANCEL},
    }


# Schemas


def _schemas() -> Json:
    models: list[tuple[type[BaseModel], Literal["validation"]]] = [
        (model, "validation") for model in _DESCRIBED
    ]
    _, found = models_json_schema(models, ref_template=_ROOT + "{model}")
    schemas = {NAMES.get(name, name): _tidy(body) for name, body in found["$defs"].items()}
    for component, notes in NOTES.items():
        for field, note in notes.items():
            schemas[component]["properties"][field] |= note
    return dict(sorted(schemas.items()))


def _tidy(node: Any) -> Any:  # noqa: ANN401
    """Use the standard's names, and say "or null" in one word where that can be said."""
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _tidy(value) for key, value in node.items() if not _is_noise(key, value)}
    if "$ref" in kept:
        kept["$ref"] = _ROOT + _renamed(kept["$ref"])
    match kept:
        case {"anyOf": [{"type": str(kind), **body}, {"type": "null"}], **rest}:
            return {"type": [kind, "null"], **body, **rest}
        case _:
            return kept


def _renamed(ref: str) -> str:
    name = ref.removeprefix(_ROOT)
    return NAMES.get(name, name)


def _is_noise(key: str, value: Any) -> bool:  # noqa: ANN401
    return (key == "title" and isinstance(value, str)) or (key == "default" and value is None)
