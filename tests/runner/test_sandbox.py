"""The host engine's walls, tried from inside, by a runner that is root and by one that is not."""

import base64
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.needs import need
from tests.runner.conftest import Engine, Node, decoded, sh, until

PYTHON = "/usr/bin/python3"

SYSTEM_CALLS = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def tried(name, result):
    print(name, "REFUSED" if result < 0 else "DONE")
MS_REMOUNT, MS_BIND, MS_RDONLY = 32, 4096, 1
tried("remount", libc.mount(b"none", b"/usr", None, MS_REMOUNT | MS_BIND, None))
tried("remount-root", libc.mount(b"none", b"/", None, MS_REMOUNT, None))
tried("bind", libc.mount(b"/usr", b"/tmp", None, MS_BIND, None))
tried("tmpfs", libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))
tried("umount", libc.umount2(b"/usr", 2))
tried("umount-proc", libc.umount2(b"/proc", 2))
tried("mknod", libc.mknod(b"/tmp/disk", 0o60600, os.makedev(254, 0)))
tried("mknod-kmem", libc.mknod(b"/dev/kmem", 0o20600, os.makedev(1, 2)))
os.makedirs("/tmp/c", exist_ok=True)
tried("chroot", libc.chroot(b"/tmp/c"))
tried("pivot", libc.pivot_root(b"/tmp", b"/tmp/c"))
for name, flag in (("user", 1 << 28), ("mount", 0x20000), ("pid", 1 << 29), ("net", 1 << 30)):
    tried("unshare-" + name, libc.unshare(flag))
for number in (0, 65534):
    tried("setuid-%d" % number, libc.setuid(number))
    tried("setgid-%d" % number, libc.setgid(number))
tried("setgroups", libc.setgroups(0, None))
tried("sethostname", libc.sethostname(b"x", 1))
tried("nice", libc.setpriority(0, 0, -5) if os.nice(0) is not None else -1)
tried("ptrace-init", libc.ptrace(16, 1, 0, 0))
tried("keep", libc.prctl(24, 0, 0, 0, 0))
tried("ambient", libc.prctl(47, 2, 21, 0, 0))
for number in (0, 1, 21):
    tried("bset-%d" % number, 0 if libc.prctl(23, number, 0, 0, 0) == 1 else -1)
tried("no-new-privs-off", libc.prctl(38, 0, 0, 0, 0))
"""

FILES = """
import os
def opened(path, flags):
    try:
        os.close(os.open(path, flags)); return "DONE"
    except OSError:
        return "REFUSED"
for path in WRITTEN:
    print(path, opened(path, os.O_RDWR))
for path in READ:
    print("read", path, opened(path, os.O_RDONLY))
"""
WRITTEN = (
    *("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger"),
    *("/proc/1/mem", "/proc/1/environ", "/proc/1/uid_map", "/proc/kcore", "/usr/bin/env"),
    *("/etc/ld.so.cache", "/dev/kmsg", "/proc/sys/user/max_user_namespaces"),
)
READ = (
    *("/etc/shadow", "/proc/1/mem", "/proc/1/environ", "/root/.profile", "/var/run/docker.sock"),
    *("/boot", "/sys/kernel", "/proc/kcore", "/proc/1/fd", "/proc/1/map_files", "/dev/vda"),
    *("/dev/mem", "/lost+found"),
)


@pytest.fixture(params=["root", "ordinary"])
def who(request: pytest.FixtureRequest) -> str | None:
    """The user to run the runner as: None for root."""
    if request.param == "root":
        need("root")
        return None
    if os.geteuid():
        return None
    need("user")
    return os.environ["TESP_TEST_PULSAR_USER"]


def test_no_system_call_gets_out(host: Engine, node: Node, who: str | None) -> None:
    said = node.run(host, [PYTHON, "-c", SYSTEM_CALLS], user=who).complete().stdout().splitlines()
    assert len(said) > 20
    assert [line for line in said if line.endswith("DONE") and not line.startswith("keep")] == []


def test_no_file_of_the_node_is_open(host: Engine, node: Node, who: str | None) -> None:
    files = f"WRITTEN, READ = {WRITTEN}, {READ}\n{FILES}"
    said = node.run(host, [PYTHON, "-c", files], user=who).complete().stdout().splitlines()
    assert len(said) > 20
    assert [line for line in said if line.endswith("DONE")] == []


def test_nothing_but_what_programs_need_is_seen(host: Engine, node: Node, who: str | None) -> None:
    script = (
        "ls -A / | tr '\\n' ' '; echo; ls -A /root /home /run /srv;"
        "grep -E '^(Cap|NoNewPrivs)' /proc/self/status"
    )
    done = node.run(host, sh(script), user=who)
    text = done.stdout()
    root = set(text.splitlines()[0].split())
    assert root >= {"bin", "dev", "etc", "lib", "proc", "tmp", "usr"}
    assert not root & {"boot", "sys", "work", "lost+found"}
    assert "NoNewPrivs:\t1" in text


def test_all_capabilities_are_gone(host: Engine, node: Node, who: str | None) -> None:
    done = node.run(
        host, sh("grep -E '^(Cap|NoNewPrivs)' /proc/self/status /proc/1/status"), user=who
    )
    lines = done.complete().stdout().splitlines()
    assert len(lines) == 12
    for line in lines:
        assert line.rpartition("\t")[2] in {"0" * 16, "1"}, line


def test_setuid_programs_do_nothing(host: Engine, node: Node, who: str | None) -> None:
    """Also one that the task made itself."""
    script = (
        "cp /usr/bin/id /tmp/id; chmod 6755 /tmp/id; /tmp/id -u;"
        "for s in /usr/bin/su /bin/su; do echo | $s -c id; done; true"
    )
    text = node.run(host, ["/bin/sh", "-c", script], user=who).complete().stdout()
    assert text.splitlines() == ["1000"]


def test_signals_stay_inside(host: Engine, node: Node, who: str | None) -> None:
    """Every pid of the node is signalled; the victim of the same user and the runner live on."""
    argv = ["sleep", "60"]
    if who:
        argv = ["setpriv", "--reuid", who, "--clear-groups", "--regid", "0", *argv]
    victim = subprocess.Popen(argv)
    try:
        script = (
            f"import os\nfor pid in [*range(3, 70000), {victim.pid}]:\n"
            "  try: os.kill(pid, 9)\n  except OSError: pass\n"
            "try: os.kill(-1, 0)\nexcept OSError: pass"
        )
        done = node.run(host, [PYTHON, "-c", script], user=who)
        assert done.outcome == "complete" or done.codes == [137]
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def test_the_runners_fds_and_memory_stay_outside(host: Engine, node: Node, who: str | None) -> None:
    secret = "Bearer tesp-secret-of-the-order"
    script = (
        "ls /proc/self/fd; ls /proc/1/fd 2>&1;"
        "cat /proc/1/environ /proc/1/mem 2>/dev/null | head -c 1000000 | grep -c secret;"
        "cat /proc/self/environ | tr '\\0' '\\n'; true"
    )
    inputs = [{"path": "/in/x", "content": "x", "headers": {"Authorization": secret}}]
    done = node.run(host, ["/bin/sh", "-c", script], inputs=inputs, user=who).complete()
    assert "tesp-secret" not in done.stdout()
    assert done.stdout().splitlines()[:3] == ["0", "1", "2"]
    assert "PULSAR" not in done.stdout()


def test_the_classic_way_out_of_a_chroot_is_closed(
    host: Engine, node: Node, who: str | None
) -> None:
    script = (
        "import os\n"
        "for _ in range(40): os.chdir('..')\n"
        "print(sorted(os.listdir('.')) == sorted(os.listdir('/')))\n"
        "try:\n  os.mkdir('/tmp/x'); os.chroot('/tmp/x')\n"
        "except PermissionError: print('refused')\n"
        "print(os.path.exists('/work'), os.readlink('/proc/self/root'),"
        " os.path.exists('/proc/1/root/boot'))\n"
    )
    done = node.run(host, [PYTHON, "-c", script], user=who).complete()
    assert done.stdout() == "True\nrefused\nFalse / False\n"


def test_system_directories_cannot_be_written(host: Engine, node: Node, who: str | None) -> None:
    script = (
        "for d in /usr /usr/bin /usr/local/bin /bin /lib /opt /etc/ssl/certs /etc/alternatives; do"
        "  if touch $d/tesp-test 2>/dev/null; then echo $d; fi; done;"
        "echo x >> /usr/bin/env 2>/dev/null && echo env;"
        "chmod 777 /usr/bin/env 2>/dev/null && echo chmod; true"
    )
    assert node.run(host, ["/bin/sh", "-c", script], user=who).complete().stdout() == ""
    assert not Path("/usr/tesp-test").exists()


def test_what_the_task_starts_in_the_background_ends_with_it(
    host: Engine, node: Node, who: str | None
) -> None:
    done = node.run(
        host, sh("(setsid sleep 300 &) ; sleep 300 & echo started"), user=who
    ).complete()
    assert done.seconds < 20


def test_devices_that_programs_need_work(host: Engine, node: Node, who: str | None) -> None:
    script = (
        "echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c;"
        "echo out > /dev/stdout; echo err > /dev/stderr; : > /dev/shm/x;"
        "echo x > /dev/full || echo full; cat /dev/fd/0 < /etc/hosts > /dev/null;"
        "python3 -c 'import pty; print(pty.openpty()[0] > 2)' | head -1"
    )
    done = node.run(host, ["/bin/bash", "-c", script], user=who).complete()
    assert done.stdout() == "4\n4\nout\nfull\nTrue\n"
    assert done.stderr_of().splitlines()[0] == "err"


def test_the_network_is_the_nodes(host: Engine, node: Node, who: str | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        script = (
            f"import socket; socket.create_connection({address});"
            "print(socket.gethostbyname('localhost'))"
        )
        assert node.run(host, [PYTHON, "-c", script], user=who).complete().stdout() == "127.0.0.1\n"


def test_without_namespaces_nothing_runs(node: Node, host: Engine) -> None:
    """Inside of a sandbox the runner may make no other: it says so, and runs nothing."""
    executors = [{"image": "x", "command": ["touch", "/tmp/ran"]}]
    order = {"job": "inner", "engine": {"kind": "host"}, "executors": executors}
    script = (
        "mkdir -p /tmp/j/working /tmp/j/outputs; cd /tmp/j/working; base64 -d /in/pyz >../pyz;"
        "python3 -IS ../pyz /in/o.json; test ! -e /tmp/ran"
    )
    inputs = [
        {"path": "/in/pyz", "content": base64.b64encode(node.program.read_bytes()).decode()},
        {"path": "/in/o.json", "content": json.dumps(order)},
    ]
    said = node.run(host, sh(script), inputs=inputs, tail_bytes=1 << 20).complete().stdout()
    inner = decoded(said)
    assert inner["outcome"] == "system_error"
    assert "sandbox of engine 'host' cannot be made on this node" in inner["reason"]


def test_more_directories_of_the_node_can_be_shown(
    node: Node, host: Engine, request: pytest.FixtureRequest
) -> None:
    extra = Path("/var/tmp") / node.base.name
    extra.mkdir()
    request.addfinalizer(lambda: shutil.rmtree(extra))
    (extra / "tool").write_text("#!/bin/sh\necho tool\n")
    (extra / "tool").chmod(0o755)
    shown = Engine(kind="host", program="host", run_args=(str(extra), str(node.base)))
    done = node.run(
        shown, sh(f"{extra}/tool; touch {extra}/x 2>/dev/null || echo read-only")
    ).complete()
    assert done.stdout() == "tool\nread-only\n"


def test_a_task_cannot_outlive_its_runner(host: Engine, node: Node, who: str | None) -> None:
    job = node.start(host, sh("sleep 300 & (setsid sleep 300 &); exec sleep 300"), user=who)
    until(lambda: len([line for line in job.processes() if line.startswith("sleep")]) >= 3, 20)
    job.process.kill()
    job.process.communicate()
    assert until(lambda: not job.processes(), 10) < 10
    until(lambda: job.watch() == "reaped\n", 10)
