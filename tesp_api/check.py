"""`tesp-api check`: try everything the settings name, and say what is wrong and how to mend it."""

import asyncio
import secrets
from typing import Final

from tesp_api.adapters import make_runner, make_store
from tesp_api.clock import SystemClock
from tesp_api.domain import plan
from tesp_api.domain.errors import Misconfigured, Unreachable
from tesp_api.domain.report import Verdict, unframe
from tesp_api.domain.task import JobId, Task
from tesp_api.domain.tes import Executor, State, TaskRequest
from tesp_api.ports import JobRunner, Phase, Sighting, TaskStore
from tesp_api.settings import Settings
from tesp_api.tesp_api import make_site, new_task_id

PATIENCE_S: Final = 90.0
POLL_S: Final = 0.2
OVER: Final = frozenset({Phase.ENDED, Phase.FAILED, Phase.KILLED})


async def neighbours(settings: Settings, image: str) -> bool:
    """Print a line for store, Pulsar and engine each; return whether all of them work.

    The engine is tried where it will have to work: by a job that runs `true` in `image`.
    """
    store = make_store(settings)
    try:
        well = await _store(store)
        if settings.pulsar.amqp_url is not None and not well:
            print("Pulsar   was not tried: what a message broker brings is kept in the store.")
            return False
        return await _beyond(settings, make_runner(settings, store), image) and well
    finally:
        await store.close()


async def _beyond(settings: Settings, runner: JobRunner, image: str) -> bool:
    try:
        return await _pulsar(runner) and await _engine(settings, runner, image)
    finally:
        await runner.close()


async def _store(store: TaskStore) -> bool:
    try:
        await store.open()
    except (Misconfigured, Unreachable) as error:
        print(f"store    {error} Look at db.mongodb_uri or db.sqlite_path.")
        return False
    print("store    answers")
    return True


async def _pulsar(runner: JobRunner) -> bool:
    try:
        version = await runner.ping()
    except Unreachable as error:
        keys = "pulsar.url and pulsar.private_token, or pulsar.amqp_url and pulsar.manager"
        print(f"Pulsar   {error} Look at {keys}; does Pulsar run?")
        return False
    print(f"Pulsar   {runner.name} answers, version {version}")
    return True


async def _engine(settings: Settings, runner: JobRunner, image: str) -> bool:
    job = JobId(f"tes-check-{secrets.token_hex(8)}")
    kind = settings.container.type
    try:
        await runner.start(job, _order(settings, job, image), again=False)
        why_not = _why_not(await _end(runner, job), job)
        await _remove(runner, job)
    except Unreachable as error:
        why_not = str(error)
    except TimeoutError:
        await _remove(runner, job)
        why_not = f"no end within {PATIENCE_S:.0f} s."
    if why_not is not None:
        print(f"engine   {kind} does not run {image} at Pulsar: {why_not}")
        print(
            "         Look at container.type, and try the engine as Pulsar's user on its machine."
        )
        return False
    print(f"engine   {kind} ran {image} at Pulsar")
    return True


def _order(settings: Settings, job: JobId, image: str) -> plan.Order:
    request = TaskRequest(executors=(Executor(image=image, command=("true",)),))
    at = SystemClock().now()
    task = Task(id=new_task_id(), request=request, state=State.QUEUED, created_at=at)
    return plan.run_order(task, job, make_site(settings), (), ())


async def _end(runner: JobRunner, job: JobId) -> Sighting:
    async with asyncio.timeout(PATIENCE_S):
        while (seen := await runner.look(job)).phase not in OVER:  # noqa: ASYNC110 - Pulsar tells nothing by itself
            await asyncio.sleep(POLL_S)
        return seen


def _why_not(seen: Sighting, job: JobId) -> str | None:
    report = unframe(seen.output, job)
    if report is None:
        return seen.complaint or f"the job ended without a report, exit status {seen.exit_code}."
    if report.outcome is Verdict.COMPLETE:
        return None
    return report.reason or "the runner gave no reason."


async def _remove(runner: JobRunner, job: JobId) -> None:
    if (await runner.look(job)).phase not in OVER:
        await runner.kill(job)
    await runner.forget(job)
