"""Leave is asked right before each request to Pulsar, and without it nothing goes out."""

import pytest

from tesp_api.domain.errors import LeaseLapsed, RunnerUnreachable
from tesp_api.domain.task import JobId
from tesp_api.pulsar.rest import RestRunner
from tests.faults.ledger import ledger

JOB = JobId("tes-a-0")


def lapsed() -> None:
    raise LeaseLapsed("too late")


@pytest.mark.parametrize("call", ["look", "kill", "settle", "forget", "start"])
async def test_without_leave_nothing_reaches_pulsar(call: str) -> None:
    with ledger() as pulsar:
        runner = RestRunner(pulsar.url(""), permit=lapsed)
        more = [{}] if call == "start" else []
        with pytest.raises(LeaseLapsed):
            await getattr(runner, call)(JOB, *more)
        assert not pulsar.counts
        await runner.close()


async def test_leave_is_asked_for_each_request_anew() -> None:
    asked: list[int] = []
    with ledger() as pulsar:
        runner = RestRunner(pulsar.url(""), permit=lambda: asked.append(pulsar.counts.total()))
        for _ in range(3):
            with pytest.raises(RunnerUnreachable):  # the ledger gives no status
                await runner.look(JOB)
        assert asked == [0, 1, 2], "before each one, not at the beginning"
        await runner.close()
