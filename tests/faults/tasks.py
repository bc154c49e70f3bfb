"""Kinds of tasks, what is done to each while it is under way, and what must come of it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.e2e.stack import ENDS, IMAGE, Json
from tests.faults.ledger import Ledger
from tests.faults.replica import Client
from tests.faults.table import Row

NEVER_S: Final = 600
ID_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`lines` is what each executor does after it has said that it begins."""

    ends: frozenset[str]
    lines: Sequence[str]
    starts: Sequence[Sequence[int]]
    """How often each executor may have been started."""
    sent: Sequence[int] = (0, 1)
    attempts: Sequence[int] = (1,)
    dies_at: str = ""
    """`in` or `start`: the runner is killed when that request of the task arrives."""
    cancel_at: str = ""
    """`post` or `start`: when the client cancels."""


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "completes": Kind(
            ends=frozenset({"COMPLETE"}),
            lines=["cat /in/a > /out/a", "sleep 0.2; echo more >> /out/a"],
            starts=[[1, 1]],
            sent=[1],
        ),
        "fails": Kind(
            ends=frozenset({"EXECUTOR_ERROR"}),
            lines=["exit 3", "echo never"],
            starts=[[1]],
        ),
        "cancelled": Kind(
            ends=frozenset({"CANCELED"}),
            lines=[f"sleep {NEVER_S}"],
            starts=[[1]],
            sent=[0],
            cancel_at="start",
        ),
        "cancelled early": Kind(
            ends=frozenset({"CANCELED"}),
            lines=[f"sleep {NEVER_S}"],
            starts=[[], [1]],
            sent=[0],
            attempts=(0, 1),
            cancel_at="post",
        ),
        "cancelled late": Kind(
            ends=frozenset({"CANCELED", "COMPLETE"}),
            lines=["echo a > /out/a; sleep 0.1"],
            starts=[[1]],
            cancel_at="start",
        ),
        "lost": Kind(
            ends=frozenset({"COMPLETE"}),
            lines=["cat /in/a > /out/a"],
            starts=[[1]],
            sent=[1],
            attempts=(2,),
            dies_at="in",
        ),
        "dies": Kind(
            ends=frozenset({"SYSTEM_ERROR"}),
            lines=[f"sleep {NEVER_S}"],
            starts=[[1]],
            sent=[0],
            dies_at="start",
        ),
    }
)
OTHERS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "lasts": Kind(
            ends=frozenset({"COMPLETE"}),
            lines=["sleep 25; echo a > /out/a"],
            starts=[[1]],
            sent=[1],
        ),
        "loses its directory": Kind(
            ends=frozenset({"SYSTEM_ERROR"}),
            lines=["sleep 20"],
            starts=[[1]],
            sent=[0],
        ),
    }
)
"""For tests of their own."""
ALL: Final[Mapping[str, Kind]] = MappingProxyType({**KINDS, **OTHERS})


@dataclass
class Case:
    """One task of a kind."""

    name: str
    kind: Kind
    id: str = ""
    known: threading.Event = field(default_factory=threading.Event)
    due: threading.Event = field(default_factory=threading.Event)
    """Set when it is time to cancel it."""

    def document(self, ledger: Ledger, address: str) -> Json:
        """Return the task; `address` is where the containers see the ledger."""
        name, port = self.name, ledger.port
        executors = []
        for number, line in enumerate(self.kind.lines):
            say = f"printf 'GET /start/{name}/{number} HTTP/1.0\\r\\n\\r\\n' >&3"
            begin = f"exec 3<>/dev/tcp/{address}/{port} && {say} && cat <&3 >/dev/null || exit 77"
            executors.append(
                {"image": IMAGE, "command": ["bash", "-c", f"{begin}\nexec 3>&-\n{line}"]}
            )
        return {
            "name": name,
            "executors": executors,
            "volumes": ["/out"],
            "inputs": [{"path": "/in/a", "url": ledger.url(f"/in/{name}")}],
            "outputs": [{"path": "/out/a", "url": ledger.url(f"/out/{name}")}],
        }

    def prepare(self, ledger: Ledger) -> None:
        """Have happen what is to happen to this one."""
        if self.kind.dies_at:
            path = {"in": f"/in/{self.name}", "start": f"/start/{self.name}/0"}[self.kind.dies_at]
            ledger.on(path, self._kill_runner)
        elif self.kind.cancel_at == "start":
            ledger.on(f"/start/{self.name}/0", self.due.set)
        else:
            self.due.set()

    def live(self, client: Client, ledger: Ledger, address: str) -> None:
        """Be its client."""
        self.id = client.post(self.document(ledger, address), self.name)
        self.known.set()
        if self.kind.cancel_at:
            assert self.due.wait(NEVER_S), f"{self.name} never began"
            client.cancel(self.id)

    def _kill_runner(self) -> None:
        assert self.known.wait(ID_S)
        for pid in runners(self.id):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def mistakes(self, found: Json, ledger: Ledger) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with its end: the column of the table, and a sentence."""
        starts, sent = ledger.starts(self.name), ledger.sent(self.name)
        attempts, lines = len(found.get("logs") or ()), _log(found)
        what = f"{self.name} ({self.id}) is {found['state']} after {attempts} attempts, "
        what += f"started {starts}, output sent {sent} times: {lines}"
        if any(n > 1 for n in starts) or sent > 1:
            yield "doubled", what
        elif found["state"] not in ENDS:
            yield "stuck", what
        elif (
            found["state"] not in self.kind.ends
            or starts not in self.kind.starts
            or sent not in self.kind.sent
            or attempts not in self.kind.attempts
        ):
            yield "lost", what


def _log(task: Json) -> str:
    lines = [line for log in task.get("logs") or () for line in log.get("system_logs") or ()]
    return " / ".join(lines)


def runners(task_id: str) -> list[int]:
    """Return the pids of the task's runners, not those of their watchdogs."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            own = entry.name.isdigit() and f"tes-{task_id}-" in os.readlink(entry / "cwd")
            if own and b"run.pyz" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


class Batch:
    """Some tasks of different kinds, and the clients who look after them."""

    def __init__(self, prefix: str, kinds: Sequence[str], ledger: Ledger, address: str) -> None:
        self.prefix = prefix
        self.cases = [Case(f"{prefix}-{n}", ALL[kind]) for n, kind in enumerate(kinds)]
        self._ledger, self._address = ledger, address
        self._clients: list[Future[None]] = []

    def begin(self, client: Client, pool: ThreadPoolExecutor) -> None:
        for case in self.cases:
            case.prepare(self._ledger)
        self._clients = [
            pool.submit(case.live, client, self._ledger, self._address) for case in self.cases
        ]

    @property
    def ids(self) -> list[str]:
        return [case.id for case in self.cases if case.id]

    def said(self) -> bool:
        """Whether the clients have said all that they had to say."""
        return all(one.done() for one in self._clients)

    def ended(self, client: Client) -> bool:
        if not self.said():
            return False
        states = client.states(f"{self.prefix}-")
        return all(states.get(case.id) in ENDS for case in self.cases)

    def judge(self, client: Client, row: Row) -> None:
        """Count what came of it."""
        for future in self._clients:
            future.result()
        row.tasks += len(self.cases)
        kept = client.states(f"{self.prefix}-")
        row.doubled += [f"{one}: no client knows it" for one in kept.keys() - set(self.ids)]
        for case in self.cases:
            for column, what in case.mistakes(client.get(case.id), self._ledger):
                getattr(row, column).append(what)
