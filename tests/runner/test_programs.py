"""How a program is started, what it says, and how it ends: in every engine."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.needs import need
from tests.runner.conftest import Engine, Node, engine_named, file, sh, until

ODD = (
    *("with space", "$HOME", "`id`", "$(id)", "a;b", "a&&b", "a|b", "new\nline", "", "./x"),
    *("http://x//y/", "'", '"', "\\", "--help", "-v", "*", "~", "ž日本", "tab\t", "{}", "!x"),
    *("#", "a=b", "%s"),
)


def test_arguments_arrive_unchanged(engine: Engine, node: Node) -> None:
    printer = ["/bin/sh", "-c", 'for a in "$@"; do printf "<%s>\\n" "$a"; done', "sh", *ODD]
    assert node.run(engine, printer).complete().stdout() == "".join(f"<{one}>\n" for one in ODD)


def test_environment_arrives_unchanged(engine: Engine, node: Node) -> None:
    env = {f"V{number}": value for number, value in enumerate(ODD)} | {
        "HOME": "/w k",
        "_a1": "x,y",
        "LANG": "C",
    }
    script = "".join(f'printf "<%s>\\n" "${name}"; ' for name in env)
    done = node.run(engine, sh(script, env=env, workdir="/w k")).complete()
    assert done.stdout() == "".join(f"<{value}>\n" for value in env.values())


def test_environment_of_the_node_does_not_get_in(
    engine: Engine, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"] + ":/tesp-marker")
    assert (
        "tesp-marker" not in node.run(engine, sh("env; cat /proc/self/environ")).complete().stdout()
    )


@pytest.mark.parametrize("code", [1, 125, 127, 255])
def test_the_exit_code_is_the_programs_own(engine: Engine, node: Node, code: int) -> None:
    done = node.run(engine, sh(f"echo said; exit {code}"), sh("echo never"))
    assert (done.outcome, done.codes) == ("executor_error", [code])
    assert done.stdout() == "said\n"
    assert f"exit code {code}" in done.reason


def test_a_failure_that_may_be_ignored_is(engine: Engine, node: Node) -> None:
    done = node.run(engine, sh("exit 9", ignore_error=True), sh("echo went on")).complete()
    assert done.codes == [9, 0]
    assert done.stdout(1) == "went on\n"


def test_a_signal_is_an_exit_code(engine: Engine, node: Node) -> None:
    assert node.run(engine, sh("sh -c 'kill -KILL $$'; exit 1")).codes == [137]


@pytest.mark.parametrize("program", ["/no/such", "-no-such", "", "/etc/passwd"])
def test_a_missing_program_is_the_executors_failure(
    engine: Engine, node: Node, program: str
) -> None:
    done = node.run(engine, [program, "x"])
    assert done.outcome == "executor_error", done.document
    assert done.codes in ([126], [127])
    assert "executor 0: the program could not be started" in done.log


def test_outputs_are_sent_after_a_failure(engine: Engine, node: Node) -> None:
    outputs = [
        {"path": "/o/a", "url": f"{node.shared}/a"},
        {"path": "/o/b", "url": f"{node.shared}/b"},
    ]
    done = node.run(engine, sh("echo 1 > /o/a; exit 4"), outputs=outputs)
    assert (done.outcome, done.codes) == ("executor_error", [4])
    assert (node.shared / "a").read_text() == "1\n"
    assert "output /o/b (FILE) was not written" in done.log


def test_tails_are_the_ends_of_binary_streams(engine: Engine, node: Node) -> None:
    script = "printf '\\377\\376ok\\n'; printf '\\200bad' >&2"
    done = node.run(
        engine, sh(script, stdout="/o/out"), outputs=[{"path": "/o/out", "url": f"{node.shared}/o"}]
    )
    assert done.complete().stdout() == "\ufffd\ufffdok\n"
    assert done.stderr_of() == "\ufffdbad"
    assert (node.shared / "o").read_bytes() == b"\xff\xfeok\n"


def test_two_gigabytes_of_output_take_no_memory(engine: Engine, node: Node) -> None:
    # A third of it where a daemon is in between: that is slower, and no different to the runner.
    size = 2_000_000_000 if engine.kind in {"host", "apptainer"} else 700_000_000
    job = node.start(engine, sh(f"head -c {size} /dev/zero; echo end"), tail_bytes=1000)
    peak = 0
    while job.process.poll() is None:
        try:
            peak = max(peak, _resident_kb(job.process.pid))
        except (OSError, StopIteration):
            break
        time.sleep(0.05)
    done = job.report().complete()
    assert done.stdout() == "\0" * 996 + "end\n"
    assert peak < 60_000


def _resident_kb(pid: int) -> int:
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def test_limits_are_seen_from_inside(daemon: Engine, node: Node) -> None:
    script = (
        "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes 2>/dev/null || :;"
        "cat cpu.max cpu/cpu.cfs_quota_us 2>/dev/null || :"
    )
    limits = {"cpu_cores": 1, "ram_gb": 0.25}
    seen = node.run(daemon, sh(script), limits=limits).complete().stdout()
    assert seen.split()[:2] == [str(1 << 28), "100000"]


@pytest.mark.parametrize("kind", ["apptainer", "host"])
def test_limits_are_those_of_the_control_group_inside(kind: str, node: Node) -> None:
    """These show no /sys/fs/cgroup inside: the group's name is read there, its limits outside."""
    need("root")
    script = "cat /proc/self/cgroup > /tmp/group; while [ ! -e /tmp/go ]; do sleep 0.02; done"
    limits = {"cpu_cores": 1, "ram_gb": 0.25}
    job = node.start(engine_named(kind), sh(script), limits=limits)
    tmp = job.directory / "working" / "task" / "root" / "tmp"
    until(lambda: (tmp / "group").exists() and (tmp / "group").read_text().endswith("\n"), 10)
    lines = [line.split(":") for line in (tmp / "group").read_text().splitlines()]
    groups = {name: path for _, names, path in lines for name in names.split(",")}
    limit = _limit(groups, "memory", "memory.limit_in_bytes", "memory.max")
    quota = _limit(groups, "cpu", "cpu.cfs_quota_us", "cpu.max")
    (tmp / "go").touch()
    job.report().complete()
    assert (limit, quota) == (str(1 << 28), "100000")
    assert not any(job.name in root for root, _, _ in os.walk("/sys/fs/cgroup"))


def _limit(groups: dict[str, str], controller: str, first: str, second: str) -> str:
    """Return the limit of a control group, in the old layout or the unified one."""
    top = Path("/sys/fs/cgroup")
    old = top / controller / groups.get(controller, "").lstrip("/") / first
    new = top / groups.get("", "").lstrip("/") / second
    return (old if old.exists() else new).read_text().split()[0]


def test_too_much_memory_is_told_as_such(engine: Engine, node: Node) -> None:
    done = node.run(engine, sh("exec tail /dev/zero"), limits={"ram_gb": 0.06})
    assert (done.outcome, done.codes) == ("executor_error", [137])
    assert "executor 0 was" in done.log
    assert "because it needed more memory than 0.06 GB" in done.log


def test_more_cpus_than_there_are_is_no_failure(engine: Engine, node: Node) -> None:
    done = node.run(engine, ["true"], limits={"cpu_cores": 4096}).complete()
    assert "4096 CPUs were asked for, this node has" in done.log


def test_the_image_is_known_by_its_digest(daemon: Engine, node: Node) -> None:
    done = node.run(daemon, ["true"], {"command": ["true"], "image": "alpine"}).complete()
    assert done.document["metadata"]["image_digest_0"].startswith("sha256:")
    assert done.document["metadata"]["image_digest_1"].startswith("sha256:")


def test_two_executors_have_two_images(node: Node) -> None:
    docker = engine_named("docker")
    other = {"image": docker.noshell, "command": ["/bin/noshell", "cat", "/o/x"]}
    done = node.run(docker, sh("echo 1 > /o/x; test -e /bin/sh"), other, volumes=["/o"]).complete()
    assert done.stdout(1) == "1\n"


def test_an_image_without_a_shell_runs(engine: Engine, node: Node) -> None:
    if engine.kind == "host":
        return
    executor = {
        "image": engine.noshell,
        "command": ["/bin/noshell", "cat-stdin"],
        "stdin": "/d/i",
        "workdir": "/w",
    }
    done = node.run(engine, executor, inputs=[file("/d/i", "read")]).complete()
    assert done.stdout() == "read"


def test_an_entrypoint_of_the_image_does_not_run(daemon: Engine, node: Node) -> None:
    name = "tesp-test/runner-entry:1"
    source = subprocess.run(
        [daemon.program, *daemon.global_args, "create", *daemon.run_args, "alpine", "true"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    change = [
        "commit",
        "--change",
        'ENTRYPOINT ["/bin/false"]',
        "--change",
        'CMD ["x"]',
        source,
        name,
    ]
    subprocess.run([daemon.program, *daemon.global_args, *change], check=True, capture_output=True)
    try:
        assert (
            node.run(daemon, {"image": name, "command": ["echo", "mine"]}).complete().stdout()
            == "mine\n"
        )
    finally:
        for argv in (["rm", source], ["rmi", name]):
            subprocess.run(
                [daemon.program, *daemon.global_args, *argv], check=True, capture_output=True
            )


def test_an_image_that_cannot_be_had_is_the_systems_failure(engine: Engine, node: Node) -> None:
    if engine.kind == "host":
        return
    done = node.run(engine, {"image": "127.0.0.1:1/no/such:1", "command": ["true"]})
    assert done.outcome == "system_error"
    assert "127.0.0.1:1/no/such:1 cannot be pulled" in done.reason
    assert done.document["executors"] == []


def test_an_engine_that_is_missing_is_named(node: Node) -> None:
    for kind in ("docker", "podman", "apptainer", "singularity"):
        engine = Engine(kind=kind, program=f"/nonexistent/{kind}")
        done = node.start(engine, {"image": "alpine", "command": ["true"]})
        report = done.report()
        node.jobs.remove(done)  # its engine cannot be asked what is left
        assert report.outcome == "system_error"
        assert f"/nonexistent/{kind}" in report.reason


def test_a_container_killed_by_others_ends_the_task(daemon: Engine, node: Node) -> None:
    job = node.start(daemon, sh("echo up; exec sleep 100"))
    until(lambda: _running(daemon, job.name), 20)
    name = f"tesp-test-{job.name}-0"
    subprocess.run(
        [daemon.program, *daemon.global_args, "kill", name], check=True, capture_output=True
    )
    done = job.report()
    assert (done.outcome, done.codes) == ("executor_error", [137])
    job = node.start(daemon, sh("exec sleep 100"))
    until(lambda: _running(daemon, job.name), 20)
    name = f"tesp-test-{job.name}-0"
    hurry = ["--time", "0"] if daemon.kind == "podman" else []
    argv = [daemon.program, *daemon.global_args, "rm", "-f", *hurry, name]
    subprocess.run(argv, check=True, capture_output=True)
    done = job.report()
    assert done.outcome in {"system_error", "executor_error"}


def _running(engine: Engine, job: str) -> str:
    argv = [engine.program, *engine.global_args, "ps", "-q", "--filter", f"label=tesp.job={job}"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_times_and_journal_tell_the_same_story(host: Engine, node: Node) -> None:
    job = node.start(host, sh("sleep 0.1"), sh("exit 3"))
    done = job.report()
    events = [(one["event"], one["index"], one.get("exit_code")) for one in job.journal()]
    assert events == [
        ("executor_start", 0, None),
        ("executor_end", 0, 0),
        ("executor_start", 1, None),
        ("executor_end", 1, 3),
    ]
    first, second = done.document["executors"]
    moments = [first["start_time"], first["end_time"], second["start_time"], second["end_time"]]
    assert [done.document["started_at"], *moments, done.document["ended_at"]] == sorted(
        [*moments, done.document["started_at"], done.document["ended_at"]]
    )


def test_the_heart_beats(host: Engine, node: Node) -> None:
    job = node.start(host, sh("while [ ! -e /tmp/go ]; do sleep 0.02; done"), heartbeat_s=0.1)
    beat = job.directory / "outputs" / "tes_heartbeat"
    until(lambda: beat.exists() and '"beat": 3' in beat.read_text(), 10)
    (job.directory / "working" / "task" / "root" / "tmp" / "go").touch()
    job.report().complete()


def test_sigpipe_is_what_programs_expect(host: Engine, node: Node) -> None:
    assert (
        node.run(host, ["/bin/bash", "-c", "yes | head -1; echo ${PIPESTATUS[0]}"]).stdout()
        == "y\n141\n"
    )


def test_a_stopped_client_does_not_stop_the_program(node: Node) -> None:
    """The daemon's client is killed; the program's own end is what counts."""
    docker = engine_named("docker")
    job = node.start(docker, sh("sleep 1.5; exit 6"))
    until(lambda: _running(docker, job.name), 20)
    for process in job.processes():
        assert "start" in process or "runner.pyz" in process or "sleep" in process
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as handle:
                line = handle.read().split(b"\0")
        except OSError:
            continue
        if line[1:3] == [b"start", b"--attach"] and job.name.encode() in line[3]:
            os.kill(int(pid), signal.SIGKILL)
    assert job.report().codes == [6]
