"""The report: one line."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from tesp_api.runner.trouble import readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

VERSION = 1

REPORT_CAP = 700 * 1024

ROOM_FOR_THE_REST = 16 * 1024

FEW_LEFT = 100  # files, whose paths surely have room in a report


def now() -> str:
    """Return this moment as RFC 3339 UTC with microseconds."""
    at = time.time_ns()
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at // 10**9))
        + f".{at // 1000 % 10**6:06d}+00:00"
    )


def is_too_long(left: Sequence[object]) -> bool:
    """Tell whether the files that are left to be sent are more than a report can list."""
    return len(left) > FEW_LEFT and len(_framed({"left": left})) > REPORT_CAP - ROOM_FOR_THE_REST


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


def refuse(document: dict[str, Any], reason: str, turn: str) -> dict[str, Any]:
    """Return the report on an order that cannot be read."""
    at = now()
    report = {
        "version": VERSION,
        "job": str(document.get("job")),
        "outcome": "system_error",
        "reason": reason,
        "turn": turn,
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
