"""What a small job of ours does at Pulsar for those who reach it by messages only.

Runs on the node, alone: Python 3.8 or newer, standard library. It works beside its own directory:
`read JOB` tells what the runner left of a job, `remove JOB...` removes jobs' directories. Its own
goes too, by a process that waits for Pulsar's last word on this job.
"""

from __future__ import annotations

import base64
import glob
import json
import os
import re
import shutil
import stat
import sys
import time
import zlib

TRACES = {
    "report": "tes_report",
    "heartbeat": "tes_heartbeat",
    "journal": "tes_journal",
    "watch": "tes_watch",
}
MOST_BYTES = 720 * 1024
"""Of one file; the report is the longest, and Pulsar tells at most 1 MiB."""
PATIENCE_S = 600.0
LAST_WORD_S = 2.0
"""Pulsar reads the directory just after it has marked the job as finished."""
OLD_S = 3600.0


def read(job: str) -> dict[str, object]:
    """Return what the runner left of the job, null for what is not there; and whether it began."""
    found = {name: head(os.path.join(job, "outputs", file)) for name, file in TRACES.items()}
    return {**found, "unbegun": is_unbegun(job)}


def is_unbegun(job: str) -> bool:
    """Tell whether what Pulsar starts the job with is as it came: the job empties it first."""
    config = head(os.path.join(job, "launch_config"))
    return config is not None and config.strip() != "{}"


def head(path: str) -> str | None:
    """Return the beginning of a file, or None."""
    try:
        with open(path, "rb") as file:
            return file.read(MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return None


def remove(*jobs: str) -> dict[str, object]:
    """Remove directories, and old ones of chores; return the jobs of which something is left."""
    for job in jobs:
        clear(job)
    for path in glob.glob("tes-chore-*"):
        if is_old(path):
            clear(path)
    return {"left": [job for job in jobs if os.path.lexists(job)]}


def is_old(path: str) -> bool:
    """Tell whether nothing happened there for long."""
    try:
        return time.time() - os.stat(path).st_mtime > OLD_S
    except OSError:
        return False


def clear(path: str) -> None:
    """Remove a directory, also what a task has made unwritable."""
    shutil.rmtree(path, ignore_errors=True)
    if not os.path.lexists(path):
        return
    for directory, _, _ in os.walk(path):
        try:
            os.chmod(directory, stat.S_IRWXU)
        except OSError:
            continue
    shutil.rmtree(path, ignore_errors=True)


def part(own: str) -> None:
    """Leave a process behind that removes the own directory; nothing of others' names is in it."""
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    script = os.path.join(own, "inputs", os.path.basename(__file__))
    os.execve(sys.executable, [sys.executable, "-IS", script, "leave", own], {})  # noqa: S606 - our own file


def leave(own: str) -> None:
    """Remove the own directory when Pulsar has no more use for it."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and not os.path.exists(os.path.join(own, "postprocessed")):
        time.sleep(0.1)
    time.sleep(LAST_WORD_S)
    clear(own)


def main(own: str, task: str, *jobs: str) -> None:
    """Do the chore and print what came of it."""
    if not all(re.fullmatch("[A-Za-z0-9-]+", job) for job in jobs):
        raise SystemExit("these are no names of jobs of ours")
    os.chdir(os.path.dirname(own))
    answer = remove(*jobs) if task == "remove" else read(*jobs)
    packed = zlib.compress(json.dumps(answer).encode())
    sys.stdout.write("TESCHORE1 " + base64.b64encode(packed).decode() + "\n")
    sys.stdout.flush()
    part(own)


if __name__ == "__main__":
    if sys.argv[1] == "leave":
        leave(sys.argv[2])
    else:
        main(os.path.dirname(os.getcwd()), *sys.argv[1:])
