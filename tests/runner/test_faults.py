"""Transfers by HTTP through a proxy that does harm: a right end or a precise error."""

import hashlib
import secrets
from collections.abc import Iterator, Sequence

import pytest

from tests.runner.conftest import Engine, Node, Report, sh, until
from tests.servers.http import Web
from tests.servers.proxy import (
    Answer,
    Corrupt,
    Cut,
    CutUpload,
    Delay,
    Fault,
    Length,
    Proxy,
    Silence,
    Truncate,
    faulty,
)

CONTENT = secrets.token_bytes(3 << 20)
SUM = hashlib.sha256(CONTENT).hexdigest()
TRANSFER = {"timeout_s": 2, "attempts": 3, "backoff_s": 0.01}


@pytest.fixture
def proxy(site: Web) -> Iterator[Proxy]:
    site.offer("x", CONTENT)
    with faulty(site.port) as running:
        yield running


def get(node: Node, host: Engine, proxy: Proxy, path: str, **more: object) -> Report:
    inputs = [{"path": "/in/x", "url": proxy.url(path)}]
    transfer = {**TRANSFER, **more}
    return node.run(host, sh("sha256sum < /in/x"), inputs=inputs, transfer=transfer)


def put(node: Node, host: Engine, proxy: Proxy, path: str) -> Report:
    (node.shared / "x").write_bytes(CONTENT)
    inputs = [{"path": "/out/x", "url": f"file://{node.shared}/x"}]
    outputs = [{"path": "/out/x", "url": proxy.url(path)}]
    return node.run(host, ["true"], inputs=inputs, outputs=outputs, transfer=TRANSFER)


PASSING = {
    "503 twice": [Answer(503), Answer(503)],
    "429 with a short pause": [Answer(429, {"Retry-After": "1"})],
    "503 with a pause of a day": [Answer(503, {"Retry-After": "86400"})],
    "a reset at once": [Cut(), Cut()],
    "silence": [Silence()],
    "a slow start": [Delay(0.01)],
}
BROKEN_BODIES = {
    "a reset within": [Cut(1_000_000), Cut(1_000_000)],
    "an end within": [Truncate(500_000), Truncate(1_000_000)],
    "an end in the head": [Truncate(20)],
    "more said than comes": [Length(1000)],
    "less said than comes": [Length(-1000)],
    "one byte less said": [Length(-1)],
}
BROKEN_UPLOADS = {"a reset within": [CutUpload(1_000_000)], "at its start": [CutUpload(10)]}


@pytest.mark.parametrize("faults", [*PASSING.values(), *BROKEN_BODIES.values()],
                         ids=[*PASSING, *BROKEN_BODIES])  # fmt: skip
def test_a_fault_that_passes_costs_an_input_nothing(
    host: Engine, node: Node, proxy: Proxy, faults: Sequence[Fault]
) -> None:
    proxy.next(*faults)
    done = get(node, host, proxy, "/x").complete()
    assert done.stdout().split()[0] == SUM


@pytest.mark.parametrize("faults", [*PASSING.values(), *BROKEN_UPLOADS.values()],
                         ids=[*PASSING, *BROKEN_UPLOADS])  # fmt: skip
def test_a_fault_that_passes_costs_an_output_nothing(
    host: Engine, node: Node, site: Web, proxy: Proxy, faults: Sequence[Fault]
) -> None:
    (site.files / "up").unlink(missing_ok=True)
    proxy.next(*faults)
    put(node, host, proxy, "/up").complete()
    assert (site.files / "up").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Answer(503), "HTTP 503 Fault (0 bytes received)"),
        (Cut(), "Connection reset by peer (0 bytes received)"),
        (Silence(), "timed out (0 bytes received)"),
        (Length(1000), "1000 bytes less were received than announced"),
        (Length(-1000), "more bytes were received than announced"),
        (Truncate(20), "the head of the answer broke off (0 bytes received)"),
    ],
)
def test_a_fault_that_stays_fails_an_input_precisely(
    host: Engine, node: Node, proxy: Proxy, fault: Fault, said: str
) -> None:
    proxy.always(fault)
    done = get(node, host, proxy, "/whole/x", timeout_s=0.5)
    assert (done.outcome, done.codes) == ("system_error", [])
    assert done.reason.startswith(f"input {proxy.url('/whole/x')} failed after 3 attempts: ")
    assert said in done.reason


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Answer(503), "HTTP 503 Fault"),
        (Answer(507), "HTTP 507 Fault"),
        (CutUpload(1_000_000), ""),
        (Cut(), ""),
    ],
)
def test_a_fault_that_stays_fails_an_output_precisely(
    host: Engine, node: Node, proxy: Proxy, fault: Fault, said: str
) -> None:
    proxy.always(fault)
    done = put(node, host, proxy, "/never")
    assert (done.outcome, done.codes) == ("system_error", [0])
    assert done.reason.startswith(f"output {proxy.url('/never')} failed after 3 attempts: {said}")
    assert done.reason.endswith("bytes sent)")
    assert done.outputs == []


def test_a_broken_body_is_continued_where_it_broke(
    host: Engine, node: Node, site: Web, proxy: Proxy
) -> None:
    site.offer("resumed", CONTENT)
    proxy.next(Truncate(1_000_000), Truncate(1_000_000))
    done = get(node, host, proxy, "/resumed").complete()
    assert done.stdout().split()[0] == SUM
    first, second, third = (one.range for one in site.asked("/resumed"))
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in (second, third)]
    assert first == ""
    assert 900_000 < starts[0] < 1_000_000
    assert 1_900_000 < starts[1] < 2_000_000
    assert "needed 3 attempts" in done.log


def test_a_file_that_changed_meanwhile_comes_anew(
    host: Engine, node: Node, site: Web, proxy: Proxy
) -> None:
    site.offer("changed", CONTENT)
    proxy.next(Cut(1_000_000), Answer(503))
    transfer = {**TRANSFER, "backoff_s": 1.5}
    inputs = [{"path": "/in/x", "url": proxy.url("/changed")}]
    job = node.start(host, sh("sha256sum < /in/x"), inputs=inputs, transfer=transfer)
    until(lambda: proxy.connections == 2, 30)
    site.offer("changed", CONTENT[::-1] + b"longer")
    done = job.report().complete()
    assert done.stdout().split()[0] == hashlib.sha256(CONTENT[::-1] + b"longer").hexdigest()


def test_a_changed_byte_is_found_where_a_checksum_is_given(
    host: Engine, node: Node, site: Web, proxy: Proxy
) -> None:
    site.offer("sum", b"")
    proxy.always(Corrupt(0))
    site.offer("sum", b"content")
    done = get(node, host, proxy, "/md5-wrong/sum")
    assert "Content-MD5 announced (md5)" in done.reason


def test_one_input_that_fails_stops_the_others(
    host: Engine, node: Node, site: Web, proxy: Proxy
) -> None:
    site.offer("slow", CONTENT)
    inputs = [
        {"path": "/in/slow", "url": f"{site.base}/slow/slow"},
        {"path": "/in/none", "url": f"{site.base}/none"},
    ]
    done = node.run(host, ["true"], inputs=inputs, transfer=TRANSFER)
    assert "HTTP 404" in done.reason
    assert done.seconds < 15
