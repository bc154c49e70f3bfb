"""Carry out one order, and say truthfully how it went."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from tesp_api.runner.job_files import RESERVE, JobFiles
from tesp_api.runner.order import Order, read_order
from tesp_api.runner.report import VERSION, frame, now, refuse
from tesp_api.runner.stage_out import StageOut
from tesp_api.runner.streams import write_all
from tesp_api.runner.task import Task
from tesp_api.runner.trouble import Trouble, operators_turn
from tesp_api.runner.watchdog import Watch, heartbeat, kill_at, reap, start_watchdog

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def reap_old(order: Order) -> dict[str, Any]:
    """Remove all that the job `order.of` left on this node."""
    started_at = now()
    old = os.path.join(os.path.realpath("../.."), order.of or "")
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
        task.turn = operators_turn()
        report_defect()
    task.clean()
    return task.report(outcome, reason), watch


def send_left(order: Order, files: JobFiles) -> tuple[dict[str, Any], Callable[[], None]]:
    """Send what another job has left; return the report, and what is to be done after it."""
    heartbeat(files, 0)
    stage_out = StageOut(order)
    watch = start_watchdog(order, files, None)
    watch.ready()
    try:
        outcome, reason = stage_out.work()
    except Exception as error:  # noqa: BLE001 - a defect of the runner must be told too
        outcome, reason = "system_error", f"the runner failed: {type(error).__name__}: {error}"
        stage_out.turn = operators_turn()
        report_defect()

    def afterwards() -> None:
        if outcome != "stale":
            stage_out.clean()
        watch.done()

    return stage_out.report(outcome, reason), afterwards


def report_defect() -> None:
    """Show the traceback to the operator, on standard error."""
    import traceback

    traceback.print_exc()


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
    document = load()
    files = JobFiles(os.path.abspath("../outputs"))
    report, afterwards = carried_out(document, files)
    files.release()
    line = frame(report)
    files.write("tes_report", line)
    afterwards()
    write_all(answer, line.encode())


def carried_out(
    document: dict[str, Any], files: JobFiles
) -> tuple[dict[str, Any], Callable[[], None]]:
    """Return the report on an order, and what is to be done when it is written."""
    try:
        order = read_order(document)
    except (Trouble, KeyError, TypeError, ValueError) as error:
        turn = error.turn() if isinstance(error, Trouble) else operators_turn()
        return refuse(document, f"the order cannot be carried out: {error}", turn), lambda: None
    if order.mode == "reap":
        return reap_old(order), lambda: None
    if order.mode == "send":
        return send_left(order, files)
    report, watch = run_task(order, files)
    return report, watch.done
