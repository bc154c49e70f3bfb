"""The true server with points in it, and a parent that begins such servers fast.

`python -m tests.faults.server` imports everything once, then forks a server for each line on its
standard input; so a restart takes no more than the server itself needs. A line is JSON: `environ`,
`log`, `book` (where passed points are written), `plan`, `wrong_s` (of the wall clock). The answer
is a line with the pid.
"""

import asyncio
import gc
import json
import os
import signal
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, NoReturn

from tesp_api import cli
from tesp_api.adapters import make_runner, make_storage, make_store
from tesp_api.clock import SystemClock
from tesp_api.ports import Clock, JobRunner, Permit, TaskStore
from tesp_api.settings import Settings, load
from tesp_api.tesp_api import Parts, build, configure_log
from tests.faults.names import Known
from tests.faults.points import Plan, PointedStore, Points, point_broker, pointed_rest
from tests.faults.storage_points import PointedStorage

SOON_S: Final = 5.0
"""Patience of a server by messages with a silent job, and with what others left."""


class WrongClock(SystemClock):
    """A machine whose wall clock is wrong."""

    def __init__(self, wrong_s: float) -> None:
        self._wrong = timedelta(seconds=wrong_s)

    def now(self) -> datetime:
        return super().now() + self._wrong


def parts(points: Points, wrong_s: float) -> Parts:
    known = Known()

    def store(settings: Settings) -> Any:
        return PointedStore(make_store(settings), points, known)

    def runner(settings: Settings, store: TaskStore, permit: Permit) -> JobRunner:
        made: Any = make_runner(settings, store, permit)
        # Between the caller and the permit: what stops here wakes before it asks for leave.
        if settings.pulsar.amqp_url is None:
            made._ask = pointed_rest(made._ask, points, known)
        else:
            made._watches._silent_s = made._janitor._sweep_s = SOON_S
            point_broker(made._broker, points, known)
        return made

    def storage(settings: Settings, clock: Clock) -> Any:
        return PointedStorage(make_storage(settings, clock), points)

    return Parts(store=store, runner=runner, storage=storage, clock=lambda: WrongClock(wrong_s))


async def serve(points: Points, wrong_s: float) -> None:
    settings = load()
    configure_log(settings)
    server = await cli._opened(build(settings, parts(points, wrong_s)))
    listening = cli._listen(settings.server.host, settings.server.port)
    await cli._http_server(settings, server).serve(sockets=[listening])


def be_a_server(order: dict[str, Any]) -> NoReturn:
    """Become what the order says; never returns."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, target in enumerate((nothing, log, log)):
            os.dup2(target, number)
        os.environ.update(order["environ"])
        points = Points(Plan(**order["plan"]), Path(order["book"]))
        asyncio.run(serve(points, order["wrong_s"]))
        status = 0
    except BaseException as error:  # noqa: BLE001 - the edge of a process
        print(repr(error), file=sys.stderr, flush=True)
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not waited for
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            be_a_server(json.loads(line))
        print(pid, flush=True)


if __name__ == "__main__":
    main()
