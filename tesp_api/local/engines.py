"""Which container engine this machine can really use: tried with a real container, not guessed."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PATIENCE_S: Final = 60.0
"""For everything an engine may need to show that it runs the image, a pull included."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine to use, and a sentence on why, for people."""

    kind: str
    why: str


@dataclass(frozen=True, slots=True)
class _Trial:
    """How an engine is tried.

    `find` succeeds where the image is present; each is an argument list.
    """

    kind: str
    find: Sequence[str]
    pull: Sequence[str]
    run: Sequence[str]


def _trials(image: str, global_args: Sequence[str], run_args: Sequence[str]) -> list[_Trial]:
    trials = [
        _Trial(
            kind,
            find=[kind, *global_args, "image", "inspect", image],
            pull=[kind, *global_args, "pull", "--quiet", image],
            run=[kind, *global_args, "run", "--rm", "--network=none", *run_args, image, "true"],
        )
        for kind in ("docker", "podman")
    ]
    remote = ["exec", *run_args, f"docker://{image}", "true"]
    return trials + [
        _Trial(kind, find=[kind, *remote], pull=["true"], run=[kind, *remote])
        for kind in ("apptainer", "singularity")
    ]


async def choose(
    image: str, *, global_args: Sequence[str] = (), run_args: Sequence[str] = ()
) -> Choice:
    """Return the first engine that ran `image` within a minute; `host`, and why, where none did."""
    refusals = []
    for trial in _trials(image, global_args, run_args):
        why_not = await _why_not(trial)
        if why_not is None:
            return Choice(trial.kind, f"it ran {image}")
        refusals.append(f"{trial.kind}: {why_not}")
    return Choice("host", "; ".join(refusals))


async def _why_not(trial: _Trial) -> str | None:
    if shutil.which(trial.kind) is None:
        return "not installed"
    try:
        async with asyncio.timeout(PATIENCE_S):
            found, _ = await _run(trial.find)
            if not found:
                pulled, last = await _run(trial.pull)
                if not pulled:
                    return last
            ran, last = await _run(trial.run)
            return None if ran else last
    except TimeoutError:
        return f"no container within {PATIENCE_S:.0f} s"


async def _run(command: Sequence[str]) -> tuple[bool, str]:
    """Run it; return whether it succeeded and the last line of its complaint."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, complaint = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    lines = complaint.decode(errors="replace").strip().splitlines()
    return process.returncode == 0, lines[-1] if lines else f"exit status {process.returncode}"
