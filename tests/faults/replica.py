"""The server under test from outside: begun at a plan, seen dying, begun again."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.e2e.stack import Api, Json
from tests.faults.points import Plan
from tests.pulsars import until

UP_S: Final = 30.0
ANSWER_S: Final = 120.0
STOP_S: Final = 15.0


class Nursery:
    """The process that forks servers; see `tests.faults.server`."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.server"],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
            )

    def begin(self, order: Mapping[str, Any]) -> int:
        """Have a server begun; return its pid."""
        into, out = self._process.stdin, self._process.stdout
        assert into is not None
        assert out is not None
        into.write(json.dumps(order).encode() + b"\n")
        into.flush()
        return int(out.readline())

    def close(self) -> None:
        self._process.communicate()


@contextmanager
def nursery(log: Path) -> Iterator[Nursery]:
    made = Nursery(log)
    try:
        yield made
    finally:
        made.close()


class Replica(Api):
    """A server that may die at any moment; whoever talks to it asks again."""

    def __init__(
        self, nursery: Nursery, directory: Path, environ: Mapping[str, str], *, wrong_s: float = 0.0
    ) -> None:
        super().__init__(directory, environ)
        self.book = directory / "points"
        self._nursery = nursery
        self._wrong_s = wrong_s
        self._pid = 0
        self._end: int | None = None

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def environ(self) -> Mapping[str, str]:
        """Its settings."""
        return self._environ

    def start(self, plan: Plan | None = None) -> None:
        """Begin it; it may be dead before it is up."""
        self._let_go()
        order = {
            "environ": {name: text for name, text in self._environ.items()},
            "log": str(self.log),
            "book": str(self.book),
            "plan": json.loads((plan or Plan()).text()),
            "wrong_s": self._wrong_s,
        }
        self._pid = self._nursery.begin(order)
        with contextlib.suppress(ProcessLookupError):
            self._end = os.pidfd_open(self._pid)

    def wait_until_up(self) -> None:
        until(self._is_up, UP_S, lambda: f"the API does not come up:\n{self.tail()}")

    @property
    def dead(self) -> bool:
        return self.ends_within(0)

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end; return whether it came."""
        if self._end is None:
            return True
        return bool(select.select([self._end], [], [], seconds)[0])

    def signal(self, number: int) -> None:
        if self._end is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._end, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.ends_within(STOP_S)

    def terminate(self) -> tuple[int, float]:
        begun = time.monotonic()
        self.signal(signal.SIGTERM)
        assert self.ends_within(60)
        return 0, time.monotonic() - begun

    def stop(self) -> None:
        self._http.close()
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        if not self.ends_within(STOP_S):
            self.kill()
        self._let_go()

    def passed(self) -> list[str]:
        """Return the points that were ever passed, in the order of their first passing."""
        return self.noted("passed")

    def died(self) -> list[str]:
        """Return the points at which it died, each time."""
        return self.noted("die", every=True)

    def noted(self, what: str, *, every: bool = False) -> list[str]:
        """Return the points at which that was noted."""
        lines = self.book.read_text().splitlines() if self.book.exists() else []
        points = [line.partition("\t")[2] for line in lines if line.startswith(f"{what}\t")]
        return points if every else list(dict.fromkeys(points))

    def _is_up(self) -> bool:
        assert not self.dead, self.tail()
        with contextlib.suppress(httpx.TransportError):
            return self._http.get("/service-info").status_code == 200
        return False

    def _let_go(self) -> None:
        if self._end is not None:
            os.close(self._end)
            self._end = None


class NoAnswer(Exception):
    """None of the servers answered."""


class Client:
    """Somebody who does not give up: whatever happens to the servers, each word is said once.

    `replicas` are asked in turn, the next one where one does not answer. Raises NoAnswer where all
    are silent for too long.
    """

    def __init__(self, *replicas: Api, patience_s: float = ANSWER_S) -> None:
        self._patience_s = patience_s
        self._bases = [f"{one.base}/ga4gh/tes/v1" for one in replicas]
        self._http = httpx.Client(timeout=5, trust_env=False, limits=httpx.Limits())

    def post(self, task: Json, key: str) -> str:
        answer = self._ask("POST", "/tasks", json=task, headers={"Idempotency-Key": key})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def cancel(self, task_id: str) -> None:
        answer = self._ask("POST", f"/tasks/{task_id}:cancel")
        assert answer.status_code == 200, answer.text

    def get(self, task_id: str) -> Json:
        return self._json(f"/tasks/{task_id}", view="FULL")

    def states(self, prefix: str) -> dict[str, str]:
        """Return the state of each task whose name begins so, by id; all pages."""
        found: dict[str, str] = {}
        token = ""
        while True:
            page = self._json(
                "/tasks",
                name_prefix=prefix,
                page_size="500",
                **{"page_token": token} if token else {},
            )
            found |= {task["id"]: task["state"] for task in page["tasks"]}
            token = page.get("next_page_token") or ""
            if not token:
                return found

    def close(self) -> None:
        self._http.close()

    def _json(self, path: str, **query: str) -> Json:
        answer = self._ask("GET", path, params=query)
        assert answer.status_code == 200, answer.text
        document: Json = answer.json()
        return document

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        end = time.monotonic() + self._patience_s
        bases = list(self._bases)
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = self._http.request(method, bases[0] + path, **more)
                if answer.status_code < 500:
                    return answer
            bases.append(bases.pop(0))
            if time.monotonic() > end:
                raise NoAnswer(f"to {method} {path} for {self._patience_s} s")
            time.sleep(0.03)
