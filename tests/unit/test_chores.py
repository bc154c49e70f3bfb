"""Our small jobs at Pulsar, run as the node runs them."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tesp_api.domain.task import JobId
from tesp_api.pulsar import chores
from tests.pulsars import until

JOB = JobId("tes-a-0")


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    """A staging directory with one job that ended and the chore's own."""
    for name in ("tes-a-0/outputs", "tes-chore-1/inputs", "tes-chore-1/working"):
        (tmp_path / name).mkdir(parents=True)
    for name, content in chores.script().items():
        (tmp_path / "tes-chore-1" / "inputs" / name).write_bytes(content)
    return tmp_path


def carry_out(staging: Path, command: str) -> str:
    own = staging / "tes-chore-1"
    words = [sys.executable if word == "python3" else word for word in shlex.split(command)]
    done = subprocess.run(
        words, cwd=own / "working", check=True, capture_output=True, text=True, timeout=60
    )
    (own / "postprocessed").touch()
    until(lambda: not own.exists(), 20, lambda: "the chore's own directory is still there")
    return done.stdout


def test_reading_tells_what_the_runner_left_and_what_is_not_there(staging: Path) -> None:
    outputs = staging / JOB / "outputs"
    (outputs / "tes_report").write_text("x" * 700_000)
    (outputs / "tes_watch").write_bytes(b"wat\xff")

    traces = chores.traces(carry_out(staging, chores.reading(JOB)))

    assert traces is not None
    assert traces.report == "x" * 700_000
    assert traces.watch == "wat�"
    assert (traces.heartbeat, traces.journal) == (None, None)


def test_reading_of_an_unknown_job_finds_nothing(staging: Path) -> None:
    traces = chores.traces(carry_out(staging, chores.reading(JobId("tes-never-0"))))
    assert traces is not None
    assert (traces.report, traces.watch) == (None, None)


@pytest.mark.parametrize(
    ("config", "unbegun"),
    [('{"command_line": "python3"}', True), ("{}\n", False), (None, False)],
)
def test_a_job_is_unbegun_while_what_pulsar_starts_it_with_is_as_it_came(
    staging: Path, config: str | None, unbegun: bool
) -> None:
    """See `messages.command`: the first thing that a job does is to empty it."""
    if config is not None:
        (staging / JOB / "launch_config").write_text(config)
    assert chores.unbegun(carry_out(staging, chores.reading(JOB))) is unbegun


def test_removal_takes_the_named_jobs_and_old_chores_and_nothing_else(staging: Path) -> None:
    for name in ("tes-a-1", "tes-b-0", "tes-chore-2", "tes-chore-3"):
        (staging / name / "deep").mkdir(parents=True)
    os.utime(staging / "tes-chore-2", (0, 0))

    output = carry_out(staging, chores.removal([JOB, JobId("tes-never-0")]))

    assert chores.left(output) == []
    assert sorted(path.name for path in staging.iterdir()) == ["tes-a-1", "tes-b-0", "tes-chore-3"]


def test_a_link_is_removed_and_not_what_it_leads_to(staging: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (staging / JOB / "outputs" / "link").symlink_to(tmp_path / "precious")
    carry_out(staging, chores.removal([JOB]))
    assert (tmp_path / "precious").is_dir()


@pytest.mark.parametrize("name", ["..", "a/b", "", "a b", "$(true)"])
def test_names_that_are_not_ours_never_become_a_command(name: str) -> None:
    with pytest.raises(AssertionError):
        chores.removal([JobId(name)])


@pytest.mark.parametrize(
    "output", ["", "TESCHORE1 ", "TESCHORE1 AAAA", "TESCHORE1 é", "nothing of ours\n"]
)
def test_other_output_is_no_answer(output: str) -> None:
    assert chores.traces(output) is None
    assert chores.left(output) is None
