"""Children whose output is streamed."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.streams import CHUNK, Sink, Tail
from tesp_api.runner.trouble import readable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Child(NamedTuple):
    """A started process and the ends of its pipes."""

    pid: int
    stdout: int
    stderr: int


class BadStart(Exception):
    """A child said why it could not become what it should."""


def launch(body: Callable[[int], None], stdin: int | None = None) -> Child:
    """Fork a child that runs `body`, which ends in exec, with pipes for its output.

    `body` gets a descriptor that closes by exec; what is written into it, or raised, is raised
    here as BadStart.
    """
    out, err, word = os.pipe(), os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _take_streams(stdin, out[1], err[1])
            body(word[1])
        except BaseException as error:  # noqa: BLE001 - in a forked child nothing may run on
            os.write(word[1], readable(str(error)).encode()[:4000])
        os._exit(127)
    for descriptor in (out[1], err[1], word[1]):
        os.close(descriptor)
    child = Child(pid, out[0], err[0])
    said = b"".join(iter(lambda: os.read(word[0], 4096), b""))
    os.close(word[0])
    if said:
        finish(child)
        raise BadStart(said.decode("utf-8", "replace"))
    return child


def _take_streams(stdin: int | None, out: int, err: int) -> None:
    source = os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin
    for number, descriptor in enumerate((source, out, err)):
        os.dup2(descriptor, number)
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)  # Python ignores them; exec would hand that on


def program(
    argv: Sequence[str], env: Mapping[str, str], directory: str = "."
) -> Callable[[int], None]:
    """Return a body for `launch` that becomes the program `argv`."""

    def body(_word: int) -> None:
        try:
            os.chdir(directory)
            os.execvpe(argv[0], list(argv), dict(env))
        except OSError as error:
            raise BadStart(f"{argv[0]}: {error.strerror}") from error

    return body


def pump(child: Child, out: Sink, err: Sink, deadline: float | None = None) -> bool:
    """Move what `child` writes into the sinks; False if `deadline` (monotonic) passed first.

    Also stops when a sink fails: then nothing that the child still writes is wanted.
    """
    sinks = {child.stdout: out, child.stderr: err}
    poll = select.poll()
    for descriptor in sinks:
        poll.register(descriptor, select.POLLIN)
    while sinks:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = poll.poll(left)
        if not ready:
            return False
        for descriptor, _ in ready:
            data = os.read(descriptor, CHUNK)
            if data:
                sinks[descriptor].write(data)
            else:
                poll.unregister(descriptor)
                del sinks[descriptor]
        if out.failure or err.failure:
            return False
    return True


def finish(child: Child, *, kill: bool = False) -> int:
    """Wait for the end of `child` and return its exit code, 128 + n after signal n."""
    if kill:
        os.kill(child.pid, signal.SIGKILL)
    os.close(child.stdout)
    os.close(child.stderr)
    return exit_code(os.waitpid(child.pid, 0)[1])


def exit_code(status: int) -> int:
    """Return the exit code in a wait status as a shell would, 128 + n after signal n."""
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


class Done(NamedTuple):
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


class Command:
    """A short engine command, started at once; `done` waits for it."""

    LIMIT = 1 << 20

    def __init__(self, argv: Sequence[str], timeout_s: float | None) -> None:
        self.argv = argv
        self.deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.child = launch(program(argv, client_env()))

    def done(self) -> Done:
        """Wait for the end, and kill what takes too long."""
        out, err = Sink(Tail(self.LIMIT)), Sink(Tail(self.LIMIT))
        in_time = pump(self.child, out, err, self.deadline)
        code = finish(self.child, kill=not in_time)
        if not in_time:
            return Done(124, "", f"{self.argv[0]} did not answer in time")
        return Done(code, out.tail.text(), err.tail.text().strip())


CLIENT_ENV = re.compile(
    r"PATH|LANG|LC_ALL|TMPDIR|XDG_(RUNTIME_DIR|CONFIG_HOME|DATA_HOME)|DBUS_SESSION_BUS_ADDRESS"
    r"|DOCKER_\w+|CONTAINERS?_\w+|REGISTRY_AUTH_FILE"
    r"|(APPTAINER|SINGULARITY)_(CACHEDIR|TMPDIR|CONFIGDIR|DOCKER_USERNAME|DOCKER_PASSWORD)"
    r"|(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy|SSL_CERT_(FILE|DIR)"
)


def client_env() -> dict[str, str]:
    """Return the environment of an engine's client: the Pulsar user's, nothing of the task's."""
    env = {name: value for name, value in os.environ.items() if CLIENT_ENV.fullmatch(name)}
    env.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    return {**env, "HOME": _home()}


def _home() -> str:
    # Pulsar gives each job a HOME of its own, where the user's registry log-ins are not.
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return os.environ.get("HOME", "/")


def close_all_but(*kept: int) -> None:
    """Close every descriptor but those in `kept`."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                continue  # the one by which the directory was read


def kill_group(leader: int) -> None:
    """Kill a process group, if it is there and ours."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def kill(pid: int) -> None:
    """Kill a process, if it is there and ours."""
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
