"""What files cost on their way through a task: many small ones against rclone, and a large one.

Many: 10,000 files of 1 KiB from MinIO onto the node and back, by a task that does nothing with
them, and by `rclone copy` there and back; by turns, both with the same number of transfers at a
time. The task's time goes from POST to COMPLETE, so it has the server's listing and signing,
Pulsar's part, and a second job in it. Large: one file of 5 GB from nginx by HTTP, and to MinIO in
parts; what counts is the most memory that the runner ever had. All runs on loopback in a directory
that is removed at the end.

Wants the components of the tests (nginx, MinIO, rclone):

    python -m benchmarks.transfers [--files 10000] [--rounds 1] [--gigabytes 5]
"""

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from tesp_api.pulsar.wire import PARCEL
from tests.e2e.data_sides import data_stack, entry
from tests.e2e.stack import Stack, fastest, shell
from tests.needs import need
from tests.pulsars import descendants
from tests.servers.http import Web, nginx
from tests.servers.pki import pki
from tests.servers.s3 import S3, minio

PARALLEL: Final = 4
SMALL_BYTES: Final = 1024
GB: Final = 10**9
PATIENCE_S: Final = 3600
AIM_RATIO: Final = 3.0
MUST_KB: Final = 64 << 10

Times = Mapping[str, float]


class Bench:
    """The running parts, and what is measured on them."""

    def __init__(self, stack: Stack, s3: S3, web: Web, directory: Path) -> None:
        self._stack = stack
        self._s3 = s3
        self._web = web
        self._directory = directory
        self._bucket = s3.bucket("bench")

    def offer(self, files: int) -> None:
        """Put small files into the bucket, in directories of a hundred."""

        def put(number: int) -> None:
            key = f"in/{number // 100:03}/{number:05}"
            self._bucket.put(key, f"{number:032}".encode() * (SMALL_BYTES // 32))

        with ThreadPoolExecutor(8) as threads:
            for _ in threads.map(put, range(files)):
                pass

    def check(self, below: str, files: int) -> None:
        """Fail unless all files are there."""
        found = len(self._bucket.names(f"{below}/"))
        if found != files:
            raise SystemExit(f"{found} of {files} files are at {below}")

    def ours(self) -> Times:
        """Return how long a task takes, and how much of it before and after its executor."""
        url = f"s3://{self._bucket.name}"
        tree = {"path": "/data", "type": "DIRECTORY"}
        body = shell(
            "true", inputs=[{**tree, "url": f"{url}/in"}], outputs=[{**tree, "url": f"{url}/ours"}]
        )
        begun = time.time()
        ended = self._run(body)
        (ran,) = ended["logs"][0]["logs"]
        first, last = (_seconds(ran[name]) for name in ("start_time", "end_time"))
        end = _seconds(ended["logs"][0]["end_time"])
        return {"in": first - begun, "out": end - last, "both": end - begun}

    def rclone(self) -> Times:
        """Return how long rclone takes there and back."""
        target = self._directory / "by-rclone"
        place = f"m:{self._bucket.name}"
        here = self._rclone("copy", f"{place}/in", str(target))
        back = self._rclone("copy", str(target), f"{place}/rclone")
        shutil.rmtree(target)
        return {"in": here, "out": back, "both": here + back}

    def clear(self) -> None:
        """Remove what was sent."""
        for below in ("ours", "rclone"):
            self._rclone("purge", f"m:{self._bucket.name}/{below}")

    def large(self, gigabytes: float) -> tuple[Times, int]:
        """Return how long a large file takes, and the runner's peak of memory in KiB."""
        size = int(gigabytes * GB)
        url = self._web.offer("large", b"")
        os.truncate(self._web.files / "large", size)
        body = shell(
            "true",
            inputs=[{"path": "/data/large", "url": url}],
            outputs=[{"path": "/data/large", "url": f"s3://{self._bucket.name}/large"}],
        )
        begun = time.time()
        with peak_of_runners(self._stack.pulsar.processes()[0]) as peaks:
            ended = self._run(body)
        sent = self._bucket.client.head_object(Bucket=self._bucket.name, Key="large")
        if sent["ContentLength"] != size:
            raise SystemExit(f"{sent['ContentLength']} of {size} bytes are there")
        (ran,) = ended["logs"][0]["logs"]
        first, last = (_seconds(ran[name]) for name in ("start_time", "end_time"))
        end = _seconds(ended["logs"][0]["end_time"])
        return {"in": first - begun, "out": end - last}, max(peaks.values())

    def _run(self, body: Mapping[str, Any]) -> dict[str, Any]:
        ended = self._stack.api.run(body, PATIENCE_S)
        if ended["state"] != "COMPLETE":
            raise SystemExit(f"{ended['state']}: {ended['logs'][0]['system_logs']}")
        self._stack.wait_until_nothing_is_left(ended["id"], patience_s=300)
        return ended

    def _rclone(self, *words: str) -> float:
        options = ("--transfers", str(PARALLEL), "--s3-no-check-bucket", "--config", "")
        remote = {
            "TYPE": "s3",
            "PROVIDER": "Minio",
            "ENDPOINT": self._s3.endpoint,
            "ACCESS_KEY_ID": self._s3.access_key,
            "SECRET_ACCESS_KEY": self._s3.secret_key,
        }
        environ = {f"RCLONE_CONFIG_M_{name}": text for name, text in remote.items()}
        begun = time.monotonic()
        subprocess.run(
            [os.environ["TESP_TEST_RCLONE"], *words, *options],
            check=True,
            env={**os.environ, **environ},
        )
        return time.monotonic() - begun


@contextmanager
def peak_of_runners(pulsar: int) -> Iterator[Mapping[int, int]]:
    """Collect the most memory that each runner below this Pulsar ever had, in KiB."""
    peaks: dict[int, int] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            for pid in descendants(pulsar):
                with contextlib.suppress(OSError):
                    if PARCEL.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                        found = re.search(r"VmHWM:\s+(\d+)", _status(pid))
                        peaks[pid] = int(found[1]) if found else 0

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


@contextmanager
def bench() -> Iterator[Bench]:
    """Start everything; end it afterwards."""
    for component in ("nginx", "minio", "rclone", "pulsar"):
        need(component)
    with ExitStack() as running:
        prefix = "tesp-bench-"
        directory = Path(running.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        for name in ("minio", "nginx"):
            (directory / name).mkdir()
        s3 = running.enter_context(minio(directory / "minio"))
        web = running.enter_context(nginx(directory / "nginx", pki(directory / "pki")))
        entries = {"s3": [entry(s3, "s3://")]}
        settings = {"TESP_STORAGE__PARALLEL": str(PARALLEL)}
        stack = running.enter_context(
            data_stack(directory / "stack", fastest(), entries, **settings)
        )
        yield Bench(stack, s3, web, directory)


def many(running: Bench, files: int, rounds: int) -> None:
    """Measure and print what small files cost."""
    running.offer(files)
    ours: list[Times] = []
    theirs: list[Times] = []
    for _ in range(rounds):
        theirs.append(running.rclone())
        ours.append(running.ours())
        for below in ("ours", "rclone"):
            running.check(below, files)
        running.clear()
    print(f"{files} files of {SMALL_BYTES} bytes, {PARALLEL} at a time, seconds")
    for name in ("in", "out", "both"):
        mine, his = (median(each[name] for each in times) for times in (ours, theirs))
        print(f"  {name:<5} a task {mine:7.1f}   rclone {his:7.1f}   ratio {mine / his:5.2f}")
    verdict = "kept" if mine / his <= AIM_RATIO else "MISSED"
    print(f"  aim: both at most {AIM_RATIO:g} times rclone: {verdict}")


def large(running: Bench, gigabytes: float) -> None:
    """Measure and print what a large file costs."""
    took, peak_kb = running.large(gigabytes)
    print(f"one file of {gigabytes:g} GB: in {took['in']:.0f} s, out {took['out']:.0f} s")
    verdict = "kept" if peak_kb < MUST_KB else "MISSED"
    print(f"  runner's peak {peak_kb / 1024:.1f} MiB; must be below {MUST_KB >> 10}: {verdict}")


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfers")
    parser.add_argument("--files", type=int, default=10_000, help="small ones; 0: none (10000)")
    parser.add_argument("--rounds", type=int, default=1, help="of the small ones (1)")
    parser.add_argument("--gigabytes", type=float, default=5, help="of the large one; 0: none (5)")
    chosen = parser.parse_args()
    with bench() as running:
        if chosen.files:
            many(running, chosen.files, chosen.rounds)
        if chosen.gigabytes:
            large(running, chosen.gigabytes)


if __name__ == "__main__":
    main()
