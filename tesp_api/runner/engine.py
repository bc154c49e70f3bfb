"""What all engines share: an engine runs one executor after another."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.mounts import Mount
from tesp_api.runner.order import Executor, Order, is_below
from tesp_api.runner.processes import (
    BadStart,
    Child,
    Command,
    client_env,
    finish,
    launch,
    program,
    pump,
)
from tesp_api.runner.tree import Tree, walk
from tesp_api.runner.trouble import NodeTrouble

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tesp_api.runner.streams import Sink

ENGINE_TIMEOUT_S = 300.0

REAP_TIMEOUT_S = 9.0

MISSING, NOT_EXECUTABLE, KILLED = 127, 126, 137  # exit codes, as shells and engines use them

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
            raise NodeTrouble(f"the engine cannot be started on this node: {error}") from error

    def attached(self, args: Sequence[str], stdin: int | None) -> Child:
        """Start the engine's client so that its streams are the program's."""
        try:
            return launch(program(self.argv(*args), client_env(), self.home), stdin)
        except BadStart as error:
            raise NodeTrouble(f"the engine cannot be started on this node: {error}") from error

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
    kept = [mount for mount in plan if mount.bound or not is_below(mount.container, path)]
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
