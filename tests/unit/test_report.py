"""The runner's framed line: read whole, or not at all, whatever stands there."""

import base64
import json
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesp_api.domain.report import MARK, MAX_JSON_BYTES, Verdict, unframe
from tests.unit.fakes import frame

JOB = "tes-a-0"
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
FIELDS = ("job", "outcome", "reason", "executors", "outputs", "log", "metadata")


def packed(plain: bytes) -> str:
    return MARK + base64.b64encode(zlib.compress(plain)).decode()


def test_a_whole_report_is_read() -> None:
    executors = [{"exit_code": 3, "stdout": "o", "start_time": "2026-11-22T12:00:00Z"}]
    outputs = [{"url": "u", "path": "p", "size_bytes": 2**53}]
    line = frame(
        JOB, "executor_error", executors=executors, outputs=outputs, log=["l"], reason="so"
    )
    report = unframe(f"noise\n{line}", JOB)
    assert report is not None
    assert report.outcome is Verdict.EXECUTOR_ERROR
    told = report.told()
    assert told.executors[0].exit_code == 3
    assert told.outputs[0].size_bytes == str(2**53)
    assert told.log == ("l", "so")


def test_a_reason_of_the_systems_is_left_to_the_event() -> None:
    report = unframe(frame(JOB, "system_error", reason="disk full", log=["l"]), JOB)
    assert report is not None
    assert report.told().log == ("l",)


@pytest.mark.parametrize("text", ["", "TESREPORT1", MARK, MARK + "!!!", MARK + "AAAA", "nothing"])
def test_no_report_is_none(text: str) -> None:
    assert unframe(text, JOB) is None


@given(st.integers(min_value=1, max_value=60))
def test_a_cut_report_is_none(cut: int) -> None:
    line = frame(JOB, log=["some words of a log"]).strip()
    assert unframe(line[:-cut], JOB) is None


def test_a_report_of_another_job_is_none() -> None:
    assert unframe(frame("tes-a-1"), JOB) is None


def test_the_last_report_counts() -> None:
    report = unframe(frame(JOB, "system_error") + frame(JOB, "complete"), JOB)
    assert report is not None
    assert report.outcome is Verdict.COMPLETE


def test_a_bomb_is_neither_unpacked_nor_believed() -> None:
    bomb = packed(
        json.dumps({"job": JOB, "outcome": "complete"}).encode() + b" " * 2 * MAX_JSON_BYTES
    )
    tracemalloc.start()
    try:
        assert unframe(bomb, JOB) is None
        assert tracemalloc.get_traced_memory()[1] < 3 * MAX_JSON_BYTES
    finally:
        tracemalloc.stop()


def test_nesting_beyond_all_measure_is_none() -> None:
    assert unframe(packed(b"[" * 1_000_000), JOB) is None


@given(st.text() | st.text().map(MARK.__add__))
def test_no_text_raises(text: str) -> None:
    assert unframe(text, JOB) is None


@given(st.binary())
def test_no_bytes_raise(content: bytes) -> None:
    assert unframe(packed(content), JOB) is None
    assert unframe(MARK + base64.b64encode(content).decode(), JOB) is None


@given(st.dictionaries(st.sampled_from(FIELDS), ANYTHING))
def test_no_document_raises(document: dict[str, Any]) -> None:
    plain = json.dumps({"job": JOB, "outcome": "complete", **document}).encode()
    report = unframe(packed(plain), JOB)
    assert report is None or report.job == JOB
