"""`tesp-api run`: the whole stack by one command, as a user has it; and a start by uvicorn."""

import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tesp_api.local.own_pulsar import free_port
from tests.e2e.stack import COMPONENT, Api, Stack, environment, shell
from tests.needs import need
from tests.pulsars import HOST, descendants, processes_of, until

ENGINE_PROGRAMS: Final = {"docker", "podman", "apptainer", "singularity"}
CHECKSUM: Final = hashlib.sha1(b"Hello, Pulsar!\n").hexdigest()


def command(port: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "tesp_api", "run", "--port", str(port), *more]


def environ(data: Path, path: str) -> Mapping[str, str]:
    return {**os.environ, "TESP_DATA_DIR": str(data), "PATH": path}


@pytest.fixture(params=["docker", "host"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """An engine that `run` is to choose, and a PATH with its program, or with none."""
    engine = request.param
    need("pulsar")
    need(COMPONENT.get(engine, engine))
    return engine, os.environ["PATH"] if engine == "docker" else without_engines(tmp_path / "bin")


def without_engines(directory: Path) -> str:
    """Return a PATH with all programs of the present one but the container engines."""
    directory.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).iterdir() if Path(place).is_dir() else ():
            link = directory / program.name
            if program.name not in ENGINE_PROGRAMS and not link.is_symlink():
                link.symlink_to(program)
    return str(directory)


def run_once(data: Path, path: str, port: int | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the stack in an empty working directory, as after an install by pip."""
    data.mkdir(exist_ok=True)
    return subprocess.run(
        command(port or free_port(HOST), "--once"),
        cwd=data,
        env=environ(data, path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_run_once_completes_the_example_twice_on_the_same_data_and_leaves_nothing(
    path: tuple[str, str], tmp_path: Path
) -> None:
    engine, programs = path
    data = tmp_path / "data"
    for _ in range(2):
        done = run_once(data, programs)

        assert done.returncode == 0, done.stdout + done.stderr
        assert re.search(rf"^engine +{engine}: ", done.stdout, re.MULTILINE)
        assert re.search(r"^example +task \w+: .*COMPLETE$", done.stdout, re.MULTILINE)
        assert re.search(r"^exit code +0$", done.stdout, re.MULTILINE)
        assert re.search(rf"^stdout +{CHECKSUM}  greeting.txt$", done.stdout, re.MULTILINE)
        url = (data / "files/greeting.sha1").as_uri()
        assert re.search(rf"^output +{re.escape(url)} \(\d+ bytes\)$", done.stdout, re.MULTILINE)
        assert "Traceback" not in done.stderr
        assert (data / "files/greeting.sha1").read_text() == f"{CHECKSUM}  greeting.txt\n"
        assert processes_of(str(data)) == []
        assert list((data / "pulsar/staging").iterdir()) == []


@contextmanager
def serving(data: Path, path: str, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the stack until it serves."""
    data.mkdir()
    log = data / "run.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(port),
            cwd=data,
            env=environ(data, path),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        until(lambda: "\nserving " in log.read_text(), 60, log.read_text)
        yield process
    finally:
        for pid in (*descendants(process.pid), process.pid):
            if process.poll() is None:
                os.kill(pid, signal.SIGKILL)
        process.wait()


def quick_path(tmp_path: Path) -> str:
    need("pulsar")
    need("userns")
    return without_engines(tmp_path / "bin")


@pytest.mark.parametrize("to", ["the process", "the terminal"])
def test_ctrl_c_ends_every_child_also_of_a_running_task(to: str, tmp_path: Path) -> None:
    port, data = free_port(HOST), tmp_path / "data"
    with serving(data, quick_path(tmp_path), port) as process:
        api = Api(data, {}, port)
        task_id = api.post(shell("sleep 300 & sleep 300"))
        api.wait(task_id, {"RUNNING"})
        family = descendants(process.pid)
        assert family

        # A terminal sends the signal to all of its foreground process group.
        (os.killpg if to == "the terminal" else os.kill)(process.pid, signal.SIGINT)

        assert process.wait(15) in {0, 130}
        api.stop()
        until(lambda: not processes_of(str(data)), 15, lambda: str(processes_of(str(data))))
        assert "Traceback" not in (data / "run.log").read_text()


def test_a_port_that_is_taken_ends_the_start_with_one_sentence(tmp_path: Path) -> None:
    path = quick_path(tmp_path)
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]

        done = run_once(tmp_path / "data", path, port)

    assert done.returncode == 1
    assert done.stderr == (
        f"tesp-api: Cannot listen on 127.0.0.1 port {port}: Address already in use.\n"
    )
    assert processes_of(str(tmp_path / "data")) == []


def test_two_runs_on_the_same_data_are_refused_with_one_sentence(tmp_path: Path) -> None:
    path, data = quick_path(tmp_path), tmp_path / "data"
    with serving(data, path, free_port(HOST)):
        done = run_once(data, path)

    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("tesp-api: ")
    assert "Traceback" not in done.stderr


def test_uvicorn_serves_the_application_with_the_settings_of_the_environment(
    quick: Stack, tmp_path: Path
) -> None:
    api = Api(tmp_path / "uvicorn", environment(quick.engine, quick.pulsar, quick.files))
    api.begin(
        *("-m", "uvicorn", "tesp_api.tesp_api:app"),
        *("--host", "localhost", "--port", str(api.port)),
    )
    try:
        api.wait_until_up()
        assert api.run(shell("echo served"))["state"] == "COMPLETE"
        assert api.terminate()[1] < 10
    finally:
        api.stop()
