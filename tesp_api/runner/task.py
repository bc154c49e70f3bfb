"""One task from its inputs to its outputs."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from tesp_api.runner.engine import Call, Image
from tesp_api.runner.engines import ENGINES
from tesp_api.runner.inputs import Inputs
from tesp_api.runner.mounts import Mount, inexpressible, mounts
from tesp_api.runner.outputs import Outputs
from tesp_api.runner.patience import Outdated
from tesp_api.runner.report import VERSION, is_too_long, now
from tesp_api.runner.streams import Sink, Tail
from tesp_api.runner.tree import Tree, plant, uproot
from tesp_api.runner.trouble import (
    PROGRAM,
    USER,
    Trouble,
    disk_is_full,
    operators_turn,
    readable,
)

if TYPE_CHECKING:
    from typing import Any

    from tesp_api.runner.job_files import JobFiles
    from tesp_api.runner.order import Executor, Order
    from tesp_api.runner.watchdog import Watch


class Task:
    """One task from its inputs to its outputs; what is to be reported gathers here."""

    def __init__(self, order: Order, files: JobFiles, home: str, watch: Watch) -> None:
        self.order = order
        self.files = files
        self.home = home
        self.started_at = now()
        self.log: list[str] = []
        self.results: list[dict[str, Any]] = []
        self.metadata = {"host": os.uname().nodename, "engine": order.engine.kind}
        self.tree = Tree(f"{home}/root")
        self.inputs = Inputs(order, self.tree, self.log)
        self.outputs = Outputs(order, self.tree, self.log)
        self.engine = ENGINES[order.engine.kind](order, self.tree, self.log, watch.tell)
        self.watch = watch
        self.plan: list[Mount] = []
        self.keeps = False  # the tree holds what another job has to send
        self.turn: str | None = None  # who can do something about a failure

    def work(self) -> tuple[str, str | None]:
        """Do the task; return its outcome and the reason."""
        try:
            self._begin()
            failure = self._execute()
            return self._deliver(failure)
        except Outdated as error:
            return "stale", str(error)
        except Trouble as error:
            self.turn = error.turn()
            return "system_error", str(error)
        except OSError as error:
            self.turn = operators_turn()
            if disk_is_full(error):
                return "system_error", "the disk of the node is full"
            return "system_error", f"the node failed: {error}"

    def _begin(self) -> None:
        self.inputs.check()
        self.outputs.check()
        self.plan = mounts(self.order, self.tree.top)
        for mount in self.plan:
            said = inexpressible(self.order.engine.kind, mount.container)
            if said:
                raise Trouble(said)
        os.makedirs(self.tree.top)
        os.chmod(self.home, 0o700)  # root's setuid programs in it are for nobody else
        self.engine.prepare()
        plant(self.order, self.tree, self.plan)
        self.inputs.fetch()

    def _execute(self) -> str | None:
        """Run the executors up to the first that fails; return what is to be said of that one."""
        self.watch.ready()
        before: Image | None = None
        for index, executor in enumerate(self.order.executors):
            image = self.engine.image(executor.image)
            if before:
                self.engine.hand_over(before, image)
            before = image
            code = self._executor(index, executor, image)
            if code and not executor.ignore_error:
                return f"executor {index} ended with exit code {code}"
        return None

    def _executor(self, index: int, executor: Executor, image: Image) -> int:
        if image.digest:
            self.metadata[f"image_digest_{index}"] = image.digest
        streams = self._open_streams(executor)
        out, err = (Sink(Tail(self.order.tail_bytes), file) for file in streams[1:])
        self._journal("executor_start", index)
        start = now()
        try:
            code = self.engine.run(Call(index, executor, image, self.plan, streams[0], out, err))
        finally:
            for file in {file for file in streams if file is not None}:
                os.close(file)
        result = {"start_time": start, "end_time": now(), "exit_code": code}
        self.results.append({**result, "stdout": out.tail.text(), "stderr": err.tail.text()})
        self._journal("executor_end", index, exit_code=code)
        return code

    def _open_streams(self, executor: Executor) -> tuple[int | None, int | None, int | None]:
        """Open the files that the executor's streams are."""
        try:
            return self._opened(executor)
        except PermissionError:  # another user made the directory, in a container
            self.engine.reclaim()
        except OSError as error:
            raise _unopened(error) from error
        try:
            return self._opened(executor)
        except OSError as error:
            raise _unopened(error) from error

    def _opened(self, executor: Executor) -> tuple[int | None, int | None, int | None]:
        flags, named = os.O_WRONLY | os.O_CREAT | os.O_TRUNC, executor
        stdin = self.tree.open(named.stdin, os.O_RDONLY) if named.stdin else None
        out = self.tree.open(named.stdout, flags) if named.stdout else None
        if out is not None and named.stderr == named.stdout:
            return stdin, out, out
        return stdin, out, self.tree.open(named.stderr, flags) if named.stderr else None

    def _journal(self, event: str, index: int, **more: int) -> None:
        self.files.append(
            "tes_journal", json.dumps({"event": event, "index": index, **more, "at": now()}) + "\n"
        )

    def _deliver(self, failure: str | None) -> tuple[str, str | None]:
        """Send what is there; the program's failure stays what is reported."""
        self.engine.reclaim()
        self.outputs.send()
        troubles = [each for _, each in sorted(self.outputs.troubles.items())]
        refused = self.outputs.missing if self.order.missing == "error" else []
        said = [*(sentence for sentence, _ in troubles), *refused]
        if is_too_long([*self.outputs.left]):
            said.append(f"{len(self.outputs.left)} files are left to be sent: too many to be told")
        self.log += [line for line in self.outputs.missing if failure or line not in refused]
        if failure is None and said:
            self.turn = troubles[0][1] if troubles else USER
            self.log += said[1:]
            return "system_error", said[0]
        self.log += said if failure else []
        self.turn = PROGRAM if failure else None
        self.keeps = bool(self.outputs.left)
        return ("executor_error", failure) if failure else ("complete", None)

    def clean(self) -> None:
        """Leave nothing on the node but what another job has to send."""
        steps = [self.engine.close, self.engine.reclaim]
        for step in steps if self.keeps else [*steps, lambda: uproot(self.home)]:
            try:
                step()
            except (Trouble, OSError) as error:
                self.log.append(f"not all of the task could be removed from the node: {error}")

    def report(self, outcome: str, reason: str | None) -> dict[str, Any]:
        """Return what the server is to know."""
        return {
            "version": VERSION,
            "job": self.order.job,
            "outcome": outcome,
            "reason": reason,
            "turn": self.turn,
            "started_at": self.started_at,
            "ended_at": now(),
            "executors": self.results,
            "outputs": [one._asdict() for one in self.outputs.sent],
            "left": [list(one) for one in self.outputs.left] if self.keeps else [],
            "log": self.log,
            "metadata": self.metadata,
        }


def _unopened(error: OSError) -> Exception:
    if disk_is_full(error):
        return error
    return Trouble(f"stdin, stdout or stderr: {readable(str(error.filename))}: {error.strerror}")
