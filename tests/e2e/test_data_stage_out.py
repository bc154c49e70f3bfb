"""What only the end of a run can name goes up by a second job: real Pulsar, real S3 servers."""

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from tests.e2e.data_sides import Objects, Site, data_stack, entry, sha
from tests.e2e.stack import Stack, fastest, shell
from tests.needs import need
from tests.pulsars import until
from tests.servers.proxy import Answer, Delay, Pass, Proxy, faulty

MULTIPART: Final = 5 << 20
LARGE: Final = 70 << 20
"""Two parts: ours have 64 MiB."""
PRESIGN_S: Final = 60
SEED: Final = random.Random(7).randbytes(1 << 20)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Late:
    """A stack whose signatures are good for a minute, and MinIO behind a proxy."""

    stack: Stack
    proxy: Proxy
    side: Objects
    weed: Objects


@pytest.fixture(scope="module")
def late(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Late]:
    need("pulsar")
    directory = tmp_path_factory.mktemp("late") / "run"
    sides = [
        Objects("s3", s3.bucket(name)) for s3, name in ((site.minio, "late"), (site.weed, "weed"))
    ]
    with faulty(urlsplit(site.minio.endpoint).port or 0) as proxy:
        through = {**entry(site.minio, "s3://late/"), "endpoint": proxy.url()}
        entries = [through, entry(site.weed, "s3://weed/")]
        small = [{**one, "multipart_bytes": MULTIPART} for one in entries]
        presign = {
            "TESP_STORAGE__PRESIGN_S": str(PRESIGN_S),
            "TESP_STORAGE__ATTEMPTS": "20",
        }
        with data_stack(directory, fastest(), {"s3": small}, **presign) as stack:
            yield Late(stack, proxy, *sides)


def outputs(side: Objects, top: str) -> Sequence[Mapping[str, Any]]:
    return [
        {"path": "/out/tree", "url": side.url(f"{top}/tree"), "type": "DIRECTORY"},
        {"path": "/out/w/*.txt", "path_prefix": "/out/w", "url": side.url(f"{top}/w/")},
        {"path": "/out/large", "url": side.url(f"{top}/large")},
    ]


WRITE: Final = """
set -eu
mkdir -p /out/tree/deep /out/w
for n in 1 2 3; do echo $n > /out/tree/deep/$n; echo $n > /out/w/$n.txt; done
for n in $(seq 70); do cat /in/seed; done > /out/large
cp /out/large /out/tree/deep/large
"""
ALL: Final = {
    **{f"tree/deep/{n}": sha(f"{n}\n".encode()) for n in (1, 2, 3)},
    **{f"w/{n}.txt": sha(f"{n}\n".encode()) for n in (1, 2, 3)},
    "tree/deep/large": sha(SEED * 70),
    "large": sha(SEED * 70),
}


def written(side: Objects, top: str, more: str = "") -> Mapping[str, Any]:
    side.put("in/seed", SEED)
    seed = {"path": "/in/seed", "url": side.url("in/seed")}
    return shell(WRITE + more, inputs=[seed], outputs=outputs(side, top), volumes=["/out"])


def there(side: Objects, top: str) -> dict[str, str]:
    return {name: sha(side.get(f"{top}/{name}")) for name in side.names(top)}


def pending(side: Objects, top: str) -> list[str]:
    return [
        key for name in ("large", "tree/deep/large") for key in side.bucket.uploads(f"{top}/{name}")
    ]


@pytest.mark.parametrize("which", ["side", "weed"])
def test_directories_wildcards_and_large_files_are_sent_by_a_second_job(
    late: Late, which: str
) -> None:
    side: Objects = getattr(late, which)
    ended = late.stack.api.run(written(side, "whole"), patience_s=180)
    assert ended["state"] == "COMPLETE", ended["logs"]
    assert there(side, "whole") == ALL
    sent = {one["url"]: one["size_bytes"] for one in ended["logs"][0]["outputs"]}
    assert set(sent) == {side.url(f"whole/{name}") for name in ALL}
    assert sent[side.url("whole/large")] == str(LARGE)
    late.stack.wait_until_nothing_is_left(ended["id"])
    assert pending(side, "whole") == []


def test_outputs_are_sent_after_an_executor_s_failure_too(late: Late) -> None:
    ended = late.stack.api.run(written(late.side, "failed", "exit 3"), patience_s=180)
    assert ended["state"] == "EXECUTOR_ERROR"
    assert ended["logs"][0]["logs"][0]["exit_code"] == 3
    assert there(late.side, "failed") == ALL
    assert len(ended["logs"][0]["outputs"]) == len(ALL)
    late.stack.wait_until_nothing_is_left(ended["id"])
    assert pending(late.side, "failed") == []


def test_a_cancel_ends_the_second_job_and_its_uploads(late: Late) -> None:
    late.proxy.always(Delay(4))
    try:
        task_id = late.stack.api.post(written(late.side, "canceled"))
        second = late.stack.pulsar.staging / f"tes-{task_id}-1" / "outputs"
        until(
            lambda: bool(pending(late.side, "canceled")) and any(second.glob("tes_*")),
            120,
            lambda: str(late.stack.api.get(task_id)),
        )
        assert late.stack.api.cancel(task_id).status_code == 200
    finally:
        late.proxy.always(Pass())
    ended = late.stack.api.wait(task_id)
    assert ended["state"] == "CANCELED"
    late.stack.wait_until_nothing_is_left(task_id, patience_s=60)
    until(
        lambda: pending(late.side, "canceled") == [],
        30,
        lambda: f"{pending(late.side, 'canceled')} are pending",
    )
    assert "large" not in there(late.side, "canceled")


def test_signatures_that_end_before_they_are_used_are_made_anew(late: Late) -> None:
    """The first task outruns its output's; the second finds S3 busy until its input's are over."""
    side, api = late.side, late.stack.api
    side.put("in/x", b"in time\n")
    item = {"path": "/in/x", "url": side.url("in/x")}

    def posted(line: str, name: str) -> str:
        output = {"path": "/in/x", "url": side.url(f"stale/{name}")}
        return api.post(shell(line, inputs=[item], outputs=[output]))

    slow = posted(f"sleep {PRESIGN_S + 5}", "slow")
    until(lambda: _executes(late, slow), 60, lambda: str(api.get(slow)))
    late.proxy.always(Answer(503))
    try:
        late_one = posted("cat /in/x", "late")
        api.wait(late_one, ["RUNNING"])
        time.sleep(PRESIGN_S + 2)
    finally:
        late.proxy.always(Pass())
    for name, task_id in (("slow", slow), ("late", late_one)):
        ended = api.wait(task_id, patience_s=150)
        assert ended["state"] == "COMPLETE", ended["logs"]
        assert len(ended["logs"]) == 1
        assert [one["url"] for one in ended["logs"][0]["outputs"]] == [side.url(f"stale/{name}")]
        assert side.get(f"stale/{name}") == b"in time\n"
    log = late.stack.api.log.read_text()
    for task_id in (slow, late_one):
        assert f"task is COMPLETE task={task_id} state=COMPLETE job=tes-{task_id}-1" in log
    late.stack.wait_until_nothing_is_left(slow, late_one)


def _executes(late: Late, task_id: str) -> bool:
    journals = late.stack.pulsar.staging.glob(f"*{task_id}*/outputs/tes_journal")
    return any("executor_start" in journal.read_text() for journal in journals)
