"""The engine `host`: no image, but the node's own programs in a sandbox."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tesp_api.runner.cage import SYSTEM_DIRECTORIES, Cage, enter
from tesp_api.runner.control_groups import control_group, remove_group
from tesp_api.runner.engine import MISSING, NOT_EXECUTABLE, Call, Engine, Image, with_directory
from tesp_api.runner.kernel import Kernel
from tesp_api.runner.mounts import Mount, covered
from tesp_api.runner.order import Order, is_below
from tesp_api.runner.processes import BadStart, launch
from tesp_api.runner.tree import Tree, walk
from tesp_api.runner.trouble import NodeTrouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HOST_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
}


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
                raise NodeTrouble(
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
        return [path for path in self.settings.run_args if not covered(path, own)]

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
