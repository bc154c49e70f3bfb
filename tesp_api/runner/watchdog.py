"""The watchdog: cleans up when the runner cannot."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import time
from typing import TYPE_CHECKING

from tesp_api.runner.engine import REAP_TIMEOUT_S, Engine, last_line
from tesp_api.runner.engines import ENGINES
from tesp_api.runner.processes import close_all_but, kill, kill_group
from tesp_api.runner.report import now
from tesp_api.runner.streams import write_all
from tesp_api.runner.tree import Tree, link_target, uproot
from tesp_api.runner.trouble import NodeTrouble, Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tesp_api.runner.job_files import JobFiles
    from tesp_api.runner.order import Order


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
            raise NodeTrouble("no watchdog can be started on this node")
        os.close(self._up)

    def done(self) -> None:
        """Tell the watchdog that there is nothing left to watch."""
        self.tell(".")


def start_watchdog(order: Order, files: JobFiles, home: str | None) -> Watch:
    """Fork the watchdog: no child of the runner, to be spared by what kills its tree.

    Without a `home` it only sees the runner end and tells that: there is nothing to clean up.
    """
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
    order: Order, files: JobFiles, *, home: str | None, runner: int, pipe: int, up: int
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
        left = reap(order, asked, home) if home else []
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


def kill_at(directory: str) -> None:
    """Kill every process whose working directory is `directory`: the runner of that job."""
    for pid in os.listdir("/proc"):
        if pid.isdigit() and link_target(f"/proc/{pid}/cwd") == directory:
            kill_group(int(pid))
            kill(int(pid))
