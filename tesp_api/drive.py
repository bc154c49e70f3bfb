"""What is remembered of a task between two steps."""

from dataclasses import dataclass
from typing import Final

from tesp_api.domain.task import JobId, Task, TaskId
from tesp_api.domain.tes import State
from tesp_api.ports import Phase, Sighting

BLINK_SHARE: Final = 0.25
"""A job that was seen waiting, and was lost with all its files within this share of the time it had
waited so far, has not run: looks are that near together unless nobody could look."""


@dataclass(slots=True, kw_only=True)
class Drive:
    """What is remembered of a task between two steps. All of it can be lost: it only saves calls.

    Moments are the clock's monotonic seconds.
    """

    task_id: TaskId
    state: State | None = None
    subject: JobId | None = None
    """The job that all that follows is about."""
    since: float = 0.0
    """When this driver first saw the task in `state` with this job."""
    doubt: bool = True
    """Whether a call of unknown outcome, or an unknown past, lies behind."""
    job: JobId | None = None
    """The job to look at without asking the store, while Pulsar says the same of it as `phase`."""
    seen: Sighting | None = None
    """A look that no step has acted on yet."""
    phase: Phase | None = None
    phase_since: float = 0.0
    waiting: tuple[float, float] | None = None
    """When the job was first and last seen waiting at Pulsar."""
    never_ran: bool = False
    """Whether Pulsar lost it so soon after it was seen waiting that it cannot have run."""
    files_lost: bool = False
    """Whether what the runner had left was removed under it: no journal proves nothing."""
    pulse: str | None = None
    pulse_since: float | None = None
    pulse_checked: float = 0.0
    killed_at: float | None = None
    why: str | None = None
    """What the job died of, as first seen: after our own kill Pulsar tells only of that."""
    reaping: JobId | None = None
    failures: int = 0
    troubled_since: float | None = None
    noted: bool = False
    busy: bool = False
    again: bool = False

    def entered(self, task: Task, now: float) -> None:
        """Remember state and job and since when; nothing known of one job holds for the next."""
        subject = task.job.id if task.job else None
        if subject != self.subject:
            self.subject, self.state = subject, None
            self.job = self.seen = self.phase = self.pulse = self.pulse_since = None
            self.killed_at = self.why = self.reaping = None
            self.waiting, self.never_ran, self.files_lost = None, False, False
        if task.state is not self.state:
            self.state, self.since = task.state, now

    def saw(self, phase: Phase, now: float) -> None:
        """Remember what Pulsar says and since when."""
        if phase is Phase.WAITING:
            self.waiting = (self.waiting or (now, now))[0], now
        elif phase is Phase.UNKNOWN and phase is not self.phase and self.killed_at is None:
            first, last = self.waiting or (now, now)
            self.never_ran = now - last < BLINK_SHARE * (last - first)
        if phase is not self.phase:
            self.phase, self.phase_since = phase, now
