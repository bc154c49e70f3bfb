#!/usr/bin/env python3
"""Run one TES task on this node, and say truthfully how it went.

The server sends this file, zipped with an order, to Pulsar, which runs it by the node's Python
(3.8 or newer, nothing installed). It fetches the inputs, runs the executors one after another in
containers, sends the outputs, and prints one framed line: the report. Nothing of the task outlives
it: a watchdog process cleans up when the runner is killed.

    order, paths, tree, transfers, processes, engines, host engine, executors, report, watchdog,
    main
"""

# Imports inside of functions: ssl, http, urllib and ctypes are slow to import, and the start of a
# task that does nothing is what a user waits for most often.
# Programs are started by exec with argument lists: there is no shell, and the paths are the
# order's.
# The directories /tmp and /var/tmp are those of containers, made anew for each task.
# ruff: noqa: PLC0415, S606, S108

from __future__ import annotations

import errno
import json
import os
import posixpath
import re
import select
import signal
import stat
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from http.client import HTTPConnection, HTTPResponse
    from typing import Any, NoReturn

VERSION = 1
CHUNK = 1 << 20
REPORT_CAP = 700 * 1024
RESERVE = "tes_reserve"
RESERVE_BYTES = 3 << 20
ENGINE_TIMEOUT_S = 300.0
REAP_TIMEOUT_S = 9.0
MISSING, NOT_EXECUTABLE, KILLED = 127, 126, 137  # exit codes, as shells and engines use them


class Trouble(Exception):
    """The task cannot go on and its program is not to blame; the text is for the user."""


def now() -> str:
    """Return this moment as RFC 3339 UTC with microseconds."""
    at = time.time_ns()
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 10**9))
        + f".{at // 1000 % 10**6:06d}+00:00"
    )


def readable(text: str) -> str:
    """Return `text` as valid Unicode, with what the file system could not decode replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def disk_is_full(error: OSError) -> bool:
    """Tell whether `error` says that there is no room left."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


# ---- order: what the server wants done ----


class Input(NamedTuple):
    """A file or directory to be there before the first executor: from a URL or given."""

    path: str
    kind: str
    url: str | None
    content: str | None
    headers: dict[str, str]


class Output(NamedTuple):
    """A file or directory to be sent after the last executor."""

    path: str
    kind: str
    url: str
    headers: dict[str, str]


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
    tail_bytes: int
    file_roots: list[str]
    volumes: list[str]
    inputs: list[Input]
    outputs: list[Output]
    executors: list[Executor]
    heartbeat_s: float
    timeout_s: float
    attempts: int
    backoff_s: float
    reaps: str | None

    def container(self, index: int) -> str:
        """Return the name of an executor's container, known before it exists."""
        return f"tesp-{self.instance}-{self.reaps or self.job}-{index}"


def read_order(document: dict[str, Any]) -> Order:
    """Return the order in `document`; raises Trouble for one that must not be carried out."""
    reaps = _name(document["of"], "job") if document.get("mode") == "reap" else None
    transfer, limits = document.get("transfer") or {}, document.get("limits") or {}
    return Order(
        task=_name(document.get("task", "none"), "task"),
        job=_name(document["job"], "job"),
        instance=_name(document.get("instance", "none"), "instance"),
        engine=_engine(document["engine"]),
        cpu_cores=limits.get("cpu_cores"),
        ram_gb=limits.get("ram_gb"),
        tail_bytes=int(document.get("tail_bytes", 65536)),
        file_roots=[os.path.realpath(root) for root in document.get("file_roots", ())],
        volumes=list(map(_path, document.get("volumes", ()))),
        inputs=list(map(_input, document.get("inputs", ()))),
        outputs=list(map(_output, document.get("outputs", ()))),
        executors=_lost(document) if reaps else list(map(_executor, document.get("executors", ()))),
        heartbeat_s=float(document.get("heartbeat_s", 30)),
        timeout_s=float(transfer.get("timeout_s", 60)),
        attempts=int(transfer.get("attempts", 5)),
        backoff_s=float(transfer.get("backoff_s", 1)),
        reaps=reaps,
    )


def _lost(document: dict[str, Any]) -> list[Executor]:
    """Return as many executors as the job to reap had: of those only the number is known."""
    return [_executor({"image": "none", "command": ["none"]})] * int(document["containers"])


def _engine(one: dict[str, Any]) -> EngineOrder:
    if one["kind"] not in ENGINES:
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
    return Input(
        path=_path(one["path"]),
        kind=one.get("type", "FILE"),
        url=one.get("url"),
        content=one.get("content"),
        headers=dict(one.get("headers") or {}),
    )


def _output(one: dict[str, Any]) -> Output:
    return Output(
        path=_path(one["path"]),
        kind=one.get("type", "FILE"),
        url=one["url"],
        headers=dict(one.get("headers") or {}),
    )


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


# ---- paths: which of the container's paths are the task's own ----

# An image keeps its own things here: a file declared just there is bound alone, beside them.
SHARED_PLACES = frozenset(
    (
        *("/", "/var", "/var/lib", "/var/log", "/var/cache", "/var/run", "/var/spool", "/var/opt"),
        *("/home", "/root", "/run", "/mnt", "/media", "/srv"),
    )
)
SHARED_TREES = (
    "/etc",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/boot",
)


class Mount(NamedTuple):
    """What is to be seen at a path of the container."""

    host: str
    container: str
    kind: str  # "file" or "directory"


def is_below(path: str, top: str) -> bool:
    """Tell whether `path` is `top` or lies below it."""
    return path == top or path.startswith(top.rstrip("/") + "/")


def is_shared_place(path: str) -> bool:
    """Tell whether an image keeps things of its own in the directory `path`."""
    return path in SHARED_PLACES or any(is_below(path, top) for top in SHARED_TREES)


def workdir_of(path: str, order: Order) -> str | None:
    """Return the topmost workdir above `path`: the program makes directories there itself."""
    tops = {
        one.workdir for one in order.executors if one.workdir and not is_shared_place(one.workdir)
    }
    return min((top for top in tops if path != top and is_below(path, top)), key=len, default=None)


def mounts(order: Order, root: str) -> list[Mount]:
    """Return what to bind, parents first, no path below another.

    One bind for each *home*: the parent of a declared file, as the task's own writable directory,
    so that a program finds inputs, outputs and its scratch files on one file system. Where an
    image keeps its own things, the file alone.
    """
    directories, files = {"/tmp", *order.volumes}, set()
    streams = [path for one in order.executors for path in (one.stdout, one.stderr) if path]
    stdins = [one.stdin for one in order.executors if one.stdin]
    for kind, path in (
        *((one.kind, one.path) for one in order.inputs),
        *((one.kind, one.path) for one in order.outputs),
        *(("FILE", path) for path in streams),
        *(("STDIN", path) for path in stdins),
    ):
        home = workdir_of(path, order) or (path if kind == "DIRECTORY" else posixpath.dirname(path))
        if kind == "DIRECTORY" or not is_shared_place(home):
            directories.add(home)
        elif kind == "FILE":
            files.add(path)
    tops = [path for path in directories if not _covered(path, directories - {path})]
    alone = [path for path in files if not _covered(path, directories)]
    plan = [Mount(root + path, path, "directory") for path in tops]
    plan += [Mount(root + path, path, "file") for path in alone]
    return sorted(plan, key=lambda mount: mount.container)


def _covered(path: str, directories: Iterable[str]) -> bool:
    return any(is_below(path, directory) for directory in directories)


def inexpressible(kind: str, path: str) -> str | None:
    """Return why the engine `kind` cannot bind `path`, or None if it can."""
    if kind != "host" and "\r\n" in path:
        # The engines read --mount by Go's encoding/csv, which drops a return before a line feed.
        return f"{kind} cannot bind a path with a carriage return before a line feed: {path!r}"
    return None


def csv_field(text: str) -> str:
    """Return `text` as one field of a CSV record."""
    return '"' + text.replace('"', '""') + '"' if re.search(r'[,"\r\n]|^\s', text) else text


def mount_option(mount: Mount) -> str:
    """Return the value of --mount: one CSV record, in which `:` and `,` and quotes mean nothing."""
    fields = ("type=bind", f"source={mount.host}", f"target={mount.container}")
    return ",".join(csv_field(field) for field in fields)


# ---- tree: the task's files, below one directory that mirrors the container's paths ----


class Tree:
    """The task's files; a link is followed as in the container, so never out of the tree.

    A task may leave links, FIFOs and devices here. Nothing is opened but regular files and
    directories, and each step of a path is opened for itself without following a link.
    """

    LINKS = 40
    UNTOUCHED_NS = (
        10**18
    )  # the modification time of an output file that the task has not yet written

    def __init__(self, top: str) -> None:
        self.top = top

    def _real(self, path: str) -> list[str]:
        """Return the steps to `path` with all links resolved inside the tree."""
        done: list[str] = []
        todo, links = path.split("/")[::-1], 0
        while todo:
            step = todo.pop()
            if step == "..":
                done = done[:-1]
            elif step not in {"", "."}:
                target = _link_target("/".join([self.top, *done, step]))
                if target is None:
                    done.append(step)
                    continue
                links += 1
                if links > self.LINKS:
                    raise OSError(errno.ELOOP, "too many symbolic links", path)
                done = [] if target.startswith("/") else done
                todo += target.split("/")[::-1]
        return done

    def _descend(self, steps: Sequence[str], *, make: bool = False) -> int:
        here = os.open(self.top, os.O_PATH | os.O_DIRECTORY)
        for step in steps:
            try:
                if make:
                    _make_directory(step, here)
                below = os.open(step, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
            finally:
                os.close(here)
            here = below
        return here

    def kind(self, path: str) -> str | None:
        """Return "FILE", "DIRECTORY", "other", or None for nothing, or an output never written."""
        try:
            found = os.lstat("/".join([self.top, *self._real(path)]))
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(found.st_mode):
            return "DIRECTORY"
        if not stat.S_ISREG(found.st_mode):
            return "other"
        return None if found.st_size == 0 and found.st_mtime_ns == self.UNTOUCHED_NS else "FILE"

    def make_directory(self, path: str, mode: int = 0o777) -> None:
        """Make the directory `path` and those above it; only a new one gets `mode`."""
        new = self.kind(path) is None
        os.close(self._descend(self._real(path), make=True))
        if new:
            os.chmod("/".join([self.top, *self._real(path)]), mode)

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        """Open the regular file at `path`; raises OSError, also for a FIFO or a device."""
        steps = self._real(path)
        make = bool(flags & os.O_CREAT)
        here = self._descend(steps[:-1], make=make)
        try:
            found = _lstat(steps[-1], here)
            if found and not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            file = os.open(steps[-1], flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode, dir_fd=here)
        finally:
            os.close(here)
        if make:
            os.fchmod(file, mode)
        os.set_blocking(file, True)
        return file

    def expect(self, path: str) -> None:
        """Put an empty file at `path` for an engine to bind, unless there is one."""
        if self.kind(path) is None:
            os.close(self.open(path, os.O_WRONLY | os.O_CREAT))
            os.utime(
                self.top + path, ns=(self.UNTOUCHED_NS, self.UNTOUCHED_NS), follow_symlinks=False
            )

    def files(self, path: str) -> Iterator[tuple[str, str | None]]:
        """Yield all below the directory `path` but directories: its path below it, and its kind."""
        top = "/".join([self.top, *self._real(path)])
        for entry in walk(top):
            if len(entry.path) >= DEEPEST and entry.is_dir(follow_symlinks=False):
                raise Trouble(f"{path} holds directories nested too deeply to be sent")
            if not entry.is_dir(follow_symlinks=False):
                name = os.path.relpath(entry.path, top)
                yield name, self.kind(f"{path}/{name}")


DEEPEST = 3800  # characters of a path: a program can nest deeper than a path can be long


def walk(top: str) -> Iterator[os.DirEntry[str]]:
    """Yield all that lies below the directory `top`; not recursive, for a task can nest deeply."""
    todo = [top]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                yield entry
                if entry.is_dir(follow_symlinks=False) and len(entry.path) < DEEPEST:
                    todo.append(entry.path)


def _link_target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _lstat(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _make_directory(name: str, directory: int, mode: int = 0o777) -> None:
    try:
        os.mkdir(name, dir_fd=directory)
    except FileExistsError:
        return
    os.chmod(name, mode, dir_fd=directory)


def plant(order: Order, tree: Tree, plan: Sequence[Mount]) -> None:
    """Make the directories and empty files that the task may rely on before its first executor."""
    for mount in plan:
        if mount.kind == "directory":
            tree.make_directory(
                mount.container, 0o1777 if mount.container in {"/tmp", "/var/tmp"} else 0o777
            )
    written = [(one.kind, one.path) for one in order.outputs]
    written += [
        ("FILE", path) for one in order.executors for path in (one.stdout, one.stderr) if path
    ]
    for kind, path in written:
        if not workdir_of(path, order):
            tree.make_directory(path if kind == "DIRECTORY" else posixpath.dirname(path))
    alone = {mount.container for mount in plan if mount.kind == "file"}
    for path in alone - {one.path for one in order.inputs}:
        tree.expect(path)


def uproot(top: str) -> None:
    """Remove the directory `top` and all below it, deeper than any stack or path may be.

    Directories found in a directory are moved up to `top` first, so that the depth never grows.
    """
    if not os.path.isdir(top):
        return
    os.chmod(top, 0o700)
    shelf = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        moved = 0
        while True:
            names = os.listdir(shelf)
            if not names:
                break
            for name in names:
                moved = _discard(shelf, name, moved)
    finally:
        os.close(shelf)
    os.rmdir(top)


def _discard(shelf: int, name: str, moved: int) -> int:
    """Remove `name` from the directory `shelf`; directories below it come to stand on the shelf."""
    if not _is_directory(shelf, name):
        os.unlink(name, dir_fd=shelf)
        return moved
    # Owner's rights first: a task may have taken them away, and a directory can only be moved by
    # who may write it.
    os.chmod(name, 0o700, dir_fd=shelf)
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=shelf)
    try:
        for entry in os.listdir(inner):
            if _is_directory(inner, entry):
                moved += 1
                os.chmod(entry, 0o700, dir_fd=inner)
                os.rename(
                    entry,
                    f".moved-{moved}-{time.monotonic_ns()}",
                    src_dir_fd=inner,
                    dst_dir_fd=shelf,
                )
            else:
                os.unlink(entry, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=shelf)
    return moved


def _is_directory(directory: int, name: str) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


# ---- transfers: what comes in and goes out ----


class Sent(NamedTuple):
    """A file that went out."""

    url: str
    path: str
    size_bytes: int


class Parcel(NamedTuple):
    """A file on its way out."""

    url: str
    headers: dict[str, str]
    file: int
    name: str


class Transient(Exception):
    """A transfer failed in a way that may pass."""


class Refused(Exception):
    """A transfer was answered, and the answer is no."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"HTTP {status} {reason}".strip())
        self.status = status


class Transfers:
    """Carries the inputs into the tree and the outputs out of it."""

    def __init__(self, order: Order, tree: Tree, log: list[str]) -> None:
        self.order = order
        self.tree = tree
        self.log = log

    def check(self) -> None:
        """Raise Trouble for a transfer that cannot be done at all, before anything has run."""
        wanted = [(one.url, one.kind, set(FETCH)) for one in self.order.inputs if one.url]
        wanted += [(one.url, one.kind, set(SEND)) for one in self.order.outputs]
        for url, kind, schemes in wanted:
            if scheme(url) not in schemes:
                known = ", ".join(sorted(schemes))
                raise Trouble(f"no transfer for {public_url(url)}: only {known}")
            if kind == "DIRECTORY" and scheme(url) != "file":
                where = public_url(url)
                raise Trouble(f"a directory cannot be transferred by HTTP yet: {where}")

    def fetch(self, one: Input) -> None:
        """Put the input `one` into the tree; raises Trouble if it cannot be had."""
        if one.url is None:
            file = self.tree.open(one.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755)
            with open(file, "wb") as sink:
                sink.write((one.content or "").encode("utf-8", "surrogateescape"))
        else:
            FETCH[scheme(one.url)](self, one, one.url)

    def send(self, one: Output) -> list[Sent]:
        """Send what is there of the output `one`; what is missing becomes a line of the log."""
        found = self.tree.kind(one.path)
        if found != one.kind:
            said = {None: "was not written", "FILE": "is a file", "DIRECTORY": "is a directory"}
            self.log.append(
                f"output {one.path} ({one.kind}) {said.get(found, 'is neither file nor directory')}"
            )
            return []
        if one.kind == "FILE":
            return [self._send_file(one, one.url, one.path)]
        if scheme(one.url) == "file":
            make_place(self.order, file_path(one.url))
        sent = []
        for name, kind in self.tree.files(one.path):
            if kind == "FILE":
                sent.append(self._send_file(one, below_url(one.url, name), f"{one.path}/{name}"))
            else:
                self.log.append(f"output {one.path}/{name} is no file, or a link to none: not sent")
        return sent

    def _send_file(self, one: Output, url: str, path: str) -> Sent:
        with open(self.tree.open(path, os.O_RDONLY), "rb") as source:
            size = os.fstat(source.fileno()).st_size
            parcel = Parcel(url, one.headers, source.fileno(), posixpath.basename(path))
            SEND[scheme(url)](self, parcel)
        return Sent(public_url(url), path, size)

    def patiently(self, what: str, once: Callable[[], None]) -> None:
        """Do `once`, again after growing pauses while it may help; raises Trouble in the end."""
        for attempt in range(1, self.order.attempts + 1):
            try:
                return once()
            except Transient as error:
                reason = str(error)
            except Refused as error:
                raise Trouble(f"{what} failed at attempt {attempt}: {error}") from error
            if attempt < self.order.attempts:
                time.sleep(min(30.0, self.order.backoff_s * 2 ** (attempt - 1)))
        raise Trouble(f"{what} failed after {self.order.attempts} attempts: {reason}")


def scheme(url: str) -> str:
    """Return the scheme of `url`; a bare path is a file."""
    return "file" if url.startswith("/") else url.partition("://")[0].lower()


def public_url(url: str) -> str:
    """Return `url` without what may be a credential in it: user, password, query."""
    head, mark, rest = url.partition("://")
    if not mark or scheme(url) == "file":
        return url
    authority, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{head}://{authority.rpartition('@')[2]}{slash}{path}"


def below_url(url: str, name: str) -> str:
    """Return the URL of the file `name` below the directory `url`."""
    if url.startswith("/"):
        return url.rstrip("/") + "/" + name
    from urllib.parse import quote

    return url.rstrip("/") + "/" + quote(os.fsencode(name))


def copy(source: int, sink: int) -> None:
    """Copy one open file into another, in pieces."""
    while True:
        data = os.read(source, CHUNK)
        if not data:
            return
        write_all(sink, data)


def write_all(sink: int, data: bytes) -> None:
    """Write all of `data`, which one call may not."""
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]


# Files of the node, only below the roots that the operator opened.


def file_path(url: str) -> str:
    """Return the path that a file URL or a bare path names."""
    if url.startswith("/"):
        return url
    from urllib.parse import unquote

    host, slash, path = url[len("file://") :].partition("/")
    if host not in {"", "localhost"} or not slash:
        raise Trouble(f"{url} names another host")
    return "/" + unquote(path, errors="surrogateescape")


def allowed(path: str, order: Order) -> str:
    """Return `path` with links resolved; raises Trouble if that is outside of every root."""
    real = os.path.realpath(path)
    if not any(is_below(real, root) for root in order.file_roots):
        raise Trouble(f"{path} is not below a directory that this node opens to tasks")
    return real


def opened_path(file: int) -> str:
    """Return where the open `file` lies: the truth after links, whoever changes them meanwhile."""
    return os.readlink(f"/proc/self/fd/{file}")


def fetch_file(transfers: Transfers, one: Input, url: str) -> None:
    """Copy a file or directory of the node."""
    path = allowed(file_path(url), transfers.order)
    if one.kind == "DIRECTORY":
        if not os.path.isdir(path):
            raise Trouble(f"input {public_url(url)} is not a directory")
        copy_directory(transfers, path, one.path)
    else:
        try:
            copy_file(transfers, path, one.path)
        except OSError as error:
            if disk_is_full(error):
                raise
            raise Trouble(f"input {public_url(url)} cannot be read: {error.strerror}") from error


def copy_file(transfers: Transfers, path: str, target: str) -> None:
    """Copy the regular file at `path` into the tree."""
    source = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        allowed(opened_path(source), transfers.order)
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise Trouble(f"{path} is not a regular file")
        sink = transfers.tree.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755)
        try:
            copy(source, sink)
        finally:
            os.close(sink)
    finally:
        os.close(source)


def copy_directory(transfers: Transfers, top: str, target: str) -> None:
    """Copy the directory `top` into the tree; a link stays a link and may not leave it."""
    for where, directories, names in os.walk(top, onerror=_fail):
        inside = target + where[len(top) :]
        transfers.tree.make_directory(inside)
        for name in (*directories, *names):
            path = os.path.join(where, name)
            if os.path.islink(path):
                real = os.path.realpath(path)
                if not is_below(real, top):
                    raise Trouble(f"{path} is a link that leads out of {top}")
                os.symlink(os.path.relpath(real, where), f"{transfers.tree.top}{inside}/{name}")
            elif name in names:
                copy_file(transfers, path, f"{inside}/{name}")


def _fail(error: OSError) -> NoReturn:
    raise error


def make_place(order: Order, path: str) -> int:
    """Open the directory `path` below one of the roots, made where it is missing."""
    directory = _make_path(allowed(path, order))
    allowed(opened_path(directory), order)
    return directory


def send_file(transfers: Transfers, parcel: Parcel) -> None:
    """Write a file of the node beside its place and rename it: nobody sees half of it."""
    path = allowed(file_path(parcel.url), transfers.order)
    beside, name = f".{transfers.order.job}.{os.getpid()}.part", posixpath.basename(path)
    mode = 0o777 if os.fstat(parcel.file).st_mode & 0o111 else 0o666
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        directory = make_place(transfers.order, posixpath.dirname(path))
        sink = os.open(beside, flags, mode, dir_fd=directory)
        try:
            copy(parcel.file, sink)
            os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            os.unlink(beside, dir_fd=directory)
            raise
        finally:
            os.close(sink)
            os.close(directory)
    except OSError as error:
        raise Trouble(f"output {parcel.url} cannot be written: {error.strerror}") from error


def _make_path(path: str) -> int:
    """Open the directory `path`, made where it is missing; no step of it may be a link."""
    here = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    for step in path.split("/"):
        if not step:
            continue
        try:
            os.mkdir(step, dir_fd=here)
        except FileExistsError:
            pass
        except OSError:
            if _lstat(step, here) is None:
                raise
        below = os.open(step, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
        os.close(here)
        here = below
    return here


# HTTP.

SUCCESSES = range(200, 300)
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 522, 524})
NO_PUT = frozenset({404, 405, 501})  # how servers say that they take this upload by POST only


class Body(NamedTuple):
    """What an upload carries: `head`, the whole of `file`, `tail`; it can be sent again."""

    file: int
    size: int
    head: bytes = b""
    tail: bytes = b""

    def length(self) -> int:
        """Return the number of bytes in all."""
        return len(self.head) + self.size + len(self.tail)

    def chunks(self) -> Iterator[bytes]:
        """Yield all of it, from the start."""
        yield self.head
        os.lseek(self.file, 0, os.SEEK_SET)
        while True:
            data = os.read(self.file, CHUNK)
            if not data:
                break
            yield data
        yield self.tail


def http(
    method: str, url: str, headers: Mapping[str, str], timeout_s: float, body: Body | None = None
) -> HTTPResponse:
    """Return the answer to a request, redirections followed.

    Headers go no further than the origin they were meant for. Raises Transient for an answer, or
    none, that may pass, and Refused for any other that is no success.
    """
    from http.client import HTTPException
    from urllib.parse import urljoin

    for _ in range(10):
        try:
            answer = _ask(method, url, headers, timeout_s, body)
        except (OSError, HTTPException) as error:
            raise _classified(error) from error
        target = answer.getheader("Location")
        if answer.status not in REDIRECTS or not target:
            return _judged(answer)
        answer.close()
        target = urljoin(url, target)
        if scheme(target) not in {"http", "https"}:
            raise Refused(answer.status, f"redirects to {scheme(target)}")
        headers = headers if origin(target) == origin(url) else {}
        url = target
    raise Refused(310, "too many redirections")


def _ask(
    method: str, url: str, headers: Mapping[str, str], timeout_s: float, body: Body | None
) -> HTTPResponse:
    from urllib.parse import quote, urlsplit

    parts = urlsplit(url)
    connection = _connection(url, timeout_s)
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]")
    fields = {"User-Agent": "tesp-runner", "Connection": "close", **_basic(url), **headers}
    if body is not None:
        fields["Content-Length"] = str(body.length())
    try:
        connection.request(method, target, body=body.chunks() if body else None, headers=fields)
    except (BrokenPipeError, ConnectionResetError):
        # A server that refuses an upload answers before it has read all of it; the answer says
        # more than the reset.
        if body is None:
            raise
    return connection.getresponse()


def _connection(url: str, timeout_s: float) -> HTTPConnection:
    from http.client import HTTPConnection, HTTPSConnection
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Refused(0, f"bad URL: {error}") from error
    if parts.scheme.lower() == "http":
        return HTTPConnection(host, port, timeout=timeout_s)
    import ssl

    return HTTPSConnection(host, port, timeout=timeout_s, context=ssl.create_default_context())


def _basic(url: str) -> dict[str, str]:
    from binascii import b2a_base64
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(url)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": "Basic " + b2a_base64(pair.encode(), newline=False).decode()}


def origin(url: str) -> tuple[str, str, int]:
    """Return what must stay the same for headers to be sent again."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(scheme, 0)


def _classified(error: Exception) -> Exception:
    """Return how a failed request counts: asking again betters no certificate and no URL."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and type(error).__name__ == "SSLCertVerificationError":
        return Refused(0, text)
    if type(error).__name__ == "InvalidURL":
        return Refused(0, text)
    return Transient(text)


def _judged(answer: HTTPResponse) -> HTTPResponse:
    if answer.status in SUCCESSES:
        return answer
    answer.close()
    if answer.status in PASSING:
        raise Transient(f"HTTP {answer.status} {answer.reason}".strip())
    raise Refused(answer.status, answer.reason)


def fetch_http(transfers: Transfers, one: Input, url: str) -> None:
    """Get a file by HTTP, from the start again at each attempt."""
    sink = transfers.tree.open(one.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755)

    def once() -> None:
        os.ftruncate(sink, 0)
        os.lseek(sink, 0, os.SEEK_SET)
        with http("GET", url, one.headers, transfers.order.timeout_s) as answer:
            for data in _received(answer):
                write_all(sink, data)

    try:
        transfers.patiently(f"input {public_url(url)}", once)
    finally:
        os.close(sink)


def _received(answer: HTTPResponse) -> Iterator[bytes]:
    """Yield the body of `answer`; raises Transient if it ends before its announced length."""
    from http.client import HTTPException

    announced, received = answer.getheader("Content-Length"), 0
    while True:
        try:
            data = answer.read(CHUNK)
        except (OSError, HTTPException) as error:
            raise Transient(str(error) or type(error).__name__) from error
        if not data:
            break
        received += len(data)
        yield data
    if announced and announced.isdigit() and received != int(announced):
        raise Transient(f"{received} of {announced} bytes received")


def send_http(transfers: Transfers, parcel: Parcel) -> None:
    """Send by PUT, or as the form field `file` by POST where the server takes no PUT."""
    body = Body(parcel.file, os.fstat(parcel.file).st_size)
    timeout_s = transfers.order.timeout_s

    def once() -> None:
        try:
            http("PUT", parcel.url, parcel.headers, timeout_s, body).close()
        except Refused as refusal:
            if refusal.status not in NO_PUT:
                raise
            _post(parcel, timeout_s, body, refusal)

    transfers.patiently(f"output {public_url(parcel.url)}", once)


def _post(parcel: Parcel, timeout_s: float, body: Body, refusal: Refused) -> None:
    boundary = os.urandom(16).hex()
    name = readable(parcel.name)
    for mark, code in (('"', "%22"), ("\r", "%0D"), ("\n", "%0A")):
        name = name.replace(mark, code)
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    form = body._replace(head=head.encode(), tail=f"\r\n--{boundary}--\r\n".encode())
    fields = {**parcel.headers, "Content-Type": f"multipart/form-data; boundary={boundary}"}
    try:
        http("POST", parcel.url, fields, timeout_s, form).close()
    except Refused as error:
        raise Refused(refusal.status, f"to PUT, {error} to POST") from error


# The seam where more ways come in: by the scheme of a URL.
FETCH: dict[str, Callable[[Transfers, Input, str], None]] = {
    "http": fetch_http,
    "https": fetch_http,
    "file": fetch_file,
}
SEND: dict[str, Callable[[Transfers, Parcel], None]] = {
    "http": send_http,
    "https": send_http,
    "file": send_file,
}


# ---- processes: children whose output is streamed ----


class Tail:
    """The last `limit` bytes of a stream."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._data = bytearray()
        self._cut = False

    def write(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        self._data += data
        if len(self._data) > 2 * self.limit + CHUNK:
            self._trim()

    def _trim(self) -> None:
        if len(self._data) > self.limit:
            del self._data[: len(self._data) - self.limit]
            self._cut = True

    def text(self) -> str:
        """Return the tail as text, with a mark for each byte that is none."""
        self._trim()
        data = bytes(self._data)
        if self._cut:
            # A character cut in two at the start is no character.
            data = re.sub(rb"\A[\x80-\xbf]{1,3}", b"", data)
        return data.decode("utf-8", "replace")


class Sink:
    """Where one stream of an executor goes: the file the task declared, if any, and a tail."""

    def __init__(self, tail: Tail, file: int | None = None) -> None:
        self.tail = tail
        self.file = file
        self.failure: OSError | None = None

    def write(self, data: bytes) -> None:
        """Take the next piece of the stream; a failure is kept for later."""
        self.tail.write(data)
        if self.file is not None and self.failure is None:
            try:
                write_all(self.file, data)
            except OSError as error:
                self.failure = error

    def restart(self) -> None:
        """Forget what was written: it was the engine's word, not the program's."""
        self.tail = Tail(self.tail.limit)
        if self.file is not None:
            os.ftruncate(self.file, 0)
            os.lseek(self.file, 0, os.SEEK_SET)


class Child(NamedTuple):
    """A started process and the ends of its pipes."""

    pid: int
    stdout: int
    stderr: int


class BadStart(Exception):
    """A child said why it could not become what it should."""


def launch(body: Callable[[int], None], stdin: int | None = None) -> Child:
    """Fork a child that runs `body`, which ends in exec, with pipes for its output.

    `body` gets a descriptor that closes by exec; what is written into it, or raised, is raised
    here as BadStart.
    """
    out, err, word = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _take_streams(stdin, out[1], err[1])
            body(word[1])
        except BaseException as error:  # noqa: BLE001 - in a forked child nothing may run on
            os.write(word[1], readable(str(error)).encode()[:4000])
        os._exit(127)
    for descriptor in (out[1], err[1], word[1]):
        os.close(descriptor)
    child = Child(pid, out[0], err[0])
    said = b"".join(iter(lambda: os.read(word[0], 4096), b""))
    os.close(word[0])
    if said:
        finish(child)
        raise BadStart(said.decode("utf-8", "replace"))
    return child


def _take_streams(stdin: int | None, out: int, err: int) -> None:
    source = os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin
    for number, descriptor in enumerate((source, out, err)):
        os.dup2(descriptor, number)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)  # Python ignores them; exec would hand that on


def program(
    argv: Sequence[str], env: Mapping[str, str], directory: str = "."
) -> Callable[[int], None]:
    """Return a body for `launch` that becomes the program `argv`."""

    def body(_word: int) -> None:
        try:
            os.chdir(directory)
            os.execvpe(argv[0], list(argv), dict(env))
        except OSError as error:
            raise BadStart(f"{argv[0]}: {error.strerror}") from error

    return body


def pump(child: Child, out: Sink, err: Sink, deadline: float | None = None) -> bool:
    """Move what `child` writes into the sinks; False if `deadline` (monotonic) passed first.

    Also stops when a sink fails: then nothing that the child still writes is wanted.
    """
    sinks = {child.stdout: out, child.stderr: err}
    poll = select.poll()
    for descriptor in sinks:
        poll.register(descriptor, select.POLLIN)
    while sinks:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = poll.poll(left)
        if not ready:
            return False
        for descriptor, _ in ready:
            data = os.read(descriptor, CHUNK)
            if data:
                sinks[descriptor].write(data)
            else:
                poll.unregister(descriptor)
                del sinks[descriptor]
        if out.failure or err.failure:
            return False
    return True


def finish(child: Child, *, kill: bool = False) -> int:
    """Wait for the end of `child` and return its exit code, 128 + n after signal n."""
    if kill:
        os.kill(child.pid, signal.SIGKILL)
    os.close(child.stdout)
    os.close(child.stderr)
    return exit_code(os.waitpid(child.pid, 0)[1])


def exit_code(status: int) -> int:
    """Return the exit code in a wait status as a shell would, 128 + n after signal n."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


class Done(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


class Command:
    """A short engine command, started at once; `done` waits for it."""

    LIMIT = 1 << 20

    def __init__(self, argv: Sequence[str], timeout_s: float | None) -> None:
        self.argv = argv
        self.deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.child = launch(program(argv, client_env()))

    def done(self) -> Done:
        """Wait for the end, and kill what takes too long."""
        out, err = Sink(Tail(self.LIMIT)), Sink(Tail(self.LIMIT))
        in_time = pump(self.child, out, err, self.deadline)
        code = finish(self.child, kill=not in_time)
        if not in_time:
            return Done(124, "", f"{self.argv[0]} did not answer in time")
        return Done(code, out.tail.text(), err.tail.text().strip())


CLIENT_ENV = re.compile(
    r"PATH|LANG|LC_ALL|TMPDIR|XDG_(RUNTIME_DIR|CONFIG_HOME|DATA_HOME)|DBUS_SESSION_BUS_ADDRESS"
    r"|DOCKER_\w+|CONTAINERS?_\w+|REGISTRY_AUTH_FILE"
    r"|(APPTAINER|SINGULARITY)_(CACHEDIR|TMPDIR|CONFIGDIR|DOCKER_USERNAME|DOCKER_PASSWORD)"
    r"|(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy|SSL_CERT_(FILE|DIR)"
)


def client_env() -> dict[str, str]:
    """Return the environment of an engine's client: the Pulsar user's, nothing of the task's."""
    env = {name: value for name, value in os.environ.items() if CLIENT_ENV.fullmatch(name)}
    env.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return {**env, "HOME": _home()}


def _home() -> str:
    # Pulsar gives each job a HOME of its own, where the user's registry log-ins are not.
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return os.environ.get("HOME", "/")


# ---- engines: what runs one executor ----

_HOST = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
REFERENCE = re.compile(
    rf"(?:(?:{_HOST}(?:\.{_HOST})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)

REFERENCE_LENGTH = 512


def is_reference(image: str) -> bool:
    """Tell whether `image` is a name by the registries' grammar, so no option and no path."""
    return len(image) <= REFERENCE_LENGTH and bool(REFERENCE.fullmatch(image))


class Image(NamedTuple):
    """An image as the engine knows it."""

    name: str
    digest: str | None = None
    user: str = ""
    workdir: str = ""


class Call(NamedTuple):
    """One executor as an engine gets it."""

    number: int
    executor: Executor
    image: Image
    mounts: list[Mount]
    stdin: int | None
    out: Sink
    err: Sink


class Engine:
    """What runs the executors of one task; the part that all engines share."""

    REMOVE: tuple[str, ...] = ()

    def __init__(
        self, order: Order, tree: Tree, log: list[str], tell: Callable[[str], None]
    ) -> None:
        self.order = order
        self.tree = tree
        self.log = log
        self.tell = tell  # tells the watchdog
        self.settings = order.engine
        # Where the client starts: podman's conmon writes a file `oom` there when memory ran out.
        self.home = os.path.dirname(tree.top)

    def prepare(self) -> None:
        """Begin to look for the images; what is slow goes on beside the inputs."""

    def image(self, name: str) -> Image:
        """Return the image, fetched if need be; raises Trouble if it cannot be used."""
        raise NotImplementedError

    def run(self, call: Call) -> int:
        """Return the exit code of the executor's program; raises Trouble if there is none."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave nothing of the containers."""

    def reclaim(self, *, deadline: float | None = None) -> None:
        """Make all files of the task the runner's own."""

    def hand_over(self, before: Image, after: Image) -> None:
        """Let the next executor use what the one before it made."""

    def argv(self, *args: str) -> list[str]:
        """Return the command line of the engine with `args`."""
        return [self.settings.program, *self.settings.global_args, *args]

    def command(self, *args: str, timeout_s: float | None = ENGINE_TIMEOUT_S) -> Command:
        """Start a command of the engine; raises Trouble if there is no engine."""
        try:
            return Command(self.argv(*args), timeout_s)
        except BadStart as error:
            raise Trouble(f"the engine cannot be started on this node: {error}") from error

    def attached(self, args: Sequence[str], stdin: int | None) -> Child:
        """Start the engine's client so that its streams are the program's."""
        try:
            return launch(program(self.argv(*args), client_env(), self.home), stdin)
        except BadStart as error:
            raise Trouble(f"the engine cannot be started on this node: {error}") from error

    def cpus(self) -> float | None:
        """Return the number of CPUs to give: what was asked for, at most what is there."""
        asked, there = self.order.cpu_cores, os.cpu_count() or 1
        if asked and asked > there:
            line = f"{asked} CPUs were asked for, this node has {there}"
            if line not in self.log:
                self.log.append(line)
        return min(asked, there) if asked else None

    def memory_bytes(self) -> int | None:
        """Return the limit in bytes: a GB is taken as 2**30, never less than was meant."""
        gb = self.order.ram_gb
        return max(8 << 20, int(gb * (1 << 30))) if gb else None

    def stream(self, child: Child, call: Call) -> int:
        """Stream the program's output to its end; raises OSError if a file could not take it."""
        in_full = pump(child, call.out, call.err)
        code = finish(child, kill=not in_full)
        failure = call.out.failure or call.err.failure
        if failure:
            raise failure
        return code

    def note_memory_kill(self, index: int, code: int, *, sure: bool = False) -> None:
        """Say in the log what killed an executor, if it was its hunger."""
        if sure or (code == KILLED and self.order.ram_gb):
            how = "" if sure else "probably "
            limit = f"{self.order.ram_gb} GB" if self.order.ram_gb else "the node"
            self.log.append(
                f"executor {index} was {how}killed because it needed more memory than {limit}"
            )


class Docker(Engine):
    """Docker, by its command line; also podman, which understands the same words.

    A container is made, then started: so a container that exists is known to exist, what the
    engine says is never mixed with what the program says, and an exit code is the program's own.
    """

    KNOWS_MEMORY_KILLS = True
    REMOVE: tuple[str, ...] = ("rm", "--force")

    def __init__(
        self, order: Order, tree: Tree, log: list[str], tell: Callable[[str], None]
    ) -> None:
        super().__init__(order, tree, log, tell)
        self.looks: dict[str, Command] = {}
        self.images: dict[str, Image] = {}
        self.removals: list[tuple[str, Command]] = []
        self.asked: set[str] = set()
        self.helper = f"tesp-{order.instance}-{order.job}-chown"

    def prepare(self) -> None:
        """Begin to look for all images; raises Trouble for a name that is none."""
        for name in {one.image for one in self.order.executors}:
            if not is_reference(name):
                raise Trouble(f"{name!r} is not the name of an image")
            self.looks[name] = self._look(name)

    def _look(self, name: str) -> Command:
        return self.command("image", "inspect", "--", name)

    def image(self, name: str) -> Image:
        """Return the image, pulled if it is not here; raises Trouble if it cannot be."""
        if name not in self.images:
            looked = self.looks.pop(name).done()
            if looked.code:
                self._pull(name)
                looked = self._look(name).done()
            if looked.code:
                raise Trouble(f"the image {name} cannot be used: {last_line(looked.err)}")
            found = json.loads(looked.out)[0]
            names, config = found.get("RepoDigests"), found.get("Config") or {}
            digest = names[0].rpartition("@")[2] if names else found["Id"]
            self.images[name] = Image(
                name, digest, config.get("User") or "", config.get("WorkingDir") or ""
            )
        return self.images[name]

    def _pull(self, name: str) -> None:
        pulled = self.command(
            "pull", "-q", "--", name, timeout_s=self.settings.pull_timeout_s
        ).done()
        if pulled.code:
            raise Trouble(f"the image {name} cannot be pulled: {last_line(pulled.err)}")

    def run(self, call: Call) -> int:
        """Make a container, start it, stream it, and begin to remove it."""
        name = self.order.container(call.number)
        self.tell(f"+{name}")
        self.asked.add(name)
        try:
            self._create(name, call)
            code = self._start(name, call)
            return code if code == 0 else self._verdict(name, call, code)
        finally:
            self.removals.append((name, self.command(*self.REMOVE, name)))

    def _create(self, name: str, call: Call) -> None:
        made = self.command(
            "create", *self.options(name, call), call.image.name, *call.executor.command
        ).done()
        if made.code:
            raise Trouble(f"{self.settings.kind} refused the container: {last_line(made.err)}")
        self.log.extend(f"{self.settings.kind}: {line}" for line in made.err.splitlines() if line)

    def options(self, name: str, call: Call) -> list[str]:
        """Return the options before the image; no value of them can be taken for an option."""
        options = ["--name", name, "--pull", "never", "--log-driver", "none", "--entrypoint", ""]
        for label in ("instance", "task", "job"):
            options += ["--label", f"tesp.{label}={getattr(self.order, label)}"]
        for mount in self.all_mounts(call):
            options += ["--mount", mount_option(mount)]
        options += [f"--env={name}={value}" for name, value in call.executor.env.items()]
        if call.executor.workdir:
            options.append(f"--workdir={call.executor.workdir}")
        if call.stdin is not None:
            options.append("--interactive")
        return [*options, *self._limits(), *self.settings.run_args]

    def _limits(self) -> list[str]:
        cpus, memory = self.cpus(), self.memory_bytes()
        options = [f"--cpus={cpus}"] if cpus else []
        return options + ([f"--memory={memory}", f"--memory-swap={memory}"] if memory else [])

    def all_mounts(self, call: Call) -> list[Mount]:
        """Return the task's mounts, and one for a workdir that is not the image user's."""
        workdir, user = call.executor.workdir, call.image.user.partition(":")[0]
        if not workdir or user in {"", "0", "root"} or workdir in {"/", call.image.workdir}:
            return call.mounts
        return with_directory(call.mounts, self.tree, workdir)

    def _start(self, name: str, call: Call) -> int:
        interactive = [] if call.stdin is None else ["--interactive"]
        child = self.attached(["start", "--attach", *interactive, name], call.stdin)
        return self.stream(child, call)

    def _verdict(self, name: str, call: Call, code: int) -> int:
        """Return the program's own exit code, the client's being `code`; or raise Trouble."""
        state = self._state(name)
        if state.get("Running"):  # the client was lost, not the program
            self.log.append(f"executor {call.number}: its output was lost before its end")
            self.command("wait", name, timeout_s=None).done()
            state = self._state(name)
        code = int(state.get("ExitCode", code))
        error = str(state.get("Error") or "")
        if str(state.get("StartedAt", "0001")).startswith("0001"):
            error = error or last_line(call.err.tail.text())
            code = self._start_failure(code, error)
            self.log.append(f"executor {call.number}: the program could not be started: {error}")
        if state.get("OOMKilled") or not self.KNOWS_MEMORY_KILLS:
            self.note_memory_kill(call.number, code, sure=bool(state.get("OOMKilled")))
        return code

    def _start_failure(self, code: int, error: str) -> int:
        """Return the code for a program that is missing or none; raises Trouble for the rest."""
        if code not in {NOT_EXECUTABLE, MISSING}:
            raise Trouble(f"{self.settings.kind} could not start the container: {error}")
        return code

    def _state(self, name: str) -> dict[str, Any]:
        looked = self.command("inspect", "--format", "{{json .State}}", name).done()
        if looked.code:
            raise Trouble(f"the container was removed while it ran: {last_line(looked.err)}")
        state: dict[str, Any] = json.loads(looked.out)
        return state

    def close(self) -> None:
        """Wait until all containers are gone."""
        for name, removal in self.removals:
            if not removal.done().code:
                self.asked.discard(name)
                self.tell(f"-{name}")
        self.removals.clear()
        for name in self.asked:
            self.command(*self.REMOVE, name).done()
        for look in self.looks.values():
            finish(look.child, kill=True)
        self.looks.clear()

    def reclaim(self, *, deadline: float | None = None) -> None:
        """Give the files that root or another user made in a container to the runner.

        Only the engine's root can do that. The helper container runs the node's own `chown`,
        since the task's image may have none, in an image that is surely here.
        """
        if os.geteuid() == 0 or not foreign(self.tree.top):
            return
        image = self._any_image()
        if image is None:
            return
        self.tell(f"+{self.helper}")
        timeout_s = ENGINE_TIMEOUT_S if deadline is None else max(1.0, deadline - time.monotonic())
        done = self.command(
            "run", *self._helper_options(), image, *self._chown(), timeout_s=timeout_s
        ).done()
        if done.code:
            self.log.append(
                f"files of the containers could not be made the runner's own: {last_line(done.err)}"
            )

    def hand_over(self, before: Image, after: Image) -> None:
        """Open all files when the next image has another user."""
        if before.user != after.user:
            self.reclaim()
            open_to_all(self.tree.top)

    def _any_image(self) -> str | None:
        """Return the name of an image that is surely here; which one does not matter."""
        if self.images:
            return next(iter(self.images))
        listed = (
            self.command("image", "ls", "--quiet", "--no-trunc", timeout_s=5).done().out.split()
        )
        return listed[0] if listed else None

    def _chown(self) -> list[str]:
        return ["-hR", f"{os.geteuid()}:{os.getegid()}", "/tesp-tree"]

    def _helper_options(self) -> list[str]:
        options = [
            "--rm",
            "--name",
            self.helper,
            "--label",
            f"tesp.instance={self.order.instance}",
            "--pull",
            "never",
        ]
        options += ["--network", "none", "--log-driver", "none", "--user", "0:0", "--workdir", "/"]
        options += [
            "--entrypoint",
            "/usr/bin/chown",
            "--mount",
            mount_option(Mount(self.tree.top, "/tesp-tree", "")),
        ]
        for path in ("/usr", "/bin", "/lib", "/lib64"):
            if os.path.isdir(path):
                options += ["--mount", f"type=bind,source={path},target={path},readonly"]
        return [*options, *self.settings.run_args]


class NoWorkdir(Trouble):
    """The image has no directory where the program shall start."""


class Podman(Docker):
    """Podman: Docker's words, but other answers, and no directory made for a program's start."""

    KNOWS_MEMORY_KILLS = False
    REMOVE = ("rm", "--force", "--time", "0")

    def run(self, call: Call) -> int:
        """Do as Docker does; once more if the image lacks the directory to start in."""
        try:
            return super().run(call)
        except NoWorkdir:
            self.close()
            for sink in (call.out, call.err):
                sink.restart()
            plan = with_directory(call.mounts, self.tree, call.executor.workdir or "/tmp")
            return super().run(call._replace(mounts=plan))

    def _start_failure(self, code: int, error: str) -> int:
        if "workdir" in error and "does not exist on container" in error:
            raise NoWorkdir(error)
        if "executable file not found" in error or "command that was not found" in error:
            return MISSING
        return super()._start_failure(NOT_EXECUTABLE if "permission denied" in error else 0, error)

    def _chown(self) -> list[str]:
        # The runner is not root, so podman is rootless, and root inside is the runner outside.
        return ["-hR", "0:0", "/tesp-tree"]


class Apptainer(Engine):
    """Apptainer and Singularity: no daemon, the container is a child.

    The task's environment goes in by a script that the container reads at its start. --env splits
    at commas and cannot set HOME; APPTAINERENV_ variables would stand in the client's
    environment. The script also leaves a mark: without it the program has not run, so whatever
    went wrong was not the program's doing.
    """

    MARK = "/.singularity.d/tesp-started"
    SCRIPT = "/.singularity.d/env/99-tesp.sh"
    FATAL = 255  # the client's exit code for its own trouble

    def __init__(
        self, order: Order, tree: Tree, log: list[str], tell: Callable[[str], None]
    ) -> None:
        super().__init__(order, tree, log, tell)
        self.images: dict[str, Image] = {}

    def prepare(self) -> None:
        """Check all that can be refused before anything runs."""
        for one in self.order.executors:
            self._locate(one.image)
            for name in one.env:
                if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                    raise Trouble(f"{self.settings.kind} cannot set a variable named {name!r}")

    def image(self, name: str) -> Image:
        """Return the image, pulled into the job if it is remote."""
        if name not in self.images:
            place = self._locate(name)
            path = self._pulled(place) if "://" in place else place
            self.images[name] = Image(path)
        return self.images[name]

    def _locate(self, name: str) -> str:
        """Return the path of a local image or the URL of a remote one; or raise Trouble."""
        if name.startswith("/"):
            real = os.path.realpath(name)
            if any(is_below(real, root) for root in self.settings.image_roots) and os.path.exists(
                real
            ):
                return real
            raise Trouble(f"no image {name} below the node's directories of images")
        kind, mark, reference = name.partition("://")
        if not mark:
            kind, reference = "docker", name
        if not is_reference(reference):
            raise Trouble(f"{name!r} is not the name of an image")
        local = None if mark else self._local(reference)
        if local is None and kind not in self.settings.image_schemes:
            raise Trouble(f"images are not taken from {kind}:// here: {name}")
        return local or f"{kind}://{reference}"

    def _local(self, reference: str) -> str | None:
        """Return the local image for a reference, such as ubuntu-20.04.sif for ubuntu:20.04."""
        tagged = reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"
        stem, _, tag = tagged.rpartition(":")
        stems = dict.fromkeys((stem, stem.replace("/", "_"), stem.replace("/", "-")))
        names = [f"{one}{mark}{tag}" for one in stems for mark in "-_:"]
        for root in self.settings.image_roots:
            for name in (f"{name}{suffix}" for name in names for suffix in (".sif", "")):
                real = os.path.realpath(f"{root}/{name}")
                if is_below(real, root) and os.path.exists(real):
                    return real
        return None

    def _pulled(self, url: str) -> str:
        path = f"{self.home}/image-{len(self.images)}.sif"
        pulled = self.command("pull", path, url, timeout_s=self.settings.pull_timeout_s).done()
        if pulled.code:
            raise Trouble(f"the image {url} cannot be pulled: {last_line(pulled.err)}")
        return path

    def run(self, call: Call) -> int:
        """Run the container; once more if the image lacks the directory to start in."""
        code, entered = self._attempt(call)
        if (
            not entered
            and call.executor.workdir
            and "failed to set working directory" in call.err.tail.text()
        ):
            for sink in (call.out, call.err):
                sink.restart()
            call = call._replace(
                mounts=with_directory(call.mounts, self.tree, call.executor.workdir)
            )
            code, entered = self._attempt(call)
        said = last_line(call.err.tail.text())
        if not entered:
            raise Trouble(f"{self.settings.kind} could not start the container: {said}")
        if code == self.FATAL and said.startswith("FATAL:"):
            code = NOT_EXECUTABLE if "permission denied" in said else MISSING
            self.log.append(
                f"executor {call.number}: the program could not be started: {said[6:].strip()}"
            )
        self.note_memory_kill(call.number, code)
        return code

    def _attempt(self, call: Call) -> tuple[int, bool]:
        mark, script = f"{self.home}/started-{call.number}", f"{self.home}/env-{call.number}.sh"
        lines = [f"echo > {self.MARK}"]
        lines += [
            f"export {name}={shell_quoted(value)}" for name, value in call.executor.env.items()
        ]
        for path, text in ((mark, ""), (script, "\n".join(lines) + "\n")):
            with open(path, "w", encoding="utf-8", errors="surrogateescape") as handle:
                handle.write(text)
        own = [Mount(script, self.SCRIPT, "file"), Mount(mark, self.MARK, "file")]
        options = [*self._options(call, own), call.image.name]
        child = self.attached(["--silent", "exec", *options, *call.executor.command], call.stdin)
        return self.stream(child, call), os.path.getsize(mark) > 0

    def _options(self, call: Call, own: list[Mount]) -> list[str]:
        options = ["--containall", "--no-home", "--no-eval", "--writable-tmpfs"]
        options.append(f"--pwd={call.executor.workdir or '/'}")
        for mount in (*call.mounts, *own):
            options += ["--mount", mount_option(mount)]
        return [*options, *self._limits(), *self.settings.run_args]

    def _limits(self) -> list[str]:
        cpus, memory = self.cpus(), self.memory_bytes()
        if (
            (cpus or memory)
            and os.geteuid() != 0
            and not os.path.exists(f"{CGROUPS}/cgroup.controllers")
        ):
            kind = self.settings.kind
            self.log.append(f"{kind} cannot limit CPUs and memory for an ordinary user here")
            return []
        return ([f"--cpus={cpus}"] if cpus else []) + ([f"--memory={memory}"] if memory else [])


def shell_quoted(text: str) -> str:
    """Return `text` quoted for the shell within Apptainer, which reads no other form aright."""
    return "'" + text.replace("'", "'\"'\"'") + "'"


def last_line(text: str) -> str:
    """Return the last line that says something: where programs put the reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def with_directory(plan: Sequence[Mount], tree: Tree, path: str) -> list[Mount]:
    """Return `plan` with `path` bound as the task's own directory, unless it is already."""
    if any(mount.kind == "directory" and is_below(path, mount.container) for mount in plan):
        tree.make_directory(path)
        return list(plan)
    tree.make_directory(path)
    kept = [mount for mount in plan if not is_below(mount.container, path)]
    return sorted(
        [*kept, Mount(tree.top + path, path, "directory")], key=lambda mount: mount.container
    )


def open_to_all(top: str) -> None:
    """Let every user write all below `top`, into which no other user of the node can look."""
    for entry in walk(top):
        if not entry.is_symlink():
            mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
            os.chmod(entry.path, mode | (0o777 if entry.is_dir() else 0o666))


def foreign(top: str) -> bool:
    """Tell whether anything below `top` belongs to another user."""
    me = os.geteuid()
    try:
        return any(entry.stat(follow_symlinks=False).st_uid != me for entry in walk(top))
    except FileNotFoundError:
        return False
    except PermissionError:  # a directory that its owner closed
        return True


# The host engine: no image, but a sandbox of namespaces around the node's own programs.

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = (
    0x20000,
    0x4000000,
    0x8000000,
    1 << 28,
    1 << 29,
)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
MOUNT_OPTIONS = {
    b"ro": MS_RDONLY, b"nosuid": MS_NOSUID, b"nodev": MS_NODEV, b"noexec": MS_NOEXEC,
    b"noatime": 1 << 10, b"nodiratime": 1 << 11, b"relatime": 1 << 21,
}  # fmt: skip
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 1, 4, 24, 28
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
# NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE and the locks of all: root is nobody special, for
# good.
SECUREBITS_LOCKED = 0xEF
CAPABILITY_VERSION_3 = 0x20080522

INNER_ID = 1000
SYSTEM_DIRECTORIES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt")
EMPTY_DIRECTORIES = (
    "/etc",
    "/home",
    "/root",
    "/var",
    "/var/tmp",
    "/run",
    "/mnt",
    "/media",
    "/srv",
    "/proc",
    "/dev",
)
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
                "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"}  # fmt: skip
ETC = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "resolv.conf", "hosts"),
    *("host.conf", "gai.conf", "localtime", "timezone", "protocols", "services", "mime.types"),
    *("alternatives", "ssl/certs", "ssl/openssl.cnf", "pki/tls/certs", "pki/tls/cert.pem"),
    *("pki/ca-trust", "ca-certificates.conf", "crypto-policies", "fonts", "magic", "locale.conf"),
    *("default/locale", "inputrc", "perl", "R", "java-*-openjdk", "python3", "python3.*"),
)
ACCOUNTS = """root:x:0:0:root:/root:/bin/sh
task:x:1000:1000:task:/tmp:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
GROUP = "root:x:0:\ntask:x:1000:\nnogroup:x:65534:\n"
HOST_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
}


class Kernel:
    """The system calls that Python does not offer (in 3.8); each raises OSError."""

    def __init__(self) -> None:
        import ctypes

        self._ctypes = ctypes
        self._libc = ctypes.CDLL(None, use_errno=True)

    def _call(self, name: str, *args: object) -> None:
        if getattr(self._libc, name)(*args) < 0:
            number = self._ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    def unshare(self, flags: int) -> None:
        """Leave the namespaces in `flags` for new ones."""
        self._call("unshare", self._ctypes.c_int(flags))

    def mount(
        self, source: str, target: str, kind: str | None, flags: int, data: str | None = None
    ) -> None:
        """Mount, bind or remount."""
        fields = (os.fsencode(source), os.fsencode(target), kind and kind.encode())
        self._call("mount", *fields, self._ctypes.c_ulong(flags), data and data.encode())

    def pivot_root_here(self) -> None:
        """Make the current directory the root, and let go of the old one with all its mounts."""
        self._call("pivot_root", b".", b".")
        self._call("umount2", b".", self._ctypes.c_int(MNT_DETACH))
        os.chdir("/")

    def prctl(self, option: int, *args: int) -> None:
        """Set an attribute of this process."""
        values = [self._ctypes.c_ulong(value) for value in (*args, 0, 0, 0, 0)[:4]]
        self._call("prctl", self._ctypes.c_int(option), *values)

    def drop_capabilities(self) -> None:
        """Give up all capabilities, and every way to come to one again."""
        self.prctl(PR_SET_NO_NEW_PRIVS, 1)
        self.prctl(PR_SET_SECUREBITS, SECUREBITS_LOCKED)
        self.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
        for capability in range(64):
            try:
                self.prctl(PR_CAPBSET_DROP, capability)
            except OSError:
                break
        header = CAPABILITY_VERSION_3.to_bytes(4, sys.byteorder) + bytes(4)
        self._call("capset", header, bytes(24))


class Cage(NamedTuple):
    """What the sandboxed process needs to know; made before the fork."""

    kernel: Kernel
    top: str
    mounts: list[Mount]
    shown: list[str]
    workdir: str
    argv: list[str]
    env: dict[str, str]
    stranger: int | None  # the user id to become, when the runner is root
    groups: list[str]  # directories of control groups to join
    data_bytes: int | None


class Host(Engine):
    """No container engine: the node's own programs, in namespaces, with the task's files.

    A runner that is root first becomes a user id that nobody has: root without capabilities could
    still write what belongs to root, such as /proc/sys/kernel/core_pattern.
    """

    def __init__(
        self, order: Order, tree: Tree, log: list[str], tell: Callable[[str], None]
    ) -> None:
        super().__init__(order, tree, log, tell)
        self.groups: list[str] = []

    def prepare(self) -> None:
        """Say what this engine is."""
        self.log.append("engine 'host': the image is ignored, the programs are those of this node")
        self.kernel = Kernel()

    def image(self, name: str) -> Image:
        """Return the image, which is only a name."""
        return Image(name)

    def run(self, call: Call) -> int:
        """Run the program in a sandbox."""
        try:
            cage = self._cage(call)
            if cage.stranger is not None:
                give(self.tree.top, cage.stranger)
            child = launch(lambda word: enter(cage, word), call.stdin)
        except BadStart as error:
            kind, _, text = str(error).partition(" ")
            if kind not in {str(NOT_EXECUTABLE), str(MISSING)}:
                raise Trouble(
                    f"the sandbox of engine 'host' cannot be made on this node: {error}"
                ) from error
            self.log.append(f"executor {call.number}: the program could not be started: {text}")
            return int(kind)
        code = self.stream(child, call)
        self.note_memory_kill(call.number, code)
        return code

    def _cage(self, call: Call) -> Cage:
        from zlib import crc32

        workdir = call.executor.workdir or "/tmp"
        system = any(is_below(workdir, one) for one in SYSTEM_DIRECTORIES)
        kept = workdir == "/" or (system and os.path.isdir(workdir))
        plan = list(call.mounts) if kept else with_directory(call.mounts, self.tree, workdir)
        top = os.path.dirname(self.tree.top) + "/cage"
        os.makedirs(top, exist_ok=True)
        return Cage(
            kernel=self.kernel,
            top=top,
            mounts=plan,
            shown=[*SYSTEM_DIRECTORIES, *self._shown_too(plan)],
            workdir=workdir,
            argv=call.executor.command,
            env={**HOST_ENV, **call.executor.env},
            stranger=0x60000000 + crc32(self.order.job.encode()) % 0x10000000
            if os.geteuid() == 0
            else None,
            groups=self._limit(call.number),
            data_bytes=self.memory_bytes(),
        )

    def _shown_too(self, plan: Iterable[Mount]) -> list[str]:
        """Return the directories that the operator shows too, save what the task's own hide."""
        own = [mount.container for mount in plan]
        return [path for path in self.settings.run_args if not _covered(path, own)]

    def _limit(self, index: int) -> list[str]:
        """Make control groups with the task's limits; says in the log what cannot be limited."""
        wanted: dict[str, float | None] = {"memory": self.memory_bytes(), "cpu": self.cpus()}
        groups = []
        for controller, value in wanted.items():
            if not value:
                continue
            try:
                groups.append(control_group(controller, value, self.order.container(index)))
            except OSError as error:
                how = (
                    "is limited for each process alone"
                    if controller == "memory"
                    else "is not limited"
                )
                self.log.append(f"engine 'host': {controller} {how}: {error}")
        self.groups += groups
        return groups

    def close(self) -> None:
        """Remove the control groups."""
        for group in self.groups:
            remove_group(group)
        self.groups.clear()


def give(top: str, owner: int) -> None:
    """Give all below `top` to `owner`: a program may set times and modes only of its own."""
    for entry in walk(top):
        if entry.stat(follow_symlinks=False).st_uid != owner:
            os.chown(entry.path, owner, owner, follow_symlinks=False)


CGROUPS = "/sys/fs/cgroup"


def control_group(controller: str, value: float, name: str) -> str:
    """Make a control group that limits one thing, and return its directory; raises OSError."""
    unified = os.path.exists(f"{CGROUPS}/cgroup.controllers")
    parent = CGROUPS + own_group() if unified else f"{CGROUPS}/{controller}"
    group = f"{parent}/{name}" + (f"-{controller}" if unified else "")
    os.makedirs(group, exist_ok=True)
    period = 100_000
    settings = {
        (True, "memory"): {"memory.max": f"{value:.0f}"},
        (True, "cpu"): {"cpu.max": f"{value * period:.0f} {period}"},
        (False, "memory"): {"memory.limit_in_bytes": f"{value:.0f}"},
        (False, "cpu"): {
            "cpu.cfs_period_us": f"{period}",
            "cpu.cfs_quota_us": f"{value * period:.0f}",
        },
    }[unified, controller]
    try:
        for file, text in settings.items():
            with open(f"{group}/{file}", "w") as handle:
                handle.write(text)
    except OSError:
        os.rmdir(group)
        raise
    return group


def own_group() -> str:
    """Return the path of this process's control group in the unified tree."""
    with open("/proc/self/cgroup") as handle:
        return next((line[3:].rstrip() for line in handle if line.startswith("0::")), "")


def remove_group(group: str) -> None:
    """Remove a control group; the kernel needs a moment after its last process."""
    for _ in range(50):
        try:
            os.rmdir(group)
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.02)


def enter(cage: Cage, word: int) -> None:
    """Become the sandbox of `cage` and run its program; in a forked child, which this never leaves.

    Three processes: this one waits outside, for only children enter a new pid namespace; its
    child is the init of the namespace, whose end kills all in it; that one's child is the
    program.
    """
    close_all_but(0, 1, 2, word)
    submit(cage)
    user, group = os.geteuid(), os.getegid()
    spaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS
    if cage.stranger is None:
        cage.kernel.unshare(spaces | CLONE_NEWUSER)
        map_ids(user, group)
    else:
        for stream in (1, 2):  # so that the program can open /dev/stderr
            os.fchown(stream, cage.stranger, cage.stranger)
        cage.kernel.unshare(spaces)
    cage.kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    pid = os.fork()
    if pid == 0:
        be_init(cage, word)
    os.close(word)
    os._exit(exit_code(os.waitpid(pid, 0)[1]))


def submit(cage: Cage) -> None:
    """Come under the task's limits."""
    for group in cage.groups:
        with open(f"{group}/cgroup.procs", "w") as handle:
            handle.write("0")
    if cage.data_bytes and not any("memory" in group for group in cage.groups):
        limit_data(cage.data_bytes)


def limit_data(limit: int) -> None:
    """Limit the memory of each process alone, where no control group can limit all."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def map_ids(user: int, group: int) -> None:
    """Make `user` and `group` the only ones that exist in the new user namespace."""
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INNER_ID} {user} 1"),
        ("gid_map", f"{INNER_ID} {group} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as handle:
            handle.write(text)


def close_all_but(*kept: int) -> None:
    """Close every descriptor but those in `kept`."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue  # the one by which the directory was read


def be_init(cage: Cage, word: int) -> NoReturn:
    """Build the root, give up all power, start the program, and end with its exit code."""
    try:
        furnish(cage)
        if cage.stranger is not None:
            become(cage.kernel, cage.stranger)
        forbid_user_namespaces()
        cage.kernel.drop_capabilities()
        cage.kernel.prctl(
            PR_SET_DUMPABLE, 0
        )  # the order in this process's memory is none of the program's business
        cage.kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        pid = os.fork()
        if pid == 0:
            run_program(cage)
        close_all_but()
        code = None
        while code is None:
            ended, status = os.wait()
            code = exit_code(status) if ended == pid else None
    except BaseException as error:  # noqa: BLE001 - in a forked child nothing may run on
        os.write(word, readable(str(error)).encode()[:4000])
        os._exit(127)
    os._exit(code)


def become(kernel: Kernel, stranger: int) -> None:
    """Become the user `stranger`, in a user namespace where nobody else exists."""
    os.setgroups([])
    os.setresgid(stranger, stranger, stranger)
    os.setresuid(stranger, stranger, stranger)
    kernel.prctl(
        PR_SET_DUMPABLE, 1
    )  # else /proc/self belongs to root, and the ids cannot be mapped
    kernel.unshare(CLONE_NEWUSER)
    map_ids(stranger, stranger)


def forbid_user_namespaces() -> None:
    """Let the task make no user namespace: it would have capabilities there."""
    # In a user namespace of its own a task would have capabilities again, to try the kernel with.
    try:
        with open("/proc/sys/user/max_user_namespaces", "w") as handle:
            handle.write("0")
    except OSError:
        return


def run_program(cage: Cage) -> NoReturn:
    """Become the program; raises BadStart with an exit code and the reason."""
    try:
        os.setsid()
        os.chdir(cage.workdir)
        if not cage.argv[0]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        os.execvpe(cage.argv[0], cage.argv, cage.env)
    except OSError as error:
        refused = error.errno in {errno.EACCES, errno.ENOEXEC, errno.EISDIR}
        code = NOT_EXECUTABLE if refused else MISSING
        raise BadStart(f"{code} {cage.argv[0]!r}: {error.strerror}") from error


def furnish(cage: Cage) -> None:
    """Make the root that the program sees, and enter it."""
    os.umask(0)
    kernel, top = cage.kernel, cage.top
    kernel.mount("none", "/", None, MS_REC | MS_PRIVATE)
    kernel.mount("tmpfs", top, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64m")
    places = [(point(mount.container), mount) for mount in cage.mounts]
    opened = {parent for path, _ in places for parent in parents(path)}
    for path in EMPTY_DIRECTORIES:
        os.mkdir(top + path, 0o755)
    for path in cage.shown:
        show(kernel, top, path, opened)
    furnish_etc(kernel, top, opened)
    furnish_dev(kernel, f"{top}/dev")
    kernel.mount("proc", f"{top}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for path, mount in places:
        make_point(top + path, directory=mount.kind == "directory")
        bind(kernel, mount.host, top + path, MS_NOSUID | MS_NODEV)
    if cage.stranger is not None:
        for path in ("/", "/home", "/root", "/var", "/var/tmp", "/run", "/mnt", "/media", "/srv"):
            os.chown(top + path, cage.stranger, cage.stranger)
    os.chdir(top)
    kernel.pivot_root_here()
    os.umask(0o022)


def point(path: str) -> str:
    """Return where `path` lies in the new root: the links of the node's directories count."""
    if any(is_below(path, one) for one in SYSTEM_DIRECTORIES):
        return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return path


def parents(path: str) -> Iterator[str]:
    """Yield the directories above `path`, nearest first."""
    while path != "/":
        path = os.path.dirname(path)
        yield path


def make_point(path: str, *, directory: bool) -> None:
    """Make something to mount on at `path`, unless there is something."""
    if os.path.lexists(path):
        return
    os.makedirs(path if directory else os.path.dirname(path), 0o755, exist_ok=True)
    if not directory:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def show(kernel: Kernel, top: str, path: str, opened: set[str], source: str | None = None) -> None:
    """Show `path` of the node, read-only; a directory in `opened` anew, to put things into it."""
    source = source or path
    if os.path.islink(source):
        os.makedirs(os.path.dirname(top + path), exist_ok=True)
        os.symlink(os.readlink(source), top + path)
    elif path in opened and os.path.isdir(source):
        os.makedirs(top + path, exist_ok=True)
        for name in os.listdir(source):
            show(kernel, top, f"{path}/{name}", opened)
    elif os.path.isdir(source) or os.path.isfile(source):
        make_point(top + path, directory=os.path.isdir(source))
        bind(kernel, source, top + path, MS_RDONLY | MS_NOSUID | MS_NODEV)


def furnish_etc(kernel: Kernel, top: str, opened: set[str]) -> None:
    """Make an /etc of what programs need, with accounts of its own."""
    from glob import glob

    for pattern in ETC:
        for path in glob(f"/etc/{pattern}"):
            show(kernel, top, path, opened, os.path.realpath(path))
    for name, text in (("passwd", ACCOUNTS), ("group", GROUP)):
        with open(f"{top}/etc/{name}", "w") as handle:
            os.chmod(handle.fileno(), 0o644)
            handle.write(text)


def furnish_dev(kernel: Kernel, dev: str) -> None:
    """Make a /dev of the harmless devices."""
    for name in DEVICES:
        make_point(f"{dev}/{name}", directory=False)
        kernel.mount(f"/dev/{name}", f"{dev}/{name}", None, MS_BIND)
    for name, target in DEVICE_LINKS.items():
        os.symlink(target, f"{dev}/{name}")
    for name in ("shm", "pts"):
        os.mkdir(f"{dev}/{name}", 0o755)
    kernel.mount("tmpfs", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    kernel.mount(
        "devpts",
        f"{dev}/pts",
        "devpts",
        MS_NOSUID | MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=620",
    )


def bind(kernel: Kernel, source: str, target: str, flags: int) -> None:
    """Bind `source` at `target` with all mounts below it, each with `flags` and its own."""
    kernel.mount(source, target, None, MS_BIND | MS_REC)
    for path, own in mounted_at(target):
        kernel.mount("none", path, None, MS_REMOUNT | MS_BIND | flags | own)


def mounted_at(top: str) -> list[tuple[str, int]]:
    """Return the mounts at and below `top` and their flags, which a remount may not leave out."""
    found = []
    with open("/proc/self/mountinfo", "rb") as handle:
        for line in handle:
            fields = line.split()
            path = os.fsdecode(
                re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), fields[4])
            )
            if is_below(path, top):
                found.append(
                    (path, sum(MOUNT_OPTIONS.get(option, 0) for option in fields[5].split(b",")))
                )
    return found


ENGINES: dict[str, Callable[[Order, Tree, list[str], Callable[[str], None]], Engine]] = {
    "docker": Docker,
    "podman": Podman,
    "apptainer": Apptainer,
    "singularity": Apptainer,
    "host": Host,
}


# ---- executors: one after another ----


class JobFiles:
    """The small files that the server reads while, and after, the task runs."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.spare = os.path.abspath(RESERVE)

    def reserve(self) -> None:
        """Keep some of the disk, to be freed when it is full and the report is still to write."""
        file = os.open(self.spare, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(file, 0, RESERVE_BYTES)
        finally:
            os.close(file)

    def release(self) -> None:
        """Free what was kept of the disk."""
        try:
            os.unlink(self.spare)
        except FileNotFoundError:
            return

    def write(self, name: str, text: str, *, durable: bool = True) -> None:
        """Put `text` where it is seen whole or not at all; a crash may lose it unless `durable`."""
        path = os.path.join(self.directory, name)
        self._saved(f"{path}.part", os.O_TRUNC, text, durable)
        os.replace(f"{path}.part", path)

    def append(self, name: str, text: str) -> None:
        """Add `text` to the end, on the disk when this returns."""
        self._saved(os.path.join(self.directory, name), os.O_APPEND, text, True)

    def _saved(self, path: str, flag: int, text: str, durable: bool) -> None:
        try:
            _save(path, flag, text, durable)
        except OSError as error:
            if not disk_is_full(error):
                raise
            self.release()
            _save(path, flag, text, durable)


def _save(path: str, flag: int, text: str, durable: bool) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o644)
    try:
        write_all(file, text.encode())
        if durable:
            os.fsync(file)
    finally:
        os.close(file)


class Task:
    """One task from its inputs to its outputs; what is to be reported gathers here."""

    def __init__(self, order: Order, files: JobFiles, home: str, watch: Watch) -> None:
        self.order = order
        self.files = files
        self.home = home
        self.started_at = now()
        self.log: list[str] = []
        self.results: list[dict[str, Any]] = []
        self.sent: list[Sent] = []
        self.metadata = {"host": os.uname().nodename, "engine": order.engine.kind}
        self.tree = Tree(f"{home}/root")
        self.transfers = Transfers(order, self.tree, self.log)
        self.engine = ENGINES[order.engine.kind](order, self.tree, self.log, watch.tell)
        self.watch = watch
        self.plan = mounts(order, self.tree.top)

    def work(self) -> tuple[str, str | None]:
        """Do the task; return its outcome and the reason."""
        try:
            self._begin()
            failure = self._execute()
            if failure is None:
                self._deliver()
                return "complete", None
            self._deliver_after_failure()
        except Trouble as error:
            return "system_error", str(error)
        except OSError as error:
            if disk_is_full(error):
                return "system_error", "the disk of the node is full"
            return "system_error", f"the node failed: {error}"
        return "executor_error", failure

    def _begin(self) -> None:
        self.transfers.check()
        for mount in self.plan:
            said = inexpressible(self.order.engine.kind, mount.container)
            if said:
                raise Trouble(said)
        os.makedirs(self.tree.top)
        os.chmod(self.home, 0o700)  # root's setuid programs in it are for nobody else
        self.engine.prepare()
        plant(self.order, self.tree, self.plan)
        for one in self.order.inputs:
            self.transfers.fetch(one)

    def _execute(self) -> str | None:
        """Run the executors up to the first that fails; return what is to be said of that one."""
        self.watch.ready()
        before: Image | None = None
        for index, executor in enumerate(self.order.executors):
            image = self.engine.image(executor.image)
            if before:
                self.engine.hand_over(before, image)
            before = image
            code = self._executor(index, executor, image)
            if code and not executor.ignore_error:
                return f"executor {index} ended with exit code {code}"
        return None

    def _executor(self, index: int, executor: Executor, image: Image) -> int:
        if image.digest:
            self.metadata[f"image_digest_{index}"] = image.digest
        streams = self._open_streams(executor)
        out, err = (Sink(Tail(self.order.tail_bytes), file) for file in streams[1:])
        self._journal("executor_start", index)
        start = now()
        try:
            code = self.engine.run(Call(index, executor, image, self.plan, streams[0], out, err))
        finally:
            for file in {file for file in streams if file is not None}:
                os.close(file)
        result = {"start_time": start, "end_time": now(), "exit_code": code}
        self.results.append({**result, "stdout": out.tail.text(), "stderr": err.tail.text()})
        self._journal("executor_end", index, exit_code=code)
        return code

    def _open_streams(self, executor: Executor) -> tuple[int | None, int | None, int | None]:
        """Open the files that the executor's streams are."""
        try:
            return self._opened(executor)
        except PermissionError:  # another user made the directory, in a container
            self.engine.reclaim()
        except OSError as error:
            raise _unopened(error) from error
        try:
            return self._opened(executor)
        except OSError as error:
            raise _unopened(error) from error

    def _opened(self, executor: Executor) -> tuple[int | None, int | None, int | None]:
        flags, named = os.O_WRONLY | os.O_CREAT | os.O_TRUNC, executor
        stdin = self.tree.open(named.stdin, os.O_RDONLY) if named.stdin else None
        out = self.tree.open(named.stdout, flags) if named.stdout else None
        if out is not None and named.stderr == named.stdout:
            return stdin, out, out
        return stdin, out, self.tree.open(named.stderr, flags) if named.stderr else None

    def _journal(self, event: str, index: int, **more: int) -> None:
        self.files.append(
            "tes_journal", json.dumps({"event": event, "index": index, **more, "at": now()}) + "\n"
        )

    def _deliver(self) -> None:
        self.engine.reclaim()
        for one in self.order.outputs:
            self.sent += self.transfers.send(one)

    def _deliver_after_failure(self) -> None:
        """Send what is there; the program's failure stays what is reported."""
        self.engine.reclaim()
        for one in self.order.outputs:
            try:
                self.sent += self.transfers.send(one)
            except (Trouble, OSError) as error:
                self.log.append(f"output {one.path}: {error}")

    def clean(self) -> None:
        """Leave nothing on the node."""
        for step in (self.engine.close, self.engine.reclaim, lambda: uproot(self.home)):
            try:
                step()
            except (Trouble, OSError) as error:
                self.log.append(f"not all of the task could be removed from the node: {error}")

    def report(self, outcome: str, reason: str | None) -> dict[str, Any]:
        """Return what the server is to know."""
        return {
            "version": VERSION,
            "job": self.order.job,
            "outcome": outcome,
            "reason": reason,
            "started_at": self.started_at,
            "ended_at": now(),
            "executors": self.results,
            "outputs": [one._asdict() for one in self.sent],
            "log": self.log,
            "metadata": self.metadata,
        }


def _unopened(error: OSError) -> Exception:
    if disk_is_full(error):
        return error
    return Trouble(f"stdin, stdout or stderr: {readable(str(error.filename))}: {error.strerror}")


# ---- report: one line ----


def frame(report: dict[str, Any], cap: int = REPORT_CAP) -> str:
    """Return `report` as a line of at most `cap` bytes: first tails are cut, then listings."""
    lines = (_framed(shorter) for shorter in _ever_shorter(report))
    return next(line for line in lines if len(line) <= cap)


def _ever_shorter(report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield report
    note = "the report was too long: tails of stdout and stderr are shortened"
    for limit in (16384, 4096, 1024, 0):
        yield _noted(_shorter_tails(report, limit), note)
    bare, shown = _shorter_tails(report, 0), len(report["outputs"])
    while shown:
        shown //= 4
        left_out = f"{len(report['outputs']) - shown} outputs are not listed"
        yield _noted({**bare, "outputs": report["outputs"][:shown]}, f"{note}, {left_out}")
    yield _noted({**bare, "outputs": [], "log": []}, f"{note}, listings and log are left out")
    lost: dict[str, Any] = {
        "executors": [],
        "outputs": [],
        "metadata": {},
        "log": [],
        "reason": None,
    }
    yield _noted({**report, **lost}, "the report was too long: only the outcome is told")


def _framed(report: dict[str, Any]) -> str:
    from binascii import b2a_base64
    from zlib import compress

    text = readable(json.dumps(report, ensure_ascii=False))
    return "TESREPORT1 " + b2a_base64(compress(text.encode()), newline=False).decode() + "\n"


def _shorter_tails(report: dict[str, Any], limit: int) -> dict[str, Any]:
    cut = [
        {**one, **{name: one[name][-limit:] if limit else "" for name in ("stdout", "stderr")}}
        for one in report["executors"]
    ]
    return {**report, "executors": cut}


def _noted(report: dict[str, Any], note: str) -> dict[str, Any]:
    return {**report, "log": [*report["log"], note]}


# ---- watchdog: cleans up when the runner cannot ----


class Watch:
    """The runner's end of the pipe to its watchdog, who sees the runner's end in the pipe's."""

    def __init__(self, pipe: int, up: int) -> None:
        self._pipe = pipe
        self._up = up

    def tell(self, line: str) -> None:
        """Tell of a container: `+name` before it is asked for, `-name` when it is surely gone."""
        try:
            write_all(self._pipe, line.encode() + b"\n")
        except BrokenPipeError:
            return  # somebody ended the watchdog; the task is not to suffer for it

    def ready(self) -> None:
        """Wait until the watchdog is there: nothing may be started before."""
        if not os.read(self._up, 1):
            raise Trouble("no watchdog can be started on this node")
        os.close(self._up)

    def done(self) -> None:
        """Tell the watchdog that there is nothing left to watch."""
        self.tell(".")


def start_watchdog(order: Order, files: JobFiles, home: str) -> Watch:
    """Fork the watchdog: no child of the runner, to be spared by what kills its tree."""
    pipe, up = os.pipe(), os.pipe()
    runner = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                close_all_but(pipe[0], up[1])
                os.chdir("/")
                for _ in range(3):
                    os.open(os.devnull, os.O_RDWR)
                watch_over(order, files, home=home, runner=runner, pipe=pipe[0], up=up[1])
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(pipe[0])
    os.close(up[1])
    return Watch(pipe[1], up[0])


def watch_over(
    order: Order, files: JobFiles, *, home: str, runner: int, pipe: int, up: int
) -> None:
    """Be the watchdog: see the runner end, and clean up if it did not itself."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    files.write("tes_watch", "watching\n", durable=False)
    os.write(up, b"!")
    os.close(up)
    asked = listen(pipe, order, files)
    if asked is not None:
        kill_group(runner)
        left = reap(order, asked, home)
        files.release()
        files.write("tes_watch", "".join(f"{line}\n" for line in left) or "reaped\n")


def listen(pipe: int, order: Order, files: JobFiles) -> set[str] | None:
    """Beat, until the runner is done (None) or dead (the containers it may have left)."""
    asked: set[str] = set()
    poll, beat, rest = select.poll(), 0, b""
    poll.register(pipe, select.POLLIN)
    due = time.monotonic() + order.heartbeat_s
    while True:
        if not poll.poll(max(0.0, due - time.monotonic()) * 1000):
            beat, due = beat + 1, time.monotonic() + order.heartbeat_s
            heartbeat(files, beat)
            continue
        data = os.read(pipe, 4096)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            name = line[1:].decode()
            if line[:1] == b".":
                return None
            asked = asked | {name} if line[:1] == b"+" else asked - {name}
        if not data:
            return asked


def heartbeat(files: JobFiles, beat: int) -> None:
    """Show that the task is watched over; on a full disk it is not shown, but true."""
    try:
        text = json.dumps({"beat": beat, "at": now()}) + "\n"
        files.write("tes_heartbeat", text, durable=False)
    except OSError:
        return  # a full disk does not end the watch


def reap(order: Order, names: Iterable[str], home: str, patience_s: float = 6.5) -> list[str]:
    """Remove what a dead runner left: its containers, its tree. Return what cannot be proven gone.

    A container may still appear after the one who asked for it is dead. So its removal is tried
    until it succeeded once, which proves that it came and went, or `patience_s` have passed.
    """
    left: list[str] = []
    engine = ENGINES[order.engine.kind](order, Tree(f"{home}/root"), left, lambda line: None)
    deadline = time.monotonic() + patience_s
    said = dict.fromkeys(names, "unknown")
    while True:
        kill_inside(home)
        said = {name: removal(engine, name) for name in said}
        said = {name: word for name, word in said.items() if word != "removed"}
        if not said or time.monotonic() > deadline:
            break
        time.sleep(0.25)
    kill_inside(home)
    kill_at(home)  # conmon, which outlives a podman that is killed while it starts a container
    left += [f"{name} may be left: {word}" for name, word in said.items() if word != "absent"]
    try:
        engine.reclaim(deadline=time.monotonic() + REAP_TIMEOUT_S - patience_s)
        uproot(home)
    except (Trouble, OSError) as error:
        left.append(f"{home} could not be removed: {error}")
    return left


def removal(engine: Engine, name: str) -> str:
    """Remove a container; return "removed", "absent", or why neither is known."""
    try:
        done = engine.command(*engine.REMOVE, name, timeout_s=5).done()
    except Trouble as error:
        return str(error)
    if done.out.strip():
        return "removed"
    absent = re.search("no such container|no container with", done.err, re.IGNORECASE)
    return "absent" if absent or not done.code else last_line(done.err)


def kill_group(leader: int) -> None:
    """Kill a process group, if it is there and ours."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def kill_inside(home: str) -> None:
    """Kill every process that has a directory of the task mounted, so is in a container of it."""
    mark = os.fsencode("/".join(["", *home.split("/")[-3:], ""]))
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            with open(f"/proc/{pid}/mountinfo", "rb") as handle:
                if mark in handle.read():
                    kill(int(pid))
        except OSError:
            continue


# ---- main ----


def reap_old(order: Order) -> dict[str, Any]:
    """Remove all that the job `order.reaps` left on this node."""
    started_at = now()
    old = os.path.join(os.path.realpath("../.."), order.reaps or "")
    kill_at(f"{old}/working")
    names = [order.container(index) for index in range(len(order.executors))]
    reaped = _first_line(f"{old}/outputs/tes_watch") == "reaped"
    if reaped or order.engine.kind not in {"docker", "podman"}:
        names = []
    left = reap(order, names, f"{old}/working/task")
    if os.path.exists(f"{old}/working/{RESERVE}"):
        os.unlink(f"{old}/working/{RESERVE}")
    outcome, reason = ("system_error", left[0]) if left else ("complete", None)
    report = {"version": VERSION, "job": order.job, "outcome": outcome, "reason": reason}
    times = {"started_at": started_at, "ended_at": now()}
    return {**report, **times, "executors": [], "outputs": [], "log": left, "metadata": {}}


def kill_at(directory: str) -> None:
    """Kill every process whose working directory is `directory`: the runner of that job."""
    for pid in os.listdir("/proc"):
        if pid.isdigit() and _link_target(f"/proc/{pid}/cwd") == directory:
            kill_group(int(pid))
            kill(int(pid))


def kill(pid: int) -> None:
    """Kill a process, if it is there and ours."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _first_line(path: str) -> str:
    try:
        with open(path) as handle:
            return handle.readline().strip()
    except OSError:
        return ""


def run_task(order: Order, files: JobFiles) -> tuple[dict[str, Any], Watch]:
    """Do the task under a watchdog's eyes; return the report, and the watchdog to be told."""
    home = os.path.join(os.getcwd(), "task")
    heartbeat(files, 0)
    watch = start_watchdog(order, files, home)
    task = Task(order, files, home, watch)
    try:
        files.reserve()
    except OSError as error:
        task.log.append(f"no reserve on the disk of the node: {error.strerror}")
    try:
        outcome, reason = task.work()
    except Exception as error:  # noqa: BLE001 - a defect of the runner must not cost the user the report
        outcome, reason = "system_error", f"the runner failed: {type(error).__name__}: {error}"
        report_defect()
    task.clean()
    return task.report(outcome, reason), watch


def report_defect() -> None:
    """Show the traceback to the operator, on standard error."""
    import traceback

    traceback.print_exc()


def refuse(document: dict[str, Any], reason: str) -> dict[str, Any]:
    """Return the report on an order that cannot be read."""
    at = now()
    report = {
        "version": VERSION,
        "job": str(document.get("job")),
        "outcome": "system_error",
        "reason": reason,
    }
    return {
        **report,
        "started_at": at,
        "ended_at": at,
        "executors": [],
        "outputs": [],
        "log": [],
        "metadata": {},
    }


def load() -> dict[str, Any]:
    """Return the order: the file named as an argument, or from this program's zip, now removed."""
    if len(sys.argv) > 1:
        with open(sys.argv[1], "rb") as handle:
            document: dict[str, Any] = json.loads(handle.read())
        return document
    packed: dict[str, Any] = json.loads(globals()["__loader__"].get_data("order.json"))
    os.unlink(sys.argv[0])  # it may hold credentials
    sys.path[:] = [place for place in sys.path if place != sys.argv[0]]  # absent from 3.11 on
    return packed


def main() -> None:
    """Carry out the order and say how it went."""
    if sys.getfilesystemencoding().lower() not in {"utf-8", "utf8"}:
        os.execv(sys.executable, [sys.executable, "-IS", "-X", "utf8", *sys.argv])
    answer = os.dup(1)
    os.dup2(2, 1)  # only the report may reach the real standard output
    if os.getpid() != os.getpgrp():
        os.setpgid(0, 0)  # so that the watchdog can end what the runner started
    document, watch = load(), None
    files = JobFiles(os.path.abspath("../outputs"))
    try:
        order = read_order(document)
    except (Trouble, KeyError, TypeError, ValueError) as error:
        report = refuse(document, f"the order cannot be carried out: {error}")
    else:
        if order.reaps:
            report = reap_old(order)
        else:
            report, watch = run_task(order, files)
    files.release()
    line = frame(report)
    files.write("tes_report", line)
    if watch:
        watch.done()
    write_all(answer, line.encode())


if __name__ == "__main__":
    main()
