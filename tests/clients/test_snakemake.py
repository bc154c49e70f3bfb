"""A small workflow by the real Snakemake with its TES plugin, in containers, over S3."""

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.clients.conftest import Bucket
from tests.e2e.conftest import Stacks
from tests.needs import need

WORKFLOW: Final = """
rule all:
    input: "count.txt"

rule write:
    output: "words.txt"
    shell: "printf 'one\\ntwo\\nthree\\n' >{output}"

rule count:
    input: "words.txt"
    output: "count.txt"
    resources: mem_mb=500
    shell: "wc -l <{input} >{output}"
"""


def run_snakemake(
    directory: Path, tes_url: str, bucket: Bucket
) -> subprocess.CompletedProcess[str]:
    (directory / "Snakefile").write_text(WORKFLOW)
    program = Path(os.environ["TESP_TEST_SNAKEMAKE"])
    command = [
        *(str(program), "--executor", "tes", "--tes-url", tes_url, "--jobs", "2"),
        *("--container-image", os.environ["TESP_TEST_SNAKEMAKE_IMAGE"]),
        *("--default-storage-provider", "s3", "--default-storage-prefix", f"s3://{bucket.name}"),
        *("--seconds-between-status-checks", "1"),
    ]
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": bucket.endpoint,
        "SNAKEMAKE_STORAGE_S3_ACCESS_KEY": bucket.key,
        "SNAKEMAKE_STORAGE_S3_SECRET_KEY": bucket.secret,
        # Where a job fails, the plugin looks for a file below it.
        "GITHUB_WORKSPACE": str(directory),
    }
    return subprocess.run(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_a_workflow_of_two_jobs_runs_over_s3(
    stacks: Stacks, bucket: Bucket, tmp_path: Path
) -> None:
    need("snakemake")
    stack = stacks("docker")

    done = run_snakemake(tmp_path, stack.api.base, bucket)

    tasks = stack.api.list(view="FULL", name_prefix="snakejob.")["tasks"]
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{tasks}"
    assert bucket.read("count.txt") == "3\n"
    assert sorted(task["name"].split(".")[1] for task in tasks) == ["count", "write"]
    assert {task["state"] for task in tasks} == {"COMPLETE"}
    assert bucket.secret not in stack.api.log.read_text()
    assert bucket.secret not in str(stack.api.list(view="BASIC", name_prefix="snakejob."))
