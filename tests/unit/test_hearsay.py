"""The rule by which messages about a job make what is known of it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesp_api.domain.task import JobId
from tesp_api.ports import Phase, Sighting
from tesp_api.pulsar import hearsay
from tesp_api.pulsar.hearsay import FINAL, Heard, Update, merge, update_of

JOB = JobId("tes-a-0")
UPDATES = st.sampled_from(list(Phase)).map(
    lambda phase: Update(job=JOB, seen=Sighting(phase=phase))
)
ENDS = st.sampled_from(sorted(FINAL)).map(lambda phase: Update(job=JOB, seen=Sighting(phase=phase)))


def heard(*phases: Phase, begin: Heard | None = None) -> Heard:
    known = begin or Heard()
    for phase in phases:
        known = merge(known, Update(job=JOB, seen=Sighting(phase=phase)))
    return known


def message(**fields: Any) -> bytes:
    return json.dumps({"job_id": JOB, "status": "running", "complete": "false", **fields}).encode()


@given(st.lists(UPDATES), ENDS, st.lists(UPDATES))
def test_the_first_end_stays_whatever_comes_after(
    before: list[Update], end: Update, after: list[Update]
) -> None:
    known = Heard()
    for update in [*before, end]:
        known = merge(known, update)
    last = known
    for update in after:
        last = merge(last, update)
    assert last == known
    assert last.phase in FINAL


@given(st.lists(UPDATES))
def test_a_job_goes_back_only_where_it_is_lost(updates: list[Update]) -> None:
    known = Heard()
    order = [Phase.SET_UP, Phase.WAITING, Phase.RUNNING, *sorted(FINAL)]
    for update in updates:
        after = merge(known, update)
        if after.phase is not Phase.UNKNOWN and known.phase is not Phase.UNKNOWN and known.known:
            assert order.index(after.phase) >= order.index(known.phase)
        known = after


@given(st.lists(UPDATES), UPDATES)
def test_the_same_update_again_changes_no_phase(updates: list[Update], update: Update) -> None:
    once = Heard()
    for one in [*updates, update]:
        once = merge(once, one)
    assert merge(once, update).phase is once.phase


@given(st.lists(UPDATES))
def test_what_nobody_asks_for_stays_unknown(updates: list[Update]) -> None:
    known = hearsay.doomed(None)
    for update in updates:
        known = merge(known, update)
    assert known.sighting().phase is Phase.UNKNOWN


def test_lost_means_nothing_before_pulsar_knew_the_job_and_something_after() -> None:
    assert heard(Phase.UNKNOWN).phase is Phase.WAITING
    assert heard(Phase.UNKNOWN).lost
    assert heard(Phase.RUNNING, Phase.UNKNOWN).phase is Phase.UNKNOWN
    assert heard(Phase.RUNNING, Phase.UNKNOWN, Phase.RUNNING).phase is Phase.RUNNING


def test_lost_is_no_proof_behind_a_kill_until_the_name_is_seen_taken() -> None:
    vanished = heard(Phase.RUNNING, Phase.UNKNOWN)
    assert hearsay.needs_occupying(vanished)
    killed = hearsay.killed(vanished)
    assert heard(Phase.UNKNOWN, begin=killed).phase is Phase.WAITING
    assert heard(Phase.UNKNOWN, Phase.ENDED, begin=killed).phase is Phase.ENDED


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.RUNNING, *sorted(FINAL)])
def test_a_name_that_pulsar_knows_is_not_taken_again(phase: Phase) -> None:
    assert not hearsay.needs_occupying(heard(phase))


@pytest.mark.parametrize("known", [None, Heard(), heard(Phase.SET_UP), heard(Phase.UNKNOWN)])
def test_a_name_that_pulsar_may_not_know_is_taken(known: Heard | None) -> None:
    assert hearsay.needs_occupying(known)


def test_only_what_pulsar_denies_and_never_knew_can_be_missing() -> None:
    assert hearsay.vanished(heard(Phase.UNKNOWN)).phase is Phase.UNKNOWN
    assert hearsay.vanished(Heard()).phase is Phase.WAITING
    assert hearsay.vanished(heard(Phase.UNKNOWN, Phase.WAITING)).phase is Phase.WAITING


def test_a_lost_job_that_is_sent_again_waits() -> None:
    assert hearsay.sent(heard(Phase.RUNNING, Phase.UNKNOWN)).phase is Phase.WAITING
    assert hearsay.sent(heard(Phase.RUNNING)).phase is Phase.RUNNING


def test_lost_with_a_directory_is_a_restarted_pulsar_and_the_job_runs() -> None:
    lost = {"status": "lost", "complete": "true", "job_directory_contents": ["metadata"]}
    update = update_of(message(**lost))
    assert update is not None
    assert update.seen.phase is Phase.RUNNING
    gone = update_of(message(**{**lost, "job_directory_contents": []}))
    assert gone is not None
    assert gone.seen.phase is Phase.UNKNOWN


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 200_000,
        b"{}",
        message(status=None),
        message(status=7),
        message(job_id=None),
        message(job_id=""),
        message(job_id="a/../b"),
        message(job_id="a b"),
        message(job_id="x" * 300),
    ],
)
def test_what_is_no_update_is_none(body: bytes) -> None:
    assert update_of(body) is None


@given(st.binary() | st.text().map(str.encode))
def test_no_body_at_all_raises(body: bytes) -> None:
    update_of(body)


@given(
    st.dictionaries(
        st.sampled_from(
            ["complete", "returncode", "job_stdout", "stderr", "pulsar_version", "status"]
        ),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()),
    )
)
def test_an_update_of_any_fields_can_be_kept(fields: Mapping[str, Any]) -> None:
    update = update_of(message(**fields))
    if update is not None:
        known = merge(Heard(), update)
        assert hearsay.decode(hearsay.encode(known)) == known


def test_all_that_is_known_survives_being_kept() -> None:
    known = replace(
        heard(Phase.RUNNING), killed=True, output="ü\ud800", exit_code=-9, version="0.16.0"
    )
    assert hearsay.decode(hearsay.encode(known)) == known
