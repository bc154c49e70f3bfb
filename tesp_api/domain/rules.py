"""What a request must obey beyond its shape, and all its mistakes at once.

A mistake has a JSON path (`inputs[0].path`, names as in the standard) and a sentence that never repeats a
content or a URL: those may hold secrets. Whether a URL is served is the storage's to say, by `Policy.refusal`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Final

from pydantic import ValidationError
from pydantic.alias_generators import to_snake
from pydantic_core import ErrorDetails, from_json

from tesp_api.domain.errors import InvalidRequest, Mistake
from tesp_api.domain.plan import normal
from tesp_api.domain.tes import Executor, FileType, Input, Output, Resources, TaskRequest

CONTENT_BYTES: Final = 1024 * 1024
PATH_BYTES: Final = 4095
NAME_BYTES: Final = 255
MISTAKES_TOLD: Final = 100
KERNEL_PLACES: Final = frozenset({"proc", "sys", "dev"})


def _everything_is_served(_item: Input | Output) -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What this server allows.

    `engine` is the kind that runs the containers. `image_roots` and `image_schemes` matter for apptainer and
    singularity only. `backend_parameters` holds the supported keys in lower case. `refusal` tells why a URL
    is not served, as a sentence, or None.
    """

    engine: str = "docker"
    image_roots: tuple[str, ...] = ()
    image_schemes: tuple[str, ...] = ()
    content_bytes: int = CONTENT_BYTES
    backend_parameters: frozenset[str] = frozenset()
    refusal: Callable[[Input | Output], str | None] = _everything_is_served


def parse(body: bytes, policy: Policy) -> TaskRequest:
    """Return the request that `body` holds. Raises InvalidRequest with every mistake in it."""
    try:
        request = TaskRequest.model_validate_json(body)
    except ValidationError as error:
        found = _with_shape(body, error, policy)
    else:
        found = mistakes(request, policy)
        if not found:
            return request
    raise InvalidRequest(*_bounded(found))


def mistakes(request: TaskRequest, policy: Policy) -> tuple[Mistake, ...]:
    """Return everything wrong in a request whose shape is right."""
    return tuple(
        chain(
            _executors(request.executors, policy),
            _inputs(request.inputs or (), policy),
            _outputs(request.outputs or (), policy),
            _volumes(request.volumes or (), policy),
            _resources(request.resources, policy),
            _tags(request.tags or {}),
        )
    )


def unsupported(resources: Resources | None, policy: Policy) -> tuple[str, ...]:
    """Return the backend parameters that this server does not know, as the client spelt them."""
    given = (resources and resources.backend_parameters) or {}
    return tuple(key for key in given if key.lower() not in policy.backend_parameters)


def without_unsupported(request: TaskRequest, policy: Policy) -> TaskRequest:
    """Return the request as it may be stored: TES wants unsupported backend parameters neither kept nor returned."""
    resources = request.resources
    if resources is None or not (unknown := unsupported(resources, policy)):
        return request
    kept = {k: v for k, v in (resources.backend_parameters or {}).items() if k not in unknown}
    changed = resources.model_copy(update={"backend_parameters": kept or None})
    return request.model_copy(update={"resources": changed})


# --- executors -------------------------------------------------------------------------------------------


def _executors(executors: Sequence[Executor], policy: Policy) -> Iterator[Mistake]:
    if not executors:
        yield Mistake("executors", "must hold at least one executor.")
    for index, executor in enumerate(executors):
        where = f"executors[{index}]"
        yield from _told(f"{where}.image", image_refusal(executor.image, policy))
        yield from _command(where, executor.command)
        yield from _env(where, executor.env or {})
        for name in ("workdir", "stdin", "stdout", "stderr"):
            if path := getattr(executor, name):
                yield from _told(f"{where}.{name}", path_refusal(path, policy))


def _command(where: str, command: Sequence[str]) -> Iterator[Mistake]:
    if not command or not command[0]:
        yield Mistake(f"{where}.command", "must begin with the program to execute.")
    for index, argument in enumerate(command):
        if "\0" in argument:
            yield Mistake(f"{where}.command[{index}]", "must not hold a NUL character.")


def _env(where: str, env: Mapping[str, str]) -> Iterator[Mistake]:
    for name, value in env.items():
        if not name or "=" in name or "\0" in name:
            yield Mistake(f"{where}.env", f"{name!r} is no name of a variable.")
        elif "\0" in value:
            yield Mistake(f"{where}.env.{name}", "must not hold a NUL character.")


# --- files -----------------------------------------------------------------------------------------------


def _inputs(inputs: Sequence[Input], policy: Policy) -> Iterator[Mistake]:
    first: dict[str, int] = {}
    for index, item in enumerate(inputs):
        where = f"inputs[{index}]"
        yield from _told(f"{where}.path", mountable_refusal(item.path, policy))
        yield from _source(where, item, policy)
        same = first.setdefault(normal(item.path), index)
        if same != index:
            yield Mistake(f"{where}.path", f"is the path of inputs[{same}] too.")


def _source(where: str, item: Input, policy: Policy) -> Iterator[Mistake]:
    if item.content:
        yield from _content(where, item, item.content, policy)
    elif item.url:
        yield from _told(f"{where}.url", policy.refusal(item))
    elif item.content is None:
        yield Mistake(f"{where}.url", "is required, unless content is set.")


def _content(where: str, item: Input, content: str, policy: Policy) -> Iterator[Mistake]:
    if item.type is FileType.DIRECTORY:
        yield Mistake(f"{where}.type", "must be FILE where content is set.")
    if len(content.encode()) > policy.content_bytes:
        yield Mistake(
            f"{where}.content",
            f"is larger than the {policy.content_bytes} bytes that this server takes.",
        )


def _outputs(outputs: Sequence[Output], policy: Policy) -> Iterator[Mistake]:
    for index, item in enumerate(outputs):
        where = f"outputs[{index}]"
        yield from _told(f"{where}.path", mountable_refusal(item.path, policy))
        if is_pattern(item.path):
            yield from _prefix(where, item)
        if item.url:
            yield from _told(f"{where}.url", policy.refusal(item))
        else:
            yield Mistake(f"{where}.url", "is empty.")


def _prefix(where: str, item: Output) -> Iterator[Mistake]:
    if not item.path_prefix:
        yield Mistake(f"{where}.path_prefix", "is required, since path has wildcards.")
    elif is_pattern(item.path_prefix) or not item.path.startswith(item.path_prefix):
        yield Mistake(
            f"{where}.path_prefix", "must be what path begins with, before its first wildcard."
        )


def _volumes(volumes: Sequence[str], policy: Policy) -> Iterator[Mistake]:
    for index, volume in enumerate(volumes):
        yield from _told(f"volumes[{index}]", mountable_refusal(volume, policy))


_PATTERN: Final = re.compile(r"(?<!\\)(?:\\\\)*(?:[*?]|\[[!^]?[^/]+\])")


def is_pattern(path: str) -> bool:
    """Return whether an output's path selects by wildcards (`*`, `?`, `[…]`; a backslash takes their meaning)."""
    return _PATTERN.search(path) is not None


# --- paths and images ------------------------------------------------------------------------------------


def mountable_refusal(path: str, policy: Policy) -> str | None:
    """Return why nothing can be put at `path` in a container, as a sentence, or None."""
    if refused := path_refusal(path, policy):
        return refused
    return "must not be the root itself." if normal(path) == "/" else None


def path_refusal(path: str, policy: Policy) -> str | None:
    """Return why `path` cannot be meant in a container, as a sentence, or None."""
    parts = path.split("/")
    inner = normal(path).split("/")
    if not path.startswith("/"):
        return "must be an absolute path."
    if ".." in parts:
        return "must not have '..' in it."
    if inner[1] in KERNEL_PLACES:
        return f"must not be in /{inner[1]}: that is the kernel's."
    if len(path.encode()) > PATH_BYTES or any(len(part.encode()) > NAME_BYTES for part in parts):
        return (
            f"is too long: {PATH_BYTES} bytes, and {NAME_BYTES} for each name in it, are possible."
        )
    return inexpressible(policy.engine, path)


_CONTROL: Final = re.compile(r"[\0-\x1f\x7f]")
_UNBINDABLE: Final = re.compile(r"[:,]")


def inexpressible(engine: str, path: str) -> str | None:
    """Return why that engine's command line cannot name `path`, as a sentence, or None."""
    if "\0" in path:
        return "must not hold a NUL character."
    if engine != "host" and _CONTROL.search(path):
        return f"has a control character in it, which {engine} cannot mount."
    if engine in ("apptainer", "singularity") and _UNBINDABLE.search(path):
        return f"has ':' or ',' in it, which {engine} cannot mount."
    return None


_NAME: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST: Final = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\])"
_REFERENCE: Final = re.compile(
    rf"(?P<name>(?:{_HOST}(?::[0-9]+)?/)?{_NAME}(?:/{_NAME})*)"
    r"(?::[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127})?"
    r"(?:@[a-zA-Z][a-zA-Z0-9]*(?:[-_+.][a-zA-Z][a-zA-Z0-9]*)*:[0-9a-fA-F]{32,})?"
)
_REMOTE: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._/:@+-]*")
_REFERENCE_LENGTH: Final = 1024


def is_reference(image: str) -> bool:
    """Return whether `image` is written as registries want it: `host:port/name:tag@digest`, all but the name optional."""
    if len(image) > _REFERENCE_LENGTH:
        return False
    match = _REFERENCE.fullmatch(image)
    return match is not None and len(match["name"]) <= NAME_BYTES


def image_refusal(image: str, policy: Policy) -> str | None:
    """Return why this engine would not be given that image, as a sentence, or None."""
    if not image.strip():
        return "is empty."
    if policy.engine == "host":
        return None
    if policy.engine in ("apptainer", "singularity"):
        return _apptainer_refusal(image, policy)
    return (
        None
        if is_reference(image)
        else "is no image reference (such as ubuntu:20.04 or host:5000/team/tool:1.0)."
    )


def _apptainer_refusal(image: str, policy: Policy) -> str | None:
    scheme, mark, rest = image.partition("://")
    if mark:
        return _remote_refusal(scheme, rest, policy)
    if image.startswith("/"):
        return _local_refusal(image, policy)
    return None if is_reference(image) else "is no image reference."


def _remote_refusal(scheme: str, rest: str, policy: Policy) -> str | None:
    if scheme not in policy.image_schemes:
        known = ", ".join(f"{name}://" for name in policy.image_schemes) or "none"
        return f"has a scheme that is not allowed here; allowed: {known}."
    fits = is_reference(rest) if scheme == "docker" else _REMOTE.fullmatch(rest)
    return None if fits else f"is no {scheme} image."


def _local_refusal(image: str, policy: Policy) -> str | None:
    inside = any(
        normal(image).startswith(f"{normal(root).rstrip('/')}/") for root in policy.image_roots
    )
    if ".." in image.split("/") or _CONTROL.search(image) or not inside:
        return "is not below a directory from which this server takes local images."
    return None


# --- the rest --------------------------------------------------------------------------------------------


def _resources(resources: Resources | None, policy: Policy) -> Iterator[Mistake]:
    if resources is not None and resources.backend_parameters_strict:
        for key in unsupported(resources, policy):
            yield Mistake(
                f"resources.backend_parameters.{key}",
                "is not supported here, and the request is strict.",
            )


def _tags(tags: Mapping[str, str]) -> Iterator[Mistake]:
    if "" in tags:
        yield Mistake("tags", "must not have an empty key.")


def _told(where: str, refused: str | None) -> Iterator[Mistake]:
    if refused is not None:
        yield Mistake(where, refused)


def _bounded(found: Sequence[Mistake]) -> Sequence[Mistake]:
    if len(found) <= MISTAKES_TOLD:
        return found
    return (
        *found[:MISTAKES_TOLD],
        Mistake("", f"There are {len(found) - MISTAKES_TOLD} more mistakes."),
    )


# --- mistakes of shape -----------------------------------------------------------------------------------

_MAPS: Final = frozenset({"tags", "env", "backend_parameters", "backendParameters"})
_STAND_INS: Final[Mapping[str, Any]] = {
    "path": "/x",
    "url": "http://x/",
    "image": "x",
    "command": ["x"],
    "executors": [{"image": "x", "command": ["x"]}],
}
"""Something right for a required field that is missing or wrong."""
_ITEMS: Final[Mapping[str, Any]] = {
    "inputs": {"path": "/x", "content": "x"},
    "outputs": {"path": "/x", "url": "http://x/"},
    "executors": {"image": "x", "command": ["x"]},
    "volumes": "/x",
}


def _with_shape(body: bytes, error: ValidationError, policy: Policy) -> tuple[Mistake, ...]:
    """Return the mistakes of shape, and those that the rest has once they are mended."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    wrong = tuple(Mistake(_where(each["loc"]), _sentence(each)) for each in errors)
    if not errors[0]["loc"]:
        return wrong
    blamed = tuple(mistake.path for mistake in wrong)
    others = mistakes(TaskRequest.model_validate(_mended(body, errors)), policy)
    return (*wrong, *(mistake for mistake in others if not _is_below(mistake.path, blamed)))


def _mended(body: bytes, errors: Sequence[ErrorDetails]) -> Any:
    document = from_json(body)
    for each in errors:
        *way, last = each["loc"]
        holder = document
        for step in way:
            holder = holder[step]
        if isinstance(last, int):
            holder[last] = _ITEMS.get(str(way[-1]), "x")
        elif last in _STAND_INS:
            holder[last] = _STAND_INS[last]
        else:
            del holder[last]
    return document


def _is_below(path: str, blamed: Sequence[str]) -> bool:
    return any(path == other or path.startswith((f"{other}.", f"{other}[")) for other in blamed)


def _where(loc: Sequence[int | str]) -> str:
    """Return a location in a document as a path, in the standard's spelling."""
    text = ""
    for before, step in pairwise((None, *loc)):
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step if before in _MAPS else to_snake(str(step))}"
    return text.removeprefix(".")


def _sentence(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "is required."
    if error["type"] == "json_invalid":
        return f"The body is not JSON: {error['msg'].removeprefix('Invalid JSON: ')}."
    message = error["msg"].replace("Input should be", "must be")
    return message + "." if error["loc"] else "The body must be a JSON object."
