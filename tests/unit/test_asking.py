"""When Pulsar is asked for a silent job."""

from dataclasses import replace

from tesp_api.domain.task import JobId
from tesp_api.ports import Phase
from tesp_api.pulsar.asking import LONGEST_S, Watches, is_due
from tesp_api.pulsar.hearsay import Heard

JOB = JobId("tes-a-0")


def moments(watches: Watches, heard: Heard, until_s: int) -> list[int]:
    """Return at which seconds a message goes out."""
    return [now for now in range(until_s) if is_due(watches.of(JOB, heard, now), now)]


def test_a_silent_job_is_asked_for_more_and_more_seldom() -> None:
    assert moments(Watches(), Heard(), 1000) == [60, 180, 420, 900]


def test_it_is_asked_for_at_least_every_quarter_of_an_hour() -> None:
    asked = moments(Watches(), Heard(), 20_000)
    assert asked[-1] - asked[-2] == LONGEST_S


def test_a_kill_is_repeated_soon() -> None:
    assert moments(Watches(), replace(Heard(), killed=True), 20) == [1, 3, 7, 15]


def test_news_begin_the_silence_anew() -> None:
    watches = Watches()
    moments(watches, Heard(), 100)
    running = Heard(phase=Phase.RUNNING, known=True, said=1)
    assert not is_due(watches.of(JOB, running, 100.0), 159.0)
    assert is_due(watches.of(JOB, running, 100.0), 160.0)


def test_a_question_without_an_answer_is_repeated_as_long_as_that_lasts() -> None:
    watches = Watches()
    watch = watches.of(JOB, Heard(), 0.0)
    for now in (60.0, 180.0):
        assert is_due(watch, now)
        watch.asked(now, 30.0)
    assert watch.asked_at == 60.0
    assert is_due(watch, 210.0)
    assert watches.of(JOB, Heard(said=1), 211.0).asked_at is None
