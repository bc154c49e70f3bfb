"""Who comes first is run first: seen by the order in which inputs are fetched."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Stacks
from tests.e2e.stack import TRANSPORTS, Api, environment, fastest, task
from tests.e2e.web import Web

TASKS = 8


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_tasks_that_wait_for_a_place_are_run_in_the_order_they_were_posted(
    transport: str, stacks: Stacks, web: Web, tmp_path: Path
) -> None:
    quick = stacks(fastest(), transport)
    settings = environment(quick.engine, quick.pulsar, quick.files)
    api = Api(tmp_path / "one by one", {**settings, "TESP_PULSAR__MAX_JOBS": "1"})
    paths = [f"/fifo/{transport}/{number}" for number in range(TASKS)]
    api.start()
    try:
        ids = [
            api.post(task("true", inputs=[{"path": "/in/mark", "url": web.offer(path, b"")}]))
            for path in paths
        ]
        assert [api.wait(one)["state"] for one in ids] == ["COMPLETE"] * TASKS
    finally:
        api.stop()

    assert [entry.path for entry in web.ledger if entry.path in paths] == paths
