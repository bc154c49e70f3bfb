"""`tesp-api check`: store, Pulsar and engine are really tried, and what is wrong is said."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tesp_api.local.own_pulsar import free_port
from tests.e2e.test_run import serving
from tests.needs import need
from tests.pulsars import HOST


def check(data: Path, image: str, **settings: str) -> tuple[int, str]:
    """Check a server of one's own over the Pulsar that `tesp-api run` has started on `data`."""
    pulsar = json.loads((data / "pulsar/app.yml").read_text())
    port = (data / "pulsar/server.ini").read_text().split("port = ")[1].split()[0]
    environ = {
        **os.environ,
        "TESP_DB__SQLITE_PATH": str(data / "other.sqlite"),
        "TESP_PULSAR__URL": f"http://{HOST}:{port}",
        "TESP_PULSAR__PRIVATE_TOKEN": pulsar["private_token"],
        **settings,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tesp_api", "check", "--image", image],
        cwd=data,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert pulsar["private_token"] not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def test_check_tries_store_pulsar_and_engine_and_says_what_is_wrong(tmp_path: Path) -> None:
    need("docker")
    need("pulsar")
    data = tmp_path / "data"
    with serving(data, os.environ["PATH"], free_port(HOST)):
        code, said = check(data, "ubuntu:20.04")
        assert code == 0
        assert "engine   docker ran ubuntu:20.04 at Pulsar" in said
        code, said = check(data, "tesp-test/missing:1")
        assert code == 1
        assert "cannot be pulled" in said
        code, said = check(data, "ubuntu:20.04", TESP_PULSAR__PRIVATE_TOKEN="another token")
        assert code == 1
        assert "refuses our token" in said
        code, said = check(data, "x", TESP_DB__SQLITE_PATH=str(data / "tesp.sqlite"))
        assert code == 1
        assert "Another process" in said
        assert list((data / "pulsar/staging").iterdir()) == []
