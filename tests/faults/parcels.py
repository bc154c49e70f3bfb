"""Outputs that only the end of a run can name: what must be in the bucket, and how often it came.

Small files below a directory and behind a pattern, and one that is too large for a single PUT.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tests.e2e.stack import Json
from tests.faults.bucket import CountedBucket

WRITE: Final = """set -e
mkdir -p /out/tree/deep /out/w
for n in 1 2; do echo "$NAME $n" > /out/tree/deep/$n; echo "$NAME $n" > /out/w/$n.txt; done
yes "$NAME" | head -c "$LARGE" > /out/large
"""
"""The executor's part in it."""
AGAIN: Final = re.compile(r"sent again under a new job id|signature of the URL has expired")
"""Lines that say that a job was followed by another one that sends the same."""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What one task sends, and what happens to the large file of it."""

    large_bytes: int = 10_000
    expires: bool = False
    """The first signature ends before it is used."""
    lost: Sequence[str] = ()
    """Calls whose first answers are lost."""

    def prepare(self, bucket: CountedBucket, name: str) -> None:
        """Have happen what is to happen to this one."""
        if self.expires:
            bucket.expire(large(name))
        for what in self.lost:
            bucket.lose(what, large(name))

    def environ(self, name: str) -> Mapping[str, str]:
        """Return what the executor has to know."""
        return {"NAME": name, "LARGE": str(self.large_bytes)}

    def outputs(self, bucket: CountedBucket, name: str) -> list[Json]:
        """Return the outputs of the task of that name."""
        return [
            {"path": "/out/tree", "url": bucket.url(f"{name}/tree"), "type": "DIRECTORY"},
            {"path": "/out/w/*.txt", "path_prefix": "/out/w", "url": bucket.url(f"{name}/w/")},
            {"path": "/out/large", "url": bucket.url(large(name))},
        ]

    def expected(self, name: str) -> Mapping[str, str]:
        """Return the digest of what must be there of it, by key."""
        small = {f"{name}/{path}": f"{name} {n}\n".encode() for path, n in SMALL}
        line = f"{name}\n".encode()
        big = (line * (self.large_bytes // len(line) + 1))[: self.large_bytes]
        return {key: _digest(content) for key, content in {**small, large(name): big}.items()}

    def mistakes(self, name: str, found: Json, bucket: CountedBucket) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with what was sent: the column of the table, and a sentence."""
        expected, log = self.expected(name), _lines(found)
        repeats = sum(bool(AGAIN.search(line)) for line in log)
        for key in expected:
            for what, number in bucket.written(key).items():
                if number > 1 + repeats + bucket.withheld[what, key]:
                    yield "doubled", f"{what} of {key}: {number} times, {repeats} told: {log}"
        there = {key: _digest(content) for key, content in bucket.there(name).items()}
        whole = found["state"] != "CANCELED"
        if wrong := _difference(there, expected, whole=whole):
            yield "lost", f"{name} is {found['state']}: {wrong}: {log}"
        told = sorted(one["url"] for one in found["logs"][-1].get("outputs") or ())
        if whole and told != sorted(map(bucket.url, expected)):
            yield "lost", f"{name} is {found['state']} and tells of {told}: {log}"


SMALL: Final = tuple(itertools.chain(*(((f"tree/deep/{n}", n), (f"w/{n}.txt", n)) for n in (1, 2))))


def large(name: str) -> str:
    """Return the key of what goes up in parts."""
    return f"{name}/large"


def _difference(there: Mapping[str, str], expected: Mapping[str, str], *, whole: bool) -> str:
    wrong = [key for key in there if there[key] != expected.get(key)]
    missing = [key for key in expected if key not in there] if whole else []
    return f"wrong {wrong}, missing {missing}" if wrong or missing else ""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _lines(found: Json) -> Sequence[str]:
    return [line for log in found.get("logs") or () for line in log.get("system_logs") or ()]
