"""The sandbox of the engine `host`: namespaces around the node's own programs."""

from __future__ import annotations

import errno
import os
import re
import signal
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.engine import MISSING, NOT_EXECUTABLE
from tesp_api.runner.kernel import (
    CLONE_NEWIPC,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    MOUNT_OPTIONS,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    Kernel,
)
from tesp_api.runner.mounts import Mount
from tesp_api.runner.order import is_below
from tesp_api.runner.processes import BadStart, close_all_but, exit_code
from tesp_api.runner.trouble import readable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

INNER_ID = 1000

SYSTEM_DIRECTORIES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt")

EMPTY_DIRECTORIES = (
    "/etc",
    "/home",
    "/root",
    "/var",
    "/var/tmp",
    "/run",
    "/mnt",
    "/media",
    "/srv",
    "/proc",
    "/dev",
)

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

DEVICE_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
                "stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx"}  # fmt: skip

ETC = (
    *("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "resolv.conf", "hosts"),
    *("host.conf", "gai.conf", "localtime", "timezone", "protocols", "services", "mime.types"),
    *("alternatives", "ssl/certs", "ssl/openssl.cnf", "pki/tls/certs", "pki/tls/cert.pem"),
    *("pki/ca-trust", "ca-certificates.conf", "crypto-policies", "fonts", "magic", "locale.conf"),
    *("default/locale", "inputrc", "perl", "R", "java-*-openjdk", "python3", "python3.*"),
)

ACCOUNTS = """root:x:0:0:root:/root:/bin/sh
task:x:1000:1000:task:/tmp:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""

GROUP = "root:x:0:\ntask:x:1000:\nnogroup:x:65534:\n"


class Cage(NamedTuple):
    """What the sandboxed process needs to know; made before the fork."""

    kernel: Kernel
    top: str
    mounts: list[Mount]
    shown: list[str]
    workdir: str
    argv: list[str]
    env: dict[str, str]
    stranger: int | None  # the user id to become, when the runner is root
    groups: list[str]  # directories of control groups to join
    data_bytes: int | None


def enter(cage: Cage, word: int) -> None:
    """Become the sandbox of `cage` and run its program; in a forked child, which this never leaves.

    Three processes: this one waits outside, for only children enter a new pid namespace; its
    child is the init of the namespace, whose end kills all in it; that one's child is the
    program.
    """
    close_all_but(0, 1, 2, word)
    submit(cage)
    user, group = os.geteuid(), os.getegid()
    spaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS
    if cage.stranger is None:
        cage.kernel.unshare(spaces | CLONE_NEWUSER)
        map_ids(user, group)
    else:
        for stream in (1, 2):  # so that the program can open /dev/stderr
            os.fchown(stream, cage.stranger, cage.stranger)
        cage.kernel.unshare(spaces)
    cage.kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    pid = os.fork()
    if pid == 0:
        be_init(cage, word)
    os.close(word)
    os._exit(exit_code(os.waitpid(pid, 0)[1]))


def submit(cage: Cage) -> None:
    """Come under the task's limits."""
    for group in cage.groups:
        with open(f"{group}/cgroup.procs", "w") as handle:
            handle.write("0")
    if cage.data_bytes and not any("memory" in group for group in cage.groups):
        limit_data(cage.data_bytes)


def limit_data(limit: int) -> None:
    """Limit the memory of each process alone, where no control group can limit all."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def map_ids(user: int, group: int) -> None:
    """Make `user` and `group` the only ones that exist in the new user namespace."""
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INNER_ID} {user} 1"),
        ("gid_map", f"{INNER_ID} {group} 1"),
    ):
        with open(f"/proc/self/{file}", "w") as handle:
            handle.write(text)


def be_init(cage: Cage, word: int) -> NoReturn:
    """Build the root, give up all power, start the program, and end with its exit code."""
    try:
        furnish(cage)
        if cage.stranger is not None:
            become(cage.kernel, cage.stranger)
        forbid_user_namespaces()
        cage.kernel.drop_capabilities()
        cage.kernel.prctl(
            PR_SET_DUMPABLE, 0
        )  # the order in this process's memory is none of the program's business
        cage.kernel.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        pid = os.fork()
        if pid == 0:
            run_program(cage)
        close_all_but()
        code = None
        while code is None:
            ended, status = os.wait()
            code = exit_code(status) if ended == pid else None
    except BaseException as error:  # noqa: BLE001 - in a forked child nothing may run on
        os.write(word, readable(str(error)).encode()[:4000])
        os._exit(127)
    os._exit(code)


def become(kernel: Kernel, stranger: int) -> None:
    """Become the user `stranger`, in a user namespace where nobody else exists."""
    os.setgroups([])
    os.setresgid(stranger, stranger, stranger)
    os.setresuid(stranger, stranger, stranger)
    kernel.prctl(
        PR_SET_DUMPABLE, 1
    )  # else /proc/self belongs to root, and the ids cannot be mapped
    kernel.unshare(CLONE_NEWUSER)
    map_ids(stranger, stranger)


def forbid_user_namespaces() -> None:
    """Let the task make no user namespace: it would have capabilities there."""
    # In a user namespace of its own a task would have capabilities again, to try the kernel with.
    try:
        with open("/proc/sys/user/max_user_namespaces", "w") as handle:
            handle.write("0")
    except OSError:
        return


def run_program(cage: Cage) -> NoReturn:
    """Become the program; raises BadStart with an exit code and the reason."""
    try:
        os.setsid()
        os.chdir(cage.workdir)
        if not cage.argv[0]:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        os.execvpe(cage.argv[0], cage.argv, cage.env)
    except OSError as error:
        refused = error.errno in {errno.EACCES, errno.ENOEXEC, errno.EISDIR}
        code = NOT_EXECUTABLE if refused else MISSING
        raise BadStart(f"{code} {cage.argv[0]!r}: {error.strerror}") from error


def furnish(cage: Cage) -> None:
    """Make the root that the program sees, and enter it."""
    os.umask(0)
    kernel, top = cage.kernel, cage.top
    kernel.mount("none", "/", None, MS_REC | MS_PRIVATE)
    kernel.mount("tmpfs", top, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64m")
    places = [(point(mount.container), mount) for mount in cage.mounts]
    opened = {parent for path, _ in places for parent in parents(path)}
    for path in EMPTY_DIRECTORIES:
        os.mkdir(top + path, 0o755)
    for path in cage.shown:
        show(kernel, top, path, opened)
    furnish_etc(kernel, top, opened)
    furnish_dev(kernel, f"{top}/dev")
    kernel.mount("proc", f"{top}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for path, mount in places:
        make_point(top + path, directory=mount.kind == "directory")
        bind_mount(kernel, mount, top + path)
    if cage.stranger is not None:
        for path in ("/", "/home", "/root", "/var", "/var/tmp", "/run", "/mnt", "/media", "/srv"):
            os.chown(top + path, cage.stranger, cage.stranger)
    os.chdir(top)
    kernel.pivot_root_here()
    os.umask(0o022)


def point(path: str) -> str:
    """Return where `path` lies in the new root: the links of the node's directories count."""
    if any(is_below(path, one) for one in SYSTEM_DIRECTORIES):
        return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return path


def parents(path: str) -> Iterator[str]:
    """Yield the directories above `path`, nearest first."""
    while path != "/":
        path = os.path.dirname(path)
        yield path


def make_point(path: str, *, directory: bool) -> None:
    """Make something to mount on at `path`, unless there is something."""
    if os.path.lexists(path):
        return
    os.makedirs(path if directory else os.path.dirname(path), 0o755, exist_ok=True)
    if not directory:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def show(kernel: Kernel, top: str, path: str, opened: set[str], source: str | None = None) -> None:
    """Show `path` of the node, read-only; a directory in `opened` anew, to put things into it."""
    source = source or path
    if os.path.islink(source):
        os.makedirs(os.path.dirname(top + path), exist_ok=True)
        os.symlink(os.readlink(source), top + path)
    elif path in opened and os.path.isdir(source):
        os.makedirs(top + path, exist_ok=True)
        for name in os.listdir(source):
            show(kernel, top, f"{path}/{name}", opened)
    elif os.path.isdir(source) or os.path.isfile(source):
        make_point(top + path, directory=os.path.isdir(source))
        bind(kernel, source, top + path, MS_RDONLY | MS_NOSUID | MS_NODEV)


def furnish_etc(kernel: Kernel, top: str, opened: set[str]) -> None:
    """Make an /etc of what programs need, with accounts of its own."""
    from glob import glob

    for pattern in ETC:
        for path in glob(f"/etc/{pattern}"):
            show(kernel, top, path, opened, os.path.realpath(path))
    for name, text in (("passwd", ACCOUNTS), ("group", GROUP)):
        with open(f"{top}/etc/{name}", "w") as handle:
            os.chmod(handle.fileno(), 0o644)
            handle.write(text)


def furnish_dev(kernel: Kernel, dev: str) -> None:
    """Make a /dev of the harmless devices."""
    for name in DEVICES:
        make_point(f"{dev}/{name}", directory=False)
        kernel.mount(f"/dev/{name}", f"{dev}/{name}", None, MS_BIND)
    for name, target in DEVICE_LINKS.items():
        os.symlink(target, f"{dev}/{name}")
    for name in ("shm", "pts"):
        os.mkdir(f"{dev}/{name}", 0o755)
    kernel.mount("tmpfs", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    kernel.mount(
        "devpts",
        f"{dev}/pts",
        "devpts",
        MS_NOSUID | MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=620",
    )


def bind(kernel: Kernel, source: str, target: str, flags: int) -> None:
    """Bind `source` at `target` with all mounts below it, each with `flags` and its own."""
    kernel.mount(source, target, None, MS_BIND | MS_REC)
    for path, own in mounted_at(target):
        kernel.mount("none", path, None, MS_REMOUNT | MS_BIND | flags | own)


def bind_mount(kernel: Kernel, mount: Mount, target: str) -> None:
    """Bind what `mount` says; of the node's own, what was checked, even if a link is there now."""
    flags = MS_NOSUID | MS_NODEV | (MS_RDONLY if mount.readonly else 0)
    if not mount.bound:
        bind(kernel, mount.host, target, flags)
        return
    source = os.open(mount.host, os.O_PATH | os.O_NOFOLLOW)
    try:
        if os.readlink(f"/proc/self/fd/{source}") != mount.host:
            raise BadStart(f"what shall be bound at {mount.container} has been moved")
        bind(kernel, f"/proc/self/fd/{source}", target, flags)
    finally:
        os.close(source)


def mounted_at(top: str) -> list[tuple[str, int]]:
    """Return the mounts at and below `top` and their flags, which a remount may not leave out."""
    found = []
    with open("/proc/self/mountinfo", "rb") as handle:
        for line in handle:
            fields = line.split()
            path = os.fsdecode(
                re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), fields[4])
            )
            if is_below(path, top):
                found.append(
                    (path, sum(MOUNT_OPTIONS.get(option, 0) for option in fields[5].split(b",")))
                )
    return found
