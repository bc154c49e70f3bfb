"""Every error of ours, in one tree.

TespError
├── Refused            the client asked for what cannot be: a 4xx with a sentence
│   ├── InvalidRequest      400, with one sentence per mistake
│   ├── NoSuchTask          404
│   ├── KeyTaken            409, another request used this Idempotency-Key
│   ├── TooManyTasks        429, the owner has as many as may be: come again
│   └── Overloaded          503, the queue is full: come again
├── OutOfReach         a task's URL leads where this server cannot go: SYSTEM_ERROR
├── Unreachable        weather: the same step again later
│   ├── StoreUnreachable
│   ├── RunnerUnreachable
│   ├── StorageUnreachable
│   ├── LeaseLapsed         this process was asleep: it may touch nothing before it has looked
│   └── IssuerUnreachable   503, nobody can say who asks: come again
├── Stale              somebody else has changed the task meanwhile: read it again
├── SlotTaken          another process took this slot of the Pulsar: take another
├── IllegalTransition  no row of the table fits: a bug
└── Misconfigured      the operator's settings cannot be used: the start stops with this sentence
"""

from dataclasses import dataclass
from typing import ClassVar


class TespError(Exception):
    """Anything this package raises on purpose. The message is a sentence for a person."""


class Refused(TespError):
    """The client's request cannot be served as it is."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing wrong in a request:

    where (`executors[0].image`, empty for the whole) and what, as a sentence.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class InvalidRequest(Refused):
    """The request has mistakes; `mistakes` names all of them, at least one."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__(" ".join(map(str, mistakes)))
        self.mistakes = mistakes


class NoSuchTask(Refused):
    """There is no such task, or it is not the caller's."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"There is no task {task_id!r}.")


class KeyTaken(Refused):
    """The Idempotency-Key belongs to a task that was asked for in other words."""

    def __init__(self, task_id: str) -> None:
        super().__init__(f"This Idempotency-Key has made task {task_id} from another body.")


class TooManyTasks(Refused):
    """The owner has all the unfinished tasks one may have; when some have ended, come again."""


class Overloaded(Refused):
    """The server has all the work it may hold; the same request may be accepted later."""


class OutOfReach(TespError):
    """The URL is as it should be, but this server has no way there; trying again is of no use."""

    turn: ClassVar[str] = (
        "It is the user's turn to ask for something else, or the operator's to open it."
    )


class Unreachable(TespError):
    """The other side did not answer, or its answer says nothing:

    the outcome is unknown, ask again later. `turn` says who can do something about it.
    """

    turn: ClassVar[str] = "It is the operator's turn."


class StoreUnreachable(Unreachable):
    """The store did not answer; whether a write took place is unknown until it is read back."""


class RunnerUnreachable(Unreachable):
    """Pulsar did not answer, or answered without meaning; whether a call took effect is unknown."""

    turn: ClassVar[str] = "It is the Pulsar operator's turn."


class StorageUnreachable(Unreachable):
    """An object store did not answer, or not now; whether a call took effect is unknown."""

    turn: ClassVar[str] = "It is the turn of who keeps the data."


class LeaseLapsed(Unreachable):
    """This process could not say for too long that it lives; others may have its tasks by now."""


class IssuerUnreachable(Unreachable):
    """An issuer of tokens did not give its keys: whom its tokens name is unknown for now."""


class Stale(TespError):
    """The task was saved by somebody else since it was read: read it again and decide again."""


class SlotTaken(TespError):
    """Another process holds this slot of the Pulsar:

    ask the store which are taken and try another.
    """


class IllegalTransition(TespError):
    """An event that the state does not allow; nothing was changed."""


class Misconfigured(TespError):
    """The settings cannot be used; the message says which key and how to mend it."""
