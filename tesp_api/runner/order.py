"""The order: what the server wants done, read and checked once more.

Its form is made by `domain/plan.py` and the storage; every path in it is absolute and normal.
"""

from __future__ import annotations

import os
import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.patterns import literal
from tesp_api.runner.transfer import Place, below_url, public_url
from tesp_api.runner.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


KINDS = frozenset({"docker", "podman", "apptainer", "singularity", "host"})

MODES = frozenset({"run", "reap", "send"})


class Listed(NamedTuple):
    """A file of a directory that the server has listed."""

    name: str  # relative, with slashes
    place: Place
    size_bytes: int | None


class Input(NamedTuple):
    """A file or directory to be there before the first executor.

    From `place`, or from `content`, or, of a directory that the server listed, by `files` and
    `directories`; with `bind` ("ro" or "rw") it is not copied but mounted from the node itself.
    """

    path: str
    kind: str
    name: str
    content: str | None = None
    place: Place | None = None
    files: list[Listed] | None = None
    directories: Sequence[str] = ()
    bind: str | None = None


class Output(NamedTuple):
    """A file or directory to be sent after the last executor.

    `path` is a pattern if there is a `path_prefix`. Without a `place`, and beyond `max_bytes`, it
    is left on the node: the server does not know its URLs before.
    """

    path: str
    kind: str
    name: str
    place: Place | None = None
    path_prefix: str | None = None
    max_bytes: int | None = None


class Sending(NamedTuple):
    """A file that another job has left, to be sent to `place` or in parts."""

    path: str
    size_bytes: int
    name: str
    place: Place | None
    parts: list[Place]
    part_bytes: int


class Executor(NamedTuple):
    """A program to run in a container."""

    image: str
    command: list[str]
    workdir: str | None
    stdin: str | None
    stdout: str | None
    stderr: str | None
    env: dict[str, str]
    ignore_error: bool


class EngineOrder(NamedTuple):
    """The operator's choice of an engine and how to use it."""

    kind: str
    program: str
    global_args: list[str]
    run_args: list[str]
    image_roots: list[str]
    image_schemes: list[str]
    pull_timeout_s: float


class Order(NamedTuple):
    """All that is to be done."""

    task: str
    job: str
    instance: str
    engine: EngineOrder
    cpu_cores: float | None
    ram_gb: float | None
    disk_gb: float | None
    tail_bytes: int
    volumes: list[str]
    inputs: list[Input]
    outputs: list[Output]
    executors: list[Executor]
    heartbeat_s: float
    timeout_s: float
    attempts: int
    backoff_s: float
    parallel: int
    ca: str | None
    missing: str
    sendings: list[Sending]
    mode: str
    of: str | None

    def container(self, index: int) -> str:
        """Return the name of an executor's container, known before it exists."""
        return f"tesp-{self.instance}-{self.of or self.job}-{index}"


def read_order(document: dict[str, Any]) -> Order:
    """Return the order in `document`; raises Trouble for one that must not be carried out."""
    mode = document.get("mode", "run")
    if mode not in MODES:
        raise Trouble(f"the mode {mode!r} is unknown to the runner")
    transfer, limits = document.get("transfer") or {}, document.get("limits") or {}
    return Order(
        task=_name(document.get("task", "none"), "task"),
        job=_name(document["job"], "job"),
        instance=_name(document.get("instance", "none"), "instance"),
        engine=_engine(document["engine"]),
        cpu_cores=limits.get("cpu_cores"),
        ram_gb=limits.get("ram_gb"),
        disk_gb=limits.get("disk_gb"),
        tail_bytes=int(document.get("tail_bytes", 65536)),
        volumes=list(map(_path, document.get("volumes", ()))),
        inputs=list(map(_input, document.get("inputs", ()))),
        outputs=list(map(_output, document.get("outputs", ()))),
        executors=_lost(document)
        if mode == "reap"
        else list(map(_executor, document.get("executors", ()))),
        heartbeat_s=float(document.get("heartbeat_s", 30)),
        timeout_s=float(transfer.get("timeout_s", 60)),
        attempts=int(transfer.get("attempts", 5)),
        backoff_s=float(transfer.get("backoff_s", 1)),
        parallel=max(1, int(transfer.get("parallel", 4))),
        ca=document.get("ca"),
        missing=document.get("missing", "warn"),
        sendings=list(map(_sending, document.get("files", ()))),
        mode=mode,
        of=None if mode == "run" else _name(document["of"], "job"),
    )


def _lost(document: dict[str, Any]) -> list[Executor]:
    """Return as many executors as the job to reap had: of those only the number is known."""
    return [_executor({"image": "none", "command": ["none"]})] * int(document["containers"])


def _engine(one: dict[str, Any]) -> EngineOrder:
    if one["kind"] not in KINDS:
        raise Trouble(f"the engine {one['kind']!r} is unknown to the runner")
    return EngineOrder(
        kind=one["kind"],
        program=one.get("program") or one["kind"],
        global_args=list(one.get("global_args", ())),
        run_args=list(one.get("run_args", ())),
        image_roots=[os.path.realpath(root) for root in one.get("image_roots", ())],
        image_schemes=list(one.get("image_schemes", ())),
        pull_timeout_s=float(one.get("pull_timeout_s", 1800)),
    )


def _input(one: dict[str, Any]) -> Input:
    files, directories = one.get("files"), one.get("directories", ())
    return Input(
        path=_path(one["path"]),
        kind=one.get("type", "FILE"),
        name=_shown(one),
        content=one.get("content"),
        place=_place(one) if one.get("url") else None,
        files=None if files is None else [_listed(file, one) for file in files],
        directories=[_relative(name) for name in directories],
        bind=one.get("bind"),
    )


def _listed(file: dict[str, Any], one: dict[str, Any]) -> Listed:
    name = _relative(file["name"])
    shown = {"name": below_url(_shown(one), name)}
    place = _place({"headers": one.get("headers"), "signed": one.get("signed"), **file, **shown})
    return Listed(name, place, file.get("size_bytes"))


def _output(one: dict[str, Any]) -> Output:
    path = _path(one["path"])
    return Output(
        path=path if one.get("path_prefix") else literal(path),
        kind=one.get("type", "FILE"),
        name=_shown(one),
        place=None if one.get("deferred") else _place(one),
        path_prefix=one.get("path_prefix"),
        max_bytes=one.get("max_bytes"),
    )


def _sending(one: dict[str, Any]) -> Sending:
    one = {"signed": True, **one}  # whatever has ended can be had anew
    parts = [_place({**one, "url": url}) for url in one.get("parts", ())]
    return Sending(
        path=_path(one["path"]),
        size_bytes=int(one["size_bytes"]),
        name=_shown(one),
        place=_place(one) if "url" in one else None,
        parts=parts,
        part_bytes=int(one.get("part_bytes", 0)),
    )


def _place(one: dict[str, Any]) -> Place:
    return Place(
        url=_text(one["url"]),
        name=_shown(one),
        headers=dict(one.get("headers") or {}),
        username=one.get("username"),
        password=one.get("password"),
        root=os.path.realpath(one["root"]) if one.get("root") else None,
        signed=bool(one.get("signed")),
    )


def _shown(one: dict[str, Any]) -> str:
    name: str = one.get("name") or public_url(one.get("url") or "")
    return name


def _relative(name: str) -> str:
    """Return `name` if it stays below the directory it is joined to; raises Trouble if not."""
    if any(step in {"", ".", ".."} for step in _text(name).split("/")):
        raise Trouble(f"{name!r} is no path below a directory")
    return name


def _executor(one: dict[str, Any]) -> Executor:
    env = dict(one.get("env") or {})
    for text in (*one["command"], *env, *env.values()):
        _text(text)
    if any(not name or "=" in name for name in env):
        raise Trouble("the name of an environment variable is empty or holds a '='")
    return Executor(
        image=one["image"],
        command=list(one["command"]),
        workdir=_path(one["workdir"], root=True) if one.get("workdir") else None,
        stdin=_path(one["stdin"]) if one.get("stdin") else None,
        stdout=_path(one["stdout"]) if one.get("stdout") else None,
        stderr=_path(one["stderr"]) if one.get("stderr") else None,
        env=env,
        ignore_error=bool(one.get("ignore_error")),
    )


def _name(text: str, what: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,200}", text):
        raise Trouble(f"the order's {what} {text!r} is not a name")
    return text


def _text(text: str) -> str:
    """Return `text` if an operating system can carry it in an argument; raises Trouble if not."""
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        raise Trouble(f"{text!r} is not valid Unicode") from None
    if b"\0" in encoded:
        raise Trouble(f"{text!r} holds a NUL character")
    return text


def _path(path: str, *, root: bool = False) -> str:
    """Return `path` if a task may have it inside of its container; raises Trouble if not."""
    if not path.startswith("/") or path.startswith("//") or posixpath.normpath(_text(path)) != path:
        raise Trouble(f"the path {path!r} is not absolute and normal")
    if any(is_below(path, top) for top in ("/proc", "/sys", "/dev")):
        raise Trouble(f"the path {path!r} belongs to the kernel")
    if path == "/" and not root:
        raise Trouble("the path '/' cannot be a file, a directory or a volume of a task")
    return path


def is_below(path: str, top: str) -> bool:
    """Tell whether `path` is `top` or lies below it."""
    return path == top or path.startswith(top.rstrip("/") + "/")
