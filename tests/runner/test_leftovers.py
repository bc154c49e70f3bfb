"""Nothing is left on the node: after the end, after a kill, after a cancel at any moment."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tesp_api.pulsar.wire import Parcels
from tests.runner.conftest import Engine, Node, decoded, file, pythons, sh, until

LONG = (
    "mkdir -p /o/closed/d; chmod 700 /o/closed; touch /o/closed/d/f;"
    "sleep 300 & (setsid sleep 300 &); sleep 300"
)


@pytest.mark.parametrize("image", ["root", "noshell", "user"])
def test_an_ordinary_user_is_left_with_nothing_of_roots(
    docker: Engine, node: Node, user: str, image: str
) -> None:
    """Pulsar in group docker; the image runs as root, has no shell, or has a user of its own."""
    name, run = {
        "root": (
            "ubuntu:20.04",
            [
                "/bin/sh",
                "-euc",
                "umask 077; mkdir -p /o/a/b /tmp/x/y; echo 1 > /o/a/b/f; echo 1 > /o/r",
            ],
        ),
        "noshell": (docker.noshell, ["/bin/noshell", "write", "/o/r", "1\n"]),
        "user": (
            docker.user_image,
            ["/bin/sh", "-euc", "umask 077; mkdir -p /o/a /tmp/x; echo 1 > /o/a/f; echo 1 > /o/r"],
        ),
    }[image]
    deep = (
        {"image": name, "command": ["/bin/noshell", "mkdirs", "/tmp/a/b/c"]}
        if image == "noshell"
        else None
    )
    executors = [{"image": name, "command": run}, *([deep] if deep else [])]
    done = node.run(
        docker, *executors, user=user, outputs=[{"path": "/o/r", "url": f"{node.shared}/r"}]
    ).complete()
    assert (node.shared / "r").read_text() == "1\n"
    assert (node.shared / "r").owner() == user
    assert done.log == ""
    assert not [path for path in done.directory.rglob("*") if path.lstat().st_uid == 0]


def test_streams_in_a_directory_that_root_closed(docker: Engine, node: Node, user: str) -> None:
    first = sh("umask 077; rmdir /v/d; mkdir /v/d; echo in > /v/d/in")
    second = {"command": ["/bin/cat"], "stdin": "/v/d/in", "stdout": "/v/d/out"}
    done = node.run(docker, first, second, sh("cat /v/d/out"), user=user, volumes=["/v"]).complete()
    assert done.stdout(2) == "in\n"


@pytest.mark.parametrize("who", ["root", "ordinary"])
def test_a_killed_runner_leaves_nothing(
    engine: Engine, node: Node, request: pytest.FixtureRequest, who: str
) -> None:
    if who == "ordinary" and engine.kind == "podman":
        return  # rootless podman does not run on this machine
    name = request.getfixturevalue("user") if who == "ordinary" else None
    job = node.start(engine, sh(LONG), user=name, volumes=["/o"])
    until(lambda: sum(line.startswith("sleep") for line in job.processes()) >= 3, 30)
    job.process.kill()
    job.process.communicate()
    assert until(lambda: job.watch() == "reaped\n", 10) < 10
    assert until(lambda: not job.processes(), 1) < 1
    node.check()


def test_a_kill_at_any_moment_leaves_nothing(daemon: Engine, node: Node) -> None:
    """The moments lie around the asking for, the making and the starting of the container."""
    jobs = []
    for step in range(8):
        job = node.start(daemon, sh("exec sleep 300"))
        until(lambda job=job: job.journal(), 20)
        time.sleep(step * 0.04)
        job.process.kill()
        job.process.communicate()
        jobs.append(job)
    until(lambda: all(job.watch() == "reaped\n" for job in jobs), 12)
    assert [daemon.containers(job.name) for job in jobs] == [[]] * 8
    until(lambda: not any(job.processes() for job in jobs), 2)


def test_a_kill_of_all_but_the_watchdog_leaves_nothing(daemon: Engine, node: Node) -> None:
    """As Pulsar does it: the runner and all its children at once."""
    job = node.start(daemon, sh(LONG), volumes=["/o"])
    until(lambda: sum("sleep" in line for line in job.processes()) >= 3, 30)
    pid = job.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for one in [str(pid), *children]:
        os.kill(int(one), 9)
    job.process.communicate()
    assert until(lambda: job.watch() == "reaped\n", 10) < 10


def test_the_watchdog_holds_nothing_of_pulsars(host: Engine, node: Node) -> None:
    """Pulsar reads the job's output until every copy of the pipe is closed."""
    job = node.start(host, sh("while [ ! -e /tmp/go ]; do sleep 0.02; done"))
    until(lambda: job.watch() == "watching\n" and job.journal(), 10)
    watchdogs = [
        pid
        for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
        if _is_watchdog(pid, job.name)
    ]
    assert len(watchdogs) == 1
    links = [
        os.readlink(f"/proc/{watchdogs[0]}/fd/{fd}")
        for fd in os.listdir(f"/proc/{watchdogs[0]}/fd")
    ]
    assert sorted(link.split(":")[0] for link in links) == ["/dev/null"] * 3 + ["pipe"]
    assert os.getsid(watchdogs[0]) != os.getsid(job.process.pid)
    (job.directory / "working" / "task" / "root" / "tmp" / "go").touch()
    job.report().complete()
    until(lambda: not os.path.exists(f"/proc/{watchdogs[0]}"), 5)
    assert job.watch() == "watching\n"


def _is_watchdog(pid: int, job: str) -> bool:
    """Tell the watchdog by its command line, which is the runner's, and its own session."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        with open(f"/proc/{pid}/environ", "rb"):
            directory = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return False
    own = b"runner.pyz" in line and directory == "/" and _stdout_of(pid) == "/dev/null"
    return own and any(f"/{job}/" in arg for arg in [_runner_of(pid)])


def _stdout_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/1")
    except OSError:
        return ""


def _runner_of(pid: int) -> str:
    """Return a path of the job that the pipe of this watchdog belongs to."""
    pipes = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")} - {
        "/dev/null"
    }
    for other in filter(str.isdigit, os.listdir("/proc")):
        try:
            fds = os.listdir(f"/proc/{other}/fd")
            if int(other) != pid and pipes & {os.readlink(f"/proc/{other}/fd/{fd}") for fd in fds}:
                return os.readlink(f"/proc/{other}/cwd") + "/"
        except OSError:
            continue
    return ""


def test_a_killed_watchdog_does_not_spoil_the_task(host: Engine, node: Node) -> None:
    job = node.start(host, sh("while [ ! -e /tmp/go ]; do sleep 0.02; done"))
    until(lambda: job.watch() == "watching\n" and job.journal(), 10)
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if _is_watchdog(pid, job.name):
            os.kill(pid, 9)
    (job.directory / "working" / "task" / "root" / "tmp" / "go").touch()
    job.report().complete()


def reaper(
    node: Node, engine: Engine, of: str, containers: int, user: str | None = None
) -> dict[str, object]:
    job = node.start(engine, user=user, mode="reap", of=of, containers=containers)
    return dict(job.report().document)


def test_a_reaper_ends_what_a_lost_job_left(engine: Engine, node: Node) -> None:
    """The runner and its watchdog are killed, so only the reaper can clean up."""
    job = node.start(engine, sh(LONG), volumes=["/o"])
    until(lambda: sum("sleep" in line for line in job.processes()) >= 3, 30)
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if _is_watchdog(pid, job.name):
            os.kill(pid, 9)
    if engine.kind != "host":  # a sandbox dies with its runner
        job.process.kill()
        job.process.communicate()
        assert engine.kind == "apptainer" or job.processes()
    said = reaper(node, engine, job.name, 1)
    assert said["outcome"] == "complete", said
    assert engine.containers(job.name) == []
    job.process.communicate()
    assert until(lambda: not job.processes(), 2) < 2
    shutil.rmtree(job.directory)
    node.jobs.remove(job)


def test_a_reaper_ends_a_runner_that_still_runs(docker: Engine, node: Node, user: str) -> None:
    job = node.start(docker, sh(LONG), volumes=["/o"], user=user)
    until(lambda: sum("sleep" in line for line in job.processes()) >= 3, 30)
    said = reaper(node, docker, job.name, 1, user)
    assert said["outcome"] == "complete", said
    assert job.process.wait(10) == -9
    job.process.communicate()
    until(lambda: job.watch() == "reaped\n", 10)
    until(lambda: not job.processes(), 10)
    assert docker.containers(job.name) == []


def test_a_reaper_of_nothing_is_content(docker: Engine, host: Engine, node: Node) -> None:
    for engine in (docker, host):
        assert reaper(node, engine, "never-was", 2)["outcome"] == "complete"


def test_a_reaper_that_cannot_ask_the_engine_says_so(node: Node) -> None:
    broken = Engine(
        kind="docker", program="docker", global_args=("--host", "unix:///nonexistent/docker.sock")
    )
    job = node.start(broken, mode="reap", of="lost", containers=1)
    said = job.report()
    node.jobs.remove(job)
    assert said.outcome == "system_error"
    assert "may be left" in said.reason


@pytest.mark.parametrize("of", ["../x", "", "a/b", "."])
def test_a_reaper_only_takes_names(docker: Engine, node: Node, of: str) -> None:
    job = node.start(docker, mode="reap", of=of, containers=1)
    assert job.report().outcome == "system_error"


def test_the_zip_is_run_and_removed(host: Engine, node: Node) -> None:
    """As the server sends it: program, its compiled form, and order in one file."""
    job = node.base / "zipped"
    for part in ("working", "inputs", "outputs", "metadata"):
        (job / part).mkdir(parents=True)
    executors = [{"image": "x", "command": ["echo", "zipped"]}]
    order = {"version": 1, "job": "zipped", "engine": {"kind": "host"}, "executors": executors}
    (job / "inputs" / "run.pyz").write_bytes(Parcels().pack(order))
    command = f"{sys.executable} -IS ../inputs/run.pyz 2> ../metadata/tool_stderr"
    done = subprocess.run(
        ["/bin/bash", "-c", command], cwd=job / "working", check=True, capture_output=True
    )
    assert decoded(done.stdout.decode())["executors"][0]["stdout"] == "zipped\n"
    assert (job / "metadata" / "tool_stderr").read_text() == ""
    assert os.listdir(job / "inputs") == []
    assert os.listdir(job / "working") == []


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parts[-3])
def test_every_python_runs_it(host: Engine, docker: Engine, node: Node, python: str) -> None:
    for engine in (host, docker):
        executors = (sh("cat /in/x; echo e >&2"), sh("exit 3"))
        done = node.run(engine, *executors, inputs=[file("/in/x", "žluť")], python=python)
        assert (done.outcome, done.codes) == ("executor_error", [0, 3])
        assert done.stdout() == "žluť"
        assert done.stderr == ""


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1", ""])
def test_the_locale_of_the_node_does_not_matter(
    host: Engine, node: Node, monkeypatch: pytest.MonkeyPatch, locale: str
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    done = node.run(host, sh("cat '/in/ž'; echo 'č'"), inputs=[file("/in/ž", "ř")]).complete()
    assert done.stdout() == "řč\n"


@pytest.mark.parametrize(
    "order",
    [{}, {"job": "x"}, {"engine": {"kind": "docker"}}, {"job": "x", "engine": {"kind": "lxc"}}],
)
def test_an_order_that_makes_no_sense_is_answered(
    node: Node, tmp_path: Path, order: dict[str, object]
) -> None:
    for part in ("working", "outputs"):
        (tmp_path / part).mkdir()
    (tmp_path / "o.json").write_text(json.dumps(order))
    argv = [sys.executable, "-IS", str(node.program), str(tmp_path / "o.json")]
    done = subprocess.run(argv, cwd=tmp_path / "working", check=True, capture_output=True)
    said = decoded(done.stdout.decode())
    assert said["outcome"] == "system_error"
    assert "order cannot be carried out" in said["reason"]
