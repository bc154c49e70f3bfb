"""Pulsar's messages, as Pulsar 0.16.0 really sends them, and a parcel that really runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tesp_api.domain.report import unframe
from tesp_api.domain.task import JobId
from tesp_api.ports import Phase
from tesp_api.pulsar.wire import PARCEL, Parcels, command, sighting, submission
from tests.unit.fakes import frame

JOB = JobId("tes-a-0")
ENDED: dict[str, Any] = {
    "job_id": JOB,
    "complete": "true",
    "status": "complete",
    "returncode": 3,
    "stdout": "",
    "stderr": "",
    "job_stdout": "",
    "job_stderr": "",
    "working_directory_contents": [],
    "pulsar_version": "0.16.0",
}
VERSIONS = tuple(f"python3.{minor}" for minor in range(8, 15))


def interpreters() -> list[str]:
    """Return this Python and all others in the PATH that can start."""
    found = [path for name in VERSIONS if (path := shutil.which(name))]
    works = [
        path
        for path in found
        if subprocess.run([path, "-IS", "-c", ""], capture_output=True, check=False).returncode == 0
    ]
    return [sys.executable, *works]


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("preprocessing", Phase.SET_UP),
        ("queued", Phase.WAITING),
        ("running", Phase.RUNNING),
        ("postprocessing", Phase.RUNNING),
        ("something new", Phase.RUNNING),
    ],
)
def test_a_job_under_way_has_a_phase_and_no_output(status: str, phase: Phase) -> None:
    seen = sighting({"complete": "false", "status": status, "job_id": JOB})
    assert (seen.phase, seen.output, seen.exit_code) == (phase, "", None)


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("complete", Phase.ENDED),
        ("failed", Phase.FAILED),
        ("cancelled", Phase.KILLED),
        ("lost", Phase.UNKNOWN),
    ],
)
def test_an_end_is_told_by_the_status(status: str, phase: Phase) -> None:
    assert sighting({**ENDED, "status": status}).phase is phase


def test_the_end_brings_output_complaint_and_exit_code() -> None:
    seen = sighting({**ENDED, "job_stdout": frame(JOB), "stderr": " Traceback: oh\n"})
    assert unframe(seen.output, JOB) is not None
    assert seen.complaint == "Traceback: oh"
    assert seen.exit_code == 3
    assert sighting({**ENDED, "job_stderr": "from bash\n"}).complaint == "from bash"


@pytest.mark.parametrize("code", [None, -9, 0])
def test_a_cancelled_job_may_have_any_exit_code(code: int | None) -> None:
    assert sighting({**ENDED, "status": "cancelled", "returncode": code}).exit_code == code


def test_an_unknown_job_is_told_with_nulls_and_empty_lists() -> None:
    nulls = {name: None for name in ENDED if name not in ("job_id", "complete", "status")}
    seen = sighting({**ENDED, **nulls, "status": "lost"})
    assert (seen.phase, seen.output, seen.complaint) == (Phase.UNKNOWN, "", "")


@pytest.mark.parametrize("document", [{}, {"status": None}, {"status": 7, "complete": True}])
def test_what_says_nothing_says_that_it_has_not_ended(document: dict[str, Any]) -> None:
    assert sighting(document).phase is Phase.RUNNING


def test_a_submission_sets_up_the_job_and_holds_nothing_of_the_task() -> None:
    line = command(PARCEL, "metadata")
    query = submission(JOB, line)
    assert json.loads(query["setup_params"]) == {"job_id": JOB}
    assert query["command_line"] == line
    assert "#" not in line, "what comes after it in Pulsar's script would be lost"


@pytest.mark.parametrize(("directory", "small"), [("metadata", False), ("inputs", True)])
@pytest.mark.parametrize("python", interpreters())
def test_a_parcel_runs_on_any_python_of_a_node_and_tells_of_its_job(
    python: str, directory: str, tmp_path: Path, *, small: bool
) -> None:
    for name in ("inputs", "outputs", "working", "metadata"):
        (tmp_path / name).mkdir()
    order = {"version": 1, "mode": "unheard of", "task": "a", "job": JOB, "ü": "\u2028\ud800"}
    parcel = tmp_path / directory / PARCEL
    parcel.write_bytes(Parcels(small=small).pack(order))
    line = command(PARCEL, directory).replace("python3", python, 1)
    ran = subprocess.run(
        ["bash", "-c", line],
        cwd=tmp_path / "working",
        env={"PATH": "/usr/bin:/bin", "LC_CTYPE": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaint = (tmp_path / "metadata" / "tool_stderr").read_text()
    report = unframe(ran.stdout, JOB)
    assert report is not None, (ran, complaint)
    assert report.reason is not None
    assert report.reason.startswith("the order cannot be carried out")
    assert not parcel.exists(), "it may hold credentials"
    assert unframe((tmp_path / "outputs" / "tes_report").read_text(), JOB) == report
    assert complaint == ""
