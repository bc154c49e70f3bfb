"""Apptainer and Singularity: containers that are children of the runner."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from tesp_api.runner.control_groups import CGROUPS
from tesp_api.runner.engine import (
    MISSING,
    NOT_EXECUTABLE,
    Call,
    Engine,
    Image,
    is_reference,
    last_line,
    shell_quoted,
    with_directory,
)
from tesp_api.runner.mounts import Mount, mount_option
from tesp_api.runner.order import Order, is_below
from tesp_api.runner.trouble import ImageTrouble, NodeTrouble, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable

    from tesp_api.runner.tree import Tree


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
            raise ImageTrouble(f"the image {url} cannot be pulled: {last_line(pulled.err)}")
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
            raise NodeTrouble(f"{self.settings.kind} could not start the container: {said}")
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
