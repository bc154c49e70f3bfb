"""`follow.py COMMAND...`: runs the API; ends it when it is to reach Pulsar another way.

Docker starts it again then. Compose itself would leave a running container as it is where a
profile was added or left out.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Final, NoReturn

CHOICE: Final = Path("/run/tesp/settings.toml")
LOOK_S: Final = 0.3
BY_AMQP_S: Final = 1.0
BY_REST_S: Final = 30.0
"""Each `docker compose up` chooses REST first, and may choose again a moment later."""


def main(*command: str) -> NoReturn:
    """Become the command, beside a process that watches."""
    chosen = CHOICE.readlink()
    if os.fork() == 0:
        watch(chosen)
    os.execvp(command[0], command)  # noqa: S606 - it is the container's own


def watch(chosen: Path) -> NoReturn:
    """End the parent once another choice has stood for long enough."""
    same_at = time.monotonic()
    while time.monotonic() - same_at < patience_s():
        time.sleep(LOOK_S)
        if CHOICE.readlink() == chosen:
            same_at = time.monotonic()
    os.kill(os.getppid(), signal.SIGTERM)
    sys.exit()


def patience_s() -> float:
    """Return how long what is chosen now has to stand."""
    return BY_AMQP_S if CHOICE.readlink().parent.name == "amqp" else BY_REST_S


if __name__ == "__main__":
    main(*sys.argv[1:])
