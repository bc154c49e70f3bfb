"""The judge of what was sent sees each kind of mistake: a table of noughts is worth its judge."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.faults.bucket import CountedBucket
from tests.faults.parcels import Parcel, large

NAME = "one"
PARCEL = Parcel(large_bytes=10)
CONTENT = {
    "one/tree/deep/1": b"one 1\n",
    "one/tree/deep/2": b"one 2\n",
    "one/w/1.txt": b"one 1\n",
    "one/w/2.txt": b"one 2\n",
    "one/large": b"one\none\non",
}


@dataclass
class Held:
    """A bucket in memory, as the judge looks at it."""

    name: str = "held"
    objects: dict[str, bytes] = field(default_factory=lambda: dict(CONTENT))

    def names(self, below: str) -> list[str]:
        return [key for key in self.objects if key.startswith(below)]

    def get(self, key: str) -> bytes:
        return self.objects[key]


def found(*lines: str, state: str = "COMPLETE") -> Mapping[str, Any]:
    outputs = [{"url": f"s3://held/{key}"} for key in CONTENT]
    return {"state": state, "logs": [{"outputs": outputs, "system_logs": list(lines)}]}


@pytest.fixture
def bucket() -> CountedBucket:
    made = CountedBucket(Held())
    for key in CONTENT:
        what = ["begin", "part 1", "complete", "HEAD", "HEAD"] if key == large(NAME) else ["PUT"]
        made.counts.update((one, key) for one in what)
    return made


def columns(bucket: CountedBucket, task: Mapping[str, Any]) -> list[str]:
    return [column for column, _ in PARCEL.mistakes(NAME, dict(task), bucket)]


def test_everything_there_once_is_no_mistake(bucket: CountedBucket) -> None:
    assert columns(bucket, found()) == []


@pytest.mark.parametrize("what", ["PUT", "part 1", "complete"])
def test_what_was_sent_twice_is_doubled_unless_the_log_tells_of_a_second_job(
    bucket: CountedBucket, what: str
) -> None:
    key = "one/w/1.txt" if what == "PUT" else large(NAME)
    bucket.counts[what, key] += 1
    assert columns(bucket, found()) == ["doubled"]
    assert columns(bucket, found("The outputs are sent again under a new job id.")) == []
    bucket.withheld[what, key] += 1
    assert columns(bucket, found()) == []


def test_what_is_missing_is_lost_unless_the_task_was_cancelled(bucket: CountedBucket) -> None:
    del bucket.bucket.objects["one/w/1.txt"]
    assert columns(bucket, found()) == ["lost"]
    assert columns(bucket, found(state="CANCELED")) == []


@pytest.mark.parametrize("state", ["COMPLETE", "EXECUTOR_ERROR", "CANCELED"])
@pytest.mark.parametrize("key", ["one/large", "one/stray"])
def test_what_is_wrong_or_was_never_written_is_lost(
    bucket: CountedBucket, key: str, state: str
) -> None:
    bucket.bucket.objects[key] = b"other"
    assert columns(bucket, found(state=state)) == ["lost"]


def test_an_output_that_the_log_does_not_list_is_lost(bucket: CountedBucket) -> None:
    task = found()
    task["logs"][0]["outputs"].pop()
    assert columns(bucket, task) == ["lost"]
