"""Kinds of tasks, what is done to each while it is under way, and what must come of it."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.e2e.stack import ENDS, IMAGE, Json
from tests.faults.ledger import Ledger
from tests.faults.parcels import WRITE, Parcel, large
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
    """`in`, `start` or `part`: the runner is killed when that request of the task arrives."""
    cancel_at: str = ""
    """`post`, `start` or `part`: when the client cancels."""
    parcel: Parcel | None = None
    """What goes to S3, if anything: then nothing goes to the ledger itself."""


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
SENDING: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "sends": Kind(
            ends=frozenset({"COMPLETE"}),
            lines=[WRITE],
            starts=[[1]],
            sent=[0],
            parcel=Parcel(),
        ),
        "fails and sends": Kind(
            ends=frozenset({"EXECUTOR_ERROR"}),
            lines=[f"{WRITE}exit 3"],
            starts=[[1]],
            sent=[0],
            parcel=Parcel(),
        ),
        "cancelled while sending": Kind(
            ends=frozenset({"CANCELED"}),
            lines=[WRITE],
            starts=[[1]],
            sent=[0],
            cancel_at="part",
            parcel=Parcel(),
        ),
        "sender dies": Kind(
            ends=frozenset({"COMPLETE"}),
            lines=[WRITE],
            starts=[[1]],
            sent=[0],
            dies_at="part",
            parcel=Parcel(),
        ),
        "signature ends": Kind(
            ends=frozenset({"COMPLETE"}),
            lines=[WRITE],
            starts=[[1]],
            sent=[0],
            parcel=Parcel(expires=True),
        ),
        "answers lost": Kind(
            ends=frozenset({"COMPLETE"}),
            lines=[WRITE],
            starts=[[1]],
            sent=[0],
            parcel=Parcel(lost=("begin", "part 1", "complete")),
        ),
    }
)
"""What only the end can name goes to S3."""
TWO_PARTS: Final = "sends two parts"
LARGE: Final[Mapping[str, Kind]] = MappingProxyType(
    {TWO_PARTS: replace(SENDING["sends"], parcel=Parcel(large_bytes=65 * 2**20))}
)
ALL: Final[Mapping[str, Kind]] = MappingProxyType({**KINDS, **OTHERS, **SENDING, **LARGE})


@dataclass
class Case:
    """One task of a kind."""

    name: str
    kind: Kind
    id: str = ""
    known: threading.Event = field(default_factory=threading.Event)
    due: threading.Event = field(default_factory=threading.Event)
    """Set when it is time to cancel it."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    killed: threading.Event = field(default_factory=threading.Event)

    def document(self, ledger: Ledger, address: str) -> Json:
        """Return the task; `address` is where the containers see the ledger."""
        return {
            "name": self.name,
            "executors": [self._executor(n, ledger, address) for n in range(len(self.kind.lines))],
            "volumes": ["/out"],
            "inputs": [{"path": "/in/a", "url": ledger.url(f"/in/{self.name}")}],
            "outputs": self._outputs(ledger),
        }

    def _executor(self, number: int, ledger: Ledger, address: str) -> Json:
        say = f"printf 'GET /start/{self.name}/{number} HTTP/1.0\\r\\n\\r\\n' >&3"
        line = f"exec 3<>/dev/tcp/{address}/{ledger.port} && {say} && cat <&3 >/dev/null || exit 77"
        command = ["bash", "-c", f"{line}\nexec 3>&-\n{self.kind.lines[number]}"]
        parcel = self.kind.parcel
        more = {"env": parcel.environ(self.name)} if parcel else {}
        return {"image": IMAGE, "command": command, **more}

    def _outputs(self, ledger: Ledger) -> list[Json]:
        if self.kind.parcel is None:
            return [{"path": "/out/a", "url": ledger.url(f"/out/{self.name}")}]
        assert ledger.bucket is not None, "its outputs go to S3"
        return self.kind.parcel.outputs(ledger.bucket, self.name)

    def prepare(self, ledger: Ledger) -> None:
        """Have happen what is to happen to this one."""
        if self.kind.dies_at:
            self._on(self.kind.dies_at, ledger, self._kill_runner)
        elif self.kind.cancel_at in {"start", "part"}:
            self._on(self.kind.cancel_at, ledger, self._have_it_cancelled)
        else:
            self.due.set()
        if ledger.bucket is not None and self.kind.parcel is not None:
            self.kind.parcel.prepare(ledger.bucket, self.name)

    def _on(self, moment: str, ledger: Ledger, act: Callable[[], None]) -> None:
        if moment == "part":
            assert ledger.bucket is not None, "its outputs go to S3"
            ledger.bucket.on_part(large(self.name), act)
        else:
            ledger.on({"in": f"/in/{self.name}", "start": f"/start/{self.name}/0"}[moment], act)

    def _have_it_cancelled(self) -> None:
        """Say that it is time; a part is not answered before the client has been."""
        self.due.set()
        if self.kind.cancel_at == "part":
            assert self.cancelled.wait(NEVER_S), f"{self.name} was not cancelled"

    def live(self, client: Client, ledger: Ledger, address: str) -> None:
        """Be its client."""
        self.id = client.post(self.document(ledger, address), self.name)
        if ledger.bucket is not None:
            ledger.bucket.owns(self.id, [large(self.name)])
        self.known.set()
        if self.kind.cancel_at:
            assert self.due.wait(NEVER_S), f"{self.name} never began"
            client.cancel(self.id)
            self.cancelled.set()

    def _kill_runner(self) -> None:
        if self.killed.is_set():
            return
        self.killed.set()
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
        elif self.kind.parcel is not None and ledger.bucket is not None:
            yield from self.kind.parcel.mistakes(self.name, found, ledger.bucket)


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
