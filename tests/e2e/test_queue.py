"""Pulsar limits nothing: `pulsar.max_jobs` does, counted by a ledger outside of both."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Stacks
from tests.e2e.stack import TRANSPORTS, Api, environment, fastest, task
from tests.e2e.web import Web

TASKS = 12
MAX_JOBS = 3


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_more_tasks_run_at_once_than_max_jobs_and_all_complete(
    transport: str, stacks: Stacks, web: Web, tmp_path: Path
) -> None:
    quick = stacks(fastest(), transport)
    settings = environment(quick.engine, quick.pulsar, quick.files)
    api = Api(tmp_path / "three", {**settings, "TESP_PULSAR__MAX_JOBS": str(MAX_JOBS)})
    api.start()
    try:
        urls = [web.offer(f"/queue/{transport}/{number}", b"") for number in range(TASKS)]
        ids = [
            api.post(
                task(
                    *("sleep", "0.5"),
                    inputs=[{"path": "/data/mark", "url": url}],
                    outputs=[{"path": "/data/mark", "url": url}],
                )
            )
            for url in urls
        ]
        states = [api.wait(one)["state"] for one in ids]
        quick.wait_until_nothing_is_left(*ids)
    finally:
        api.stop()

    assert states == ["COMPLETE"] * TASKS
    ledger = [entry for entry in web.ledger if entry.path.startswith(f"/queue/{transport}/")]
    assert len(ledger) == 2 * TASKS
    assert most_at_once([entry.method for entry in ledger]) == MAX_JOBS


def most_at_once(methods: list[str]) -> int:
    """Return how many were between their GET and their PUT at the same time."""
    running, most = 0, 0
    for method in methods:
        running += 1 if method == "GET" else -1
        most = max(most, running)
    return most
