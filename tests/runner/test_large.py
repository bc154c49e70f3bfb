"""Large files and many: the runner's memory stays small, whatever comes and goes."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.runner.conftest import Engine, Job, Node, Web, sh
from tests.servers import http
from tests.servers.s3 import Bucket

MOST_KB = 64 << 10
SIZE = 2 << 30
MANY = 3000


def peak_kb(job: Job) -> int:
    """Follow the runner up to its report and return the most memory that it ever had."""
    peak, report = 0, job.directory / "outputs" / "tes_report"
    while job.process.poll() is None and not report.exists():
        try:
            status = Path(f"/proc/{job.process.pid}/status").read_text()
        except OSError:
            break
        found = re.search(r"VmHWM:\s+(\d+)", status)
        peak = max(peak, int(found[1])) if found else peak
        time.sleep(0.05)
    return peak


@pytest.mark.slow
def test_two_gigabytes_take_little_memory(host: Engine, node: Node, site: http.Web) -> None:
    if shutil.disk_usage(node.base).free < 4 * SIZE:
        pytest.skip("not enough disk for three copies of a large file")
    top = node.base.name
    url = site.offer(f"{top}/large", b"")
    os.truncate(site.files / top / "large", SIZE)
    outputs = [{"path": "/in/large", "url": f"{site.base}/{top}/up"}]
    inputs = [{"path": "/in/large", "url": url}]
    job = node.start(host, ["true"], inputs=inputs, outputs=outputs)
    peak = peak_kb(job)
    done = job.report().complete()
    assert done.outputs[0]["size_bytes"] == SIZE
    assert (site.files / top / "up").stat().st_size == SIZE
    shutil.rmtree(site.files / top)
    assert peak < MOST_KB


@pytest.mark.slow
def test_many_files_come_and_are_left_and_take_little_memory(
    host: Engine, node: Node, bucket: Bucket
) -> None:
    for number in range(20):
        bucket.put(f"d/{number}", str(number).encode())
    urls = [bucket.presigned("GET", f"d/{number}") for number in range(20)]
    listed = [
        {"name": f"{number % 7}/{number}", "url": urls[number % 20], "size_bytes": 1}
        for number in range(MANY)
    ]
    name = f"s3://{bucket.name}/d"
    inputs = [{"path": "/in", "type": "DIRECTORY", "name": name, "signed": True, "files": listed}]
    outputs = [{"path": "/in", "type": "DIRECTORY", "name": name, "deferred": True}]
    job = node.start(host, sh("find /in -type f | wc -l"), inputs=inputs, outputs=outputs)
    peak = peak_kb(job)
    run = job.report().complete()
    assert run.stdout() == f"{MANY}\n"
    assert len(run.document["left"]) == MANY
    assert peak < MOST_KB
    wanted = [
        {"path": path, "size_bytes": size, "name": f"{name}/{below}",
         "url": bucket.presigned("PUT", f"o/{below}")}
        for _, path, below, size in run.document["left"]
    ]  # fmt: skip
    late = node.start(host, mode="send", of=job.name, files=wanted)
    assert peak_kb(late) < MOST_KB
    assert len(late.report().complete().outputs) == MANY
    assert len(bucket.names("o/")) == MANY


@pytest.mark.slow
def test_a_long_answer_in_one_line_takes_little_memory(host: Engine, node: Node, web: Web) -> None:
    web.files["/x"] = b"1" * (80 << 20)
    inputs = [{"path": "/in/x", "url": f"{web.url}/x"}]
    job = node.start(host, sh("wc -c < /in/x"), inputs=inputs)
    assert peak_kb(job) < MOST_KB
    assert job.report().complete().stdout() == f"{80 << 20}\n"
