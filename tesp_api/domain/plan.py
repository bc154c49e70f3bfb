"""A task as an order for the runner on the node. The form of an order is described in `runner`."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tesp_api.domain.task import JobId, Task
from tesp_api.domain.tes import Executor, Resources

Order = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What runs the containers on the node; the arguments are the operator's own.

    `image_roots` and `image_schemes` bound what apptainer may open: local images only below the
    roots.
    """

    kind: str
    program: str
    global_args: tuple[str, ...] = ()
    run_args: tuple[str, ...] = ()
    image_roots: tuple[str, ...] = ()
    image_schemes: tuple[str, ...] = ()
    pull_timeout_s: float = 1800.0

    def order(self) -> Order:
        """Return it in the runner's form."""
        return {
            "kind": self.kind,
            "program": self.program,
            "global_args": list(self.global_args),
            "run_args": list(self.run_args),
            "image_roots": list(self.image_roots),
            "image_schemes": list(self.image_schemes),
            "pull_timeout_s": self.pull_timeout_s,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How data moves: so many files of a task at a time, so often tried, each call so long.

    `ca` is PEM text of certificates to trust beside the node's own.
    """

    parallel: int = 4
    attempts: int = 5
    timeout_s: float = 60.0
    ca: str | None = None

    def order(self) -> Order:
        """Return it in the runner's form."""
        numbers = {"parallel": self.parallel, "attempts": self.attempts}
        return {**numbers, "timeout_s": self.timeout_s}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What all tasks of this server share; `instance` tells its containers from another's.

    `missing` says what a declared output is that was not written: a line in the log ("warn") or
    the end of the task ("error").
    """

    instance: str
    engine: Engine
    tail_bytes: int
    heartbeat_s: float
    transfer: Transfer = Transfer()
    missing: str = "warn"


def run_order(
    task: Task, job: JobId, site: Site, inputs: Sequence[Order], outputs: Sequence[Order]
) -> Order:
    """Return the order that runs `task` as `job`; inputs and outputs as the storage orders them."""
    request = task.request
    return {
        **_head(task, job, site),
        **_data(site),
        "limits": _limits(request.resources or Resources()),
        "tail_bytes": site.tail_bytes,
        "volumes": [normal(volume) for volume in request.volumes or ()],
        "inputs": [{**order, "path": normal(order["path"])} for order in inputs],
        "outputs": [{**order, "path": normal(order["path"])} for order in outputs],
        "missing": site.missing,
        "executors": [_executor(executor) for executor in request.executors],
    }


def stage_out_order(task: Task, job: JobId, of: JobId, site: Site, files: Sequence[Order]) -> Order:
    """Return the order that sends what job `of` left; `files` as the storage orders them."""
    return {**_head(task, job, site), **_data(site), "mode": "send", "of": of, "files": list(files)}


def reap_order(task: Task, job: JobId, of: JobId, site: Site) -> Order:
    """Return the order that removes whatever job `of` of `task` may have left on the node."""
    containers = len(task.request.executors)
    return {**_head(task, job, site), "mode": "reap", "of": of, "containers": containers}


def _head(task: Task, job: JobId, site: Site) -> Order:
    names = {"version": 1, "task": task.id, "job": job, "instance": site.instance}
    return {**names, "engine": site.engine.order()}


def _data(site: Site) -> Order:
    """Return what every job needs that moves data and shows that it lives."""
    transfer = site.transfer
    return {"transfer": transfer.order(), "ca": transfer.ca, "heartbeat_s": site.heartbeat_s}


def normal(path: str) -> str:
    """Return an absolute path without doubled, trailing or dot parts: `/a//b/./` is `/a/b`."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _limits(resources: Resources) -> Order:
    return {
        "cpu_cores": resources.cpu_cores or None,
        "ram_gb": resources.ram_gb or None,
        "disk_gb": resources.disk_gb or None,
    }


def _executor(executor: Executor) -> Order:
    paths = {
        "workdir": executor.workdir,
        "stdin": executor.stdin,
        "stdout": executor.stdout,
        "stderr": executor.stderr,
    }
    return {
        "image": executor.image,
        "command": list(executor.command),
        "env": dict(executor.env or {}),
        "ignore_error": bool(executor.ignore_error),
        **{name: normal(path) if path else None for name, path in paths.items()},
    }
