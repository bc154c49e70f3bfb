"""The use cases: create, get, list, cancel.

Nothing here knows HTTP, a database or Pulsar. A task exists once the store says so; the dispatcher
is only told that it has something to look at, and would find it without being told.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

from loguru import logger

from tesp_api.admission import Admission
from tesp_api.domain.errors import (
    KeyTaken,
    NoSuchTask,
    Overloaded,
    Stale,
    StoreUnreachable,
    TooManyTasks,
)
from tesp_api.domain.lifecycle import CancelAsked, Withdrawn, advance
from tesp_api.domain.parsing import parse
from tesp_api.domain.rules import Policy, storable, unsupported
from tesp_api.domain.task import Task, TaskId
from tesp_api.domain.tes import State, View
from tesp_api.ports import Clock, Page, Query, TaskStore

HOLD_S: Final = 7.0
"""How long a request is held while the store does not answer; some clients give up after 10 s."""
RETRY_S: Final = 0.25
CANCEL_TRIES: Final = 20
KEYED_ID_LENGTH: Final = 24
CANCELABLE: Final = frozenset({State.QUEUED, State.INITIALIZING, State.RUNNING})

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who asks. `owner` is kept with what they create; `sees_all` shows them everybody's tasks."""

    owner: str | None
    sees_all: bool = False

    def __post_init__(self) -> None:
        assert self.sees_all or self.owner is not None, "nobody in particular is no limit"

    @property
    def scope(self) -> str | None:
        """The owner to whose tasks the store's answers are to be limited, or None for no limit."""
        return None if self.sees_all else self.owner


class Dispatch(Protocol):
    """What the service tells the dispatcher. Neither call waits nor fails."""

    def new_task(self) -> None:
        """A task was queued."""

    def changed(self, task_id: TaskId) -> None:
        """A client changed this task."""


class Service:
    """The use cases over the ports.

    Every call waits for a store that does not answer, up to `hold_s`, and raises StoreUnreachable
    then.
    """

    def __init__(
        self,
        *,
        store: TaskStore,
        dispatch: Dispatch,
        clock: Clock,
        policy: Policy,
        new_id: Callable[[], TaskId],
        admission: Admission | None = None,
        hold_s: float = HOLD_S,
    ) -> None:
        self._store = store
        self._dispatch = dispatch
        self._clock = clock
        self._policy = policy
        self._new_id = new_id
        self._admission = admission
        self._hold_s = hold_s

    async def create(self, principal: Principal, body: bytes, key: str | None = None) -> TaskId:
        """Keep the task in `body` and return its id once it is durable.

        The same `key` of the same owner makes one task, however often it comes, as long as the task
        is kept. Raises InvalidRequest; KeyTaken where the key came with another body; Overloaded
        and TooManyTasks, but not for a key whose task is kept.
        """
        until = self._deadline()
        request = parse(body, self._policy, principal.owner)
        unknown = unsupported(request.resources, self._policy)
        task = Task(
            id=self._new_id() if key is None else _id_of(principal, key),
            request=storable(request, self._policy),
            state=State.QUEUED,
            created_at=self._clock.now(),
            owner=principal.owner,
            fingerprint=None if key is None else hashlib.sha256(body).hexdigest(),
            warnings=tuple(f"The backend parameter {key!r} is not supported." for key in unknown),
        )
        with await self._place(task, until):
            await self._persistently(lambda: self._keep(task), until)
        self._dispatch.new_task()
        return task.id

    async def get(self, principal: Principal, task_id: TaskId, view: View) -> bytes:
        """Return the task as JSON. Raises NoSuchTask."""
        document = await self._patiently(
            lambda: self._store.document(task_id, view, principal.scope)
        )
        if document is None:
            raise NoSuchTask(task_id)
        return document

    async def list(self, principal: Principal, query: Query) -> Page:
        """Return one page of the tasks that the principal may see and the query selects."""
        if query.states is not None and not query.states:
            return Page(documents=(), next_before=None)
        own = replace(query, owner=principal.scope)
        return await self._patiently(lambda: self._store.page(own))

    async def cancel(self, principal: Principal, task_id: TaskId) -> None:
        """Have the task ended, unless it has ended or is being ended. Raises NoSuchTask."""
        await self._persistently(lambda: self._cancel(principal, task_id), self._deadline())
        self._dispatch.changed(task_id)

    async def _place(self, task: Task, until: float) -> AbstractContextManager[None]:
        """Return a place for the task; one that is kept already under its key needs none."""
        if (admission := self._admission) is None:
            return nullcontext()
        try:
            return await self._persistently(lambda: admission.place(task.owner), until)
        except (Overloaded, TooManyTasks):
            if task.fingerprint is None:
                raise
            if await self._persistently(lambda: self._store.get(task.id), until) is None:
                raise
            return nullcontext()

    async def _keep(self, task: Task) -> None:
        """Keep the task, or find that it is kept. An add of unknown outcome is settled by this too:

        adding again changes nothing where it had taken place. Raises KeyTaken.
        """
        await self._store.add(task)
        if task.fingerprint is None:
            return
        kept = await self._store.get(task.id)
        if kept is None:
            raise StoreUnreachable(f"Task {task.id} was removed while it was added.")
        if kept.fingerprint != task.fingerprint:
            raise KeyTaken(task.id)

    async def _cancel(self, principal: Principal, task_id: TaskId) -> None:
        for _ in range(CANCEL_TRIES):
            task = await self._store.get(task_id)
            if task is None or principal.scope not in (None, task.owner):
                raise NoSuchTask(task_id)
            if task.state not in CANCELABLE:
                return
            try:
                await self._store.save(self._canceled(task))
            except Stale:
                continue
            logger.info("task canceled", task=task_id, state=task.state)
            return
        raise StoreUnreachable(f"Task {task_id} changes faster than it can be canceled.")

    def _canceled(self, task: Task) -> Task:
        at = self._clock.now()
        untouched = task.state is State.QUEUED and not task.jobs
        return advance(task, Withdrawn(at=at) if untouched else CancelAsked(at=at))

    def _deadline(self) -> float:
        return self._clock.monotonic() + self._hold_s

    async def _patiently(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Return what the read `call` returns, repeating it while the store is unreachable.

        The first call has no deadline of ours: a timer would cost more than the call, and the store
        has its own.
        """
        until = self._deadline()
        try:
            return await call()
        except StoreUnreachable:
            await self._clock.sleep(RETRY_S)
            return await self._persistently(call, until)

    async def _persistently(self, call: Callable[[], Awaitable[Answer]], until: float) -> Answer:
        """Return what `call` returns, repeating it while the store is unreachable, until then.

        No try is begun that would not be over in time if it took as long as the longest before:
        what is broken off may take place all the same, after the client was told to come again.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(until - self._clock.monotonic()):
                took_s = 0.0
                while (begun := self._clock.monotonic()) + took_s <= until:
                    with suppress(StoreUnreachable):
                        return await call()
                    await self._clock.sleep(RETRY_S)
                    took_s = max(took_s, self._clock.monotonic() - begun)
        raise StoreUnreachable(f"The store did not answer within {self._hold_s:g} s.")


def _id_of(principal: Principal, key: str) -> TaskId:
    """Return the one id that this key of this owner stands for: no table of keys has to be kept."""
    name = json.dumps([principal.owner, key]).encode()
    return TaskId(hashlib.sha256(name).hexdigest()[:KEYED_ID_LENGTH])
