"""Docker and Podman, by their command lines."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from tesp_api.runner.engine import (
    ENGINE_TIMEOUT_S,
    MISSING,
    NOT_EXECUTABLE,
    Call,
    Engine,
    Image,
    foreign,
    is_reference,
    last_line,
    open_to_all,
    with_directory,
)
from tesp_api.runner.mounts import Mount, mount_option
from tesp_api.runner.processes import Command, finish
from tesp_api.runner.trouble import ImageTrouble, NodeTrouble, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from tesp_api.runner.order import Order
    from tesp_api.runner.tree import Tree


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
                raise ImageTrouble(f"the image {name} cannot be used: {last_line(looked.err)}")
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
            raise ImageTrouble(f"the image {name} cannot be pulled: {last_line(pulled.err)}")

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
            raise NodeTrouble(f"{self.settings.kind} refused the container: {last_line(made.err)}")
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
            raise NodeTrouble(f"{self.settings.kind} could not start the container: {error}")
        return code

    def _state(self, name: str) -> dict[str, Any]:
        looked = self.command("inspect", "--format", "{{json .State}}", name).done()
        if looked.code:
            raise NodeTrouble(f"the container was removed while it ran: {last_line(looked.err)}")
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
