"""What a request must obey beyond its shape.

A mistake has a JSON path (`inputs[0].path`) and a sentence that repeats neither contents nor URLs:
those may hold secrets.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tesp_api.domain import images
from tesp_api.domain.errors import Mistake
from tesp_api.domain.plan import normal
from tesp_api.domain.tes import Executor, FileType, Input, Output, Resources, TaskRequest

CONTENT_BYTES: Final = 1024 * 1024
PATH_BYTES: Final = 4095
NAME_BYTES: Final = 255
KERNEL_PLACES: Final = frozenset({"proc", "sys", "dev"})


def _everything_is_served(_item: Input | Output, _owner: str | None) -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What this server allows.

    `engine` is the kind that runs the containers; `image_roots` and `image_schemes` are for
    apptainer and singularity. `backend_parameters` are the supported keys in lower case. `refusal`
    tells why a URL is not served to an owner, as a sentence, or None.
    """

    engine: str = "docker"
    image_roots: tuple[str, ...] = ()
    image_schemes: tuple[str, ...] = ()
    content_bytes: int = CONTENT_BYTES
    backend_parameters: frozenset[str] = frozenset()
    refusal: Callable[[Input | Output, str | None], str | None] = _everything_is_served


def mistakes(request: TaskRequest, policy: Policy, owner: str | None = None) -> Iterator[Mistake]:
    """Yield everything that is wrong in a request of `owner` whose shape is right."""
    yield from _executors(request.executors, policy)
    yield from _inputs(request.inputs or (), policy, owner)
    yield from _outputs(request.outputs or (), policy, owner)
    yield from _selections(request)
    yield from _volumes(request.volumes or (), policy)
    yield from _resources(request.resources, policy)
    yield from _tags(request.tags or {})


def unsupported(resources: Resources | None, policy: Policy) -> tuple[str, ...]:
    """Return the backend parameters that this server does not know, as the client spelt them."""
    given = (resources and resources.backend_parameters) or {}
    return tuple(key for key in given if key.lower() not in policy.backend_parameters)


def storable(request: TaskRequest, policy: Policy) -> TaskRequest:
    """Return the request without unsupported backend parameters.

    TES wants those neither stored nor returned.
    """
    resources = request.resources
    if resources is None or not (unknown := unsupported(resources, policy)):
        return request
    given = resources.backend_parameters or {}
    known = {key: value for key, value in given.items() if key not in unknown}
    changed = resources.model_copy(update={"backend_parameters": known or None})
    return request.model_copy(update={"resources": changed})


def _executors(executors: Sequence[Executor], policy: Policy) -> Iterator[Mistake]:
    if not executors:
        yield Mistake("executors", "must hold at least one executor.")
    for index, executor in enumerate(executors):
        where = f"executors[{index}]"
        yield from _told(f"{where}.image", _image_refusal(executor.image, policy))
        yield from _command(where, executor.command)
        yield from _env(where, executor.env or {}, policy)
        for name in ("workdir", "stdin", "stdout", "stderr"):
            if path := getattr(executor, name):
                yield from _told(f"{where}.{name}", path_refusal(path, policy.engine))


def _image_refusal(image: str, policy: Policy) -> str | None:
    return images.refusal(image, policy.engine, policy.image_roots, policy.image_schemes)


def _command(where: str, command: Sequence[str]) -> Iterator[Mistake]:
    if not command or not command[0]:
        yield Mistake(f"{where}.command", "must begin with the program to execute.")
    for index, argument in enumerate(command):
        if "\0" in argument:
            yield Mistake(f"{where}.command[{index}]", "must not have a NUL character in it.")


_VARIABLE: Final = re.compile(r"[^=\0]+")
_SHELL_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _env(where: str, env: Mapping[str, str], policy: Policy) -> Iterator[Mistake]:
    possible = _SHELL_VARIABLE if policy.engine in images.APPTAINER else _VARIABLE
    for name, value in env.items():
        if not possible.fullmatch(name):
            yield Mistake(f"{where}.env", f"cannot have a variable named {name!r}.")
        elif "\0" in value:
            yield Mistake(f"{where}.env.{name}", "must not have a NUL character in it.")


def _inputs(inputs: Sequence[Input], policy: Policy, owner: str | None) -> Iterator[Mistake]:
    first: dict[str, int] = {}
    for index, item in enumerate(inputs):
        where = f"inputs[{index}]"
        yield from _told(f"{where}.path", mount_refusal(item.path, policy.engine))
        yield from _source(where, item, policy, owner)
        same = first.setdefault(normal(item.path), index)
        if same != index:
            yield Mistake(f"{where}.path", f"is the path of inputs[{same}] too.")


def _source(where: str, item: Input, policy: Policy, owner: str | None) -> Iterator[Mistake]:
    """Check what the input is made from: its content, else its URL; an empty file has neither."""
    if item.content:
        yield from _content(where, item.content, item.type, policy)
    elif item.url:
        yield from _told(f"{where}.url", policy.refusal(item, owner))
    elif item.content is None:
        yield Mistake(f"{where}.url", "is required, unless content is set.")


def _content(where: str, content: str, kind: FileType, policy: Policy) -> Iterator[Mistake]:
    if kind is FileType.DIRECTORY:
        yield Mistake(f"{where}.type", "must be FILE where content is set.")
    if len(content.encode()) > policy.content_bytes:
        most = f"{policy.content_bytes} bytes"
        yield Mistake(f"{where}.content", f"is larger than the {most} that this server takes.")


def _outputs(outputs: Sequence[Output], policy: Policy, owner: str | None) -> Iterator[Mistake]:
    for index, item in enumerate(outputs):
        where = f"outputs[{index}]"
        yield from _told(f"{where}.path", mount_refusal(item.path, policy.engine))
        if is_pattern(item.path):
            yield from _told(f"{where}.path_prefix", _prefix_refusal(item))
        if item.url:
            yield from _told(f"{where}.url", policy.refusal(item, owner))
        else:
            yield Mistake(f"{where}.url", "is empty.")


def _prefix_refusal(item: Output) -> str | None:
    if not item.path_prefix:
        return "is required, since path has wildcards."
    if is_pattern(item.path_prefix) or not item.path.startswith(item.path_prefix):
        return "must be what path begins with, before its first wildcard."
    return None


def _selections(request: TaskRequest) -> Iterator[Mistake]:
    """Check that wildcards select in a directory of the task's own: it is bound as a whole."""
    outputs = request.outputs or ()
    given: tuple[Input | Output, ...] = (*(request.inputs or ()), *outputs)
    own = [*(request.volumes or ()), *(item.path for item in given if _is_directory(item))]
    for index, item in enumerate(outputs):
        if is_pattern(item.path):
            top = _certain(normal(item.path))
            if _is_the_images(top) and not any(_is_below(top, normal(path)) for path in own):
                said = "has wildcards where images keep files of their own; let it select below a"
                yield Mistake(f"outputs[{index}].path", f"{said} volume or another directory.")


def _is_directory(item: Input | Output) -> bool:
    return item.type is FileType.DIRECTORY and not (
        isinstance(item, Output) and is_pattern(item.path)
    )


def _certain(pattern: str) -> str:
    """Return the directory above the first name with a wildcard."""
    names = pattern.split("/")[1:-1]
    certain = names[: next((n for n, name in enumerate(names) if is_pattern(name)), len(names))]
    return "/" + _QUOTED.sub(r"\1", "/".join(certain))


# As `runner/mounts.py` has them: what is declared just there is bound alone, beside the image's.
IMAGE_PLACES: Final = frozenset(
    (
        *("/", "/var", "/var/lib", "/var/log", "/var/cache", "/var/run", "/var/spool", "/var/opt"),
        *("/home", "/root", "/run", "/mnt", "/media", "/srv"),
    )
)
IMAGE_TREES: Final = (
    *("/etc", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/boot"),
)


def _is_the_images(path: str) -> bool:
    return path in IMAGE_PLACES or any(_is_below(path, tree) for tree in IMAGE_TREES)


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def _volumes(volumes: Sequence[str], policy: Policy) -> Iterator[Mistake]:
    for index, volume in enumerate(volumes):
        yield from _told(f"volumes[{index}]", mount_refusal(volume, policy.engine))


def _resources(resources: Resources | None, policy: Policy) -> Iterator[Mistake]:
    if resources is not None and resources.backend_parameters_strict:
        for key in unsupported(resources, policy):
            where = f"resources.backend_parameters.{key}"
            yield Mistake(where, "is not supported here, and the request is strict about it.")


def _tags(tags: Mapping[str, str]) -> Iterator[Mistake]:
    if "" in tags:
        yield Mistake("tags", "must not have an empty key.")


def _told(where: str, refusal: str | None) -> Iterator[Mistake]:
    if refusal is not None:
        yield Mistake(where, refusal)


_QUOTED: Final = re.compile(r"\\(.)", re.DOTALL)
_WILDCARD: Final = re.compile(r"(?<!\\)(?:\\\\)*(?:[*?]|\[[!^]?[^/]+\])")


def is_pattern(path: str) -> bool:
    r"""Return whether an output's path selects by `*`, `?` or `[…]`; `\*` is a star."""
    return _WILDCARD.search(path) is not None


def mount_refusal(path: str, engine: str) -> str | None:
    """Return why nothing of the task's own can be at `path`, as a sentence, or None."""
    refused = path_refusal(path, engine)
    if refused is None and normal(path) == "/":
        return "must not be the root itself."
    return refused


def path_refusal(path: str, engine: str) -> str | None:
    """Return why `path` can be no path in a container, as a sentence, or None."""
    if not path.startswith("/"):
        return "must be an absolute path."
    names = path.split("/")
    if ".." in names:
        return "must not have '..' in it."
    place = normal(path).split("/")[1]
    if place in KERNEL_PLACES:
        return f"must not be in /{place}, which is the kernel's."
    if len(path.encode()) > PATH_BYTES or any(len(name.encode()) > NAME_BYTES for name in names):
        return f"is longer than {PATH_BYTES} bytes, or a name in it than {NAME_BYTES}."
    return inexpressible(path, engine)


def inexpressible(path: str, engine: str) -> str | None:
    """Return why the engine's command line cannot name `path`, as a sentence, or None."""
    if "\0" in path:
        return "must not have a NUL character in it."
    if engine != "host" and "\r\n" in path:
        # Mounts are told in CSV, whose readers make one character of the two.
        return f"has a line end in it that {engine} cannot mount."
    return None
