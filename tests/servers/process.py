"""A server as a process of the test's own: begun, waited for, ended by its number."""

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tesp_api.local import own_pulsar
from tests.pulsars import until

HOST: Final = "127.0.0.1"
START_S: Final = 60
STOP_S: Final = 10


def free_port() -> int:
    return own_pulsar.free_port(HOST)


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    environ: Mapping[str, str] | None = None,
    *,
    stop_s: float = STOP_S,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` with what it says in `log`; the body is entered when it is `ready`.

    It is asked to end, and killed if it has not in `stop_s`.
    """
    with log.open("ab") as said:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        until(lambda: _is_up(process, ready, log), START_S, lambda: _tail(log))
        yield process
    finally:
        _end(process, stop_s)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


@contextmanager
def nobody_listens() -> Iterator[int]:
    """Hold a port on which every connection is refused."""
    with socket.socket() as held:
        held.bind((HOST, 0))
        yield held.getsockname()[1]


def _is_up(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> bool:
    # Were it dead, then who answers would be somebody else who came by the port.
    assert process.poll() is None, f"{process.args!r} has ended:\n{_tail(log)}"
    return ready()


def _end(process: subprocess.Popen[bytes], stop_s: float) -> None:
    if stop_s:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(stop_s)
    process.kill()
    process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
