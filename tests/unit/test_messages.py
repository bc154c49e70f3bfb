"""What is sent over AMQP: the names of queues, and a setup that a shell really carries out."""

import subprocess
from pathlib import Path

import pytest

from tesp_api.domain.task import JobId
from tesp_api.pulsar import messages
from tesp_api.pulsar.messages import Queue, queue_name

JOB = JobId("tes-a-0")


@pytest.mark.parametrize(
    ("manager", "queue", "name"),
    [
        ("_default_", Queue.SETUP, "pulsar__setup"),
        ("_default_", Queue.UPDATE, "pulsar__status_update"),
        ("zone_a", Queue.KILL, "pulsar_zone_a__kill"),
        ("zone_a", Queue.STATUS, "pulsar_zone_a__status"),
    ],
)
def test_queues_are_called_as_pulsar_calls_them(manager: str, queue: Queue, name: str) -> None:
    assert queue_name(manager, queue) == name


def test_a_setup_names_the_job_twice_and_its_command_holds_nothing_delivered() -> None:
    sent = messages.setup(JOB, messages.command("a.pyz"), {"a.pyz": b"content"})
    assert (sent["job_id"], sent["setup_params"]) == (JOB, {"job_id": JOB})
    assert "content" not in sent["command_line"]


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 3000], ids=len)
def test_a_delivered_file_arrives_as_it_was(content: bytes, tmp_path: Path) -> None:
    for name in ("inputs", "working"):
        (tmp_path / name).mkdir()
    statement = messages.setup(JOB, "true", {"ab-12.pyz": content})["env"][0]["execute"]
    script = (
        f'set -e\nf() {{\n    _GALAXY_JOB_DIR="{tmp_path}/working"\n    {statement}\n    :\n}}\nf\n'
    )

    subprocess.run(["bash", "-s"], input=script.encode(), check=True, cwd="/")

    assert (tmp_path / "inputs" / "ab-12.pyz").read_bytes() == content


@pytest.mark.parametrize("name", ["a b", "../a", 'a"', "$(true)", ""])
def test_a_name_that_needs_quotes_is_a_bug(name: str) -> None:
    with pytest.raises(AssertionError):
        messages.setup(JOB, "true", {name: b""})
