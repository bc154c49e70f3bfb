"""The README's commands by curl, word for word but for the port."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final

from tesp_api.local.own_pulsar import free_port
from tests.e2e.test_run import CHECKSUM, serving
from tests.needs import need
from tests.pulsars import HOST, until

README: Final = Path(__file__).parents[2] / "README.md"
SECTION: Final = README.read_text().partition("## A task by curl")[2].partition("\n## ")[0]
POST, OTHERS = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)


def bash(line: str, cwd: Path, port: int, **env: str) -> Any:
    done = subprocess.run(
        ["bash", "-c", line.replace("localhost:8080", f"localhost:{port}")],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        check=True,
        timeout=30,
    )
    return json.loads(done.stdout)


def test_the_readmes_task_by_curl_is_run_shown_listed_and_canceled(tmp_path: Path) -> None:
    need("docker")
    need("pulsar")
    data, port = tmp_path / "var", free_port(HOST)
    show, everything, cancel, info = OTHERS.strip().splitlines()
    with serving(data, os.environ["PATH"], port):
        task_id = bash(POST, tmp_path, port)["id"]

        def shown() -> dict[str, Any]:
            return bash(show, tmp_path, port, ID=task_id)

        until(lambda: shown()["state"] == "COMPLETE", 60, lambda: str(shown()))
        assert shown()["logs"][0]["logs"][0]["stdout"] == f"{CHECKSUM}  greeting.txt\n"
        assert (data / "files/greeting.sha1").read_text() == f"{CHECKSUM}  greeting.txt\n"
        assert task_id in {task["id"] for task in bash(everything, tmp_path, port)["tasks"]}
        assert bash(cancel, tmp_path, port, ID=task_id) == {}
        assert bash(info, tmp_path, port)["type"]["version"] == "1.1.0"
