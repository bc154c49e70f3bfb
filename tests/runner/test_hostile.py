"""What a hostile task tries: each field of an order, in each engine."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.needs import need
from tests.runner.conftest import Engine, Node, engine_named, file, sh

OPTIONS = (
    "--volume=/:/h",
    "-v/:/h",
    "--privileged",
    "--mount=type=bind,source=/,target=/h",
    "-B/:/h",
    "--bind=/:/h",
)
MARK = "tesp-hostile-marker"


@pytest.fixture
def secret(node: Node) -> Path:
    """A file of the node that no task may see or change."""
    path = node.base / MARK
    path.write_text("secret")
    return path


def test_an_image_is_never_an_option_nor_a_path(engine: Engine, node: Node, secret: Path) -> None:
    images = [*OPTIONS, "alpine --privileged", "", "-", "--", "/", "/etc", "../x", "alpine\n-v/:/h"]
    for image in images[: 2 if engine.kind == "host" else None]:
        done = node.run(engine, sh(f"cat /h{secret} {secret} || ls /h || true", image=image))
        if engine.kind == "host":
            assert done.complete().stdout() == ""
        else:
            assert done.outcome == "system_error", image
            assert done.document["executors"] == []


@pytest.mark.parametrize(
    "image",
    [
        "/etc/passwd",
        "/var/lib/tesp-test/images/../../../../etc/passwd",
        "docker-daemon://alpine",
        "instance://x",
        "oras:///etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1/x",
    ],
)
def test_a_local_image_lies_below_the_roots(apptainer: Engine, node: Node, image: str) -> None:
    done = node.run(apptainer, {"image": image, "command": ["true"]})
    assert done.outcome == "system_error"
    assert done.document["executors"] == []


def test_a_link_out_of_the_image_roots_is_no_image(apptainer: Engine, node: Node) -> None:
    root = node.base / "images"
    root.mkdir()
    (root / "alpine-latest.sif").symlink_to(f"{apptainer.image_roots[0]}/alpine-latest.sif")
    limited = Engine(
        kind="apptainer", program="apptainer", image_roots=(str(root),), image_schemes=()
    )
    for image in ("alpine", f"{root}/alpine-latest.sif", "docker://alpine"):
        done = node.run(limited, {"image": image, "command": ["true"]})
        assert done.outcome == "system_error"


def test_a_command_is_never_an_option(engine: Engine, node: Node, secret: Path) -> None:
    done = node.run(engine, [OPTIONS[0], "ls", "/h"])
    assert (done.outcome, done.codes) == ("executor_error", [127])
    words = [*OPTIONS, f"--env-file={secret}", "--", "-"]
    said = node.run(engine, ["/bin/echo", *words]).complete().stdout()
    assert said == " ".join(words) + "\n"


def test_a_workdir_is_a_directory(engine: Engine, node: Node) -> None:
    workdirs = ["/w --privileged", "/w,source=x", "/-v", "/w:/h", '/w"x', "/$(id)", "/w\nx"]
    executors = [sh("pwd; test ! -e /h/etc", workdir=workdir) for workdir in workdirs]
    done = node.run(engine, *executors).complete()
    assert [done.stdout(index) for index in range(7)] == [f"{one}\n" for one in workdirs]


def test_environment_reaches_the_program_alone(engine: Engine, node: Node, secret: Path) -> None:
    nasty = {
        "LD_PRELOAD": "/nonexistent.so", "DOCKER_HOST": "tcp://127.0.0.1:1", "CONTAINER_HOST": "tcp://127.0.0.1:1",
        "APPTAINER_BIND": "/:/h", "SINGULARITY_BIND": "/:/h", "APPTAINERENV_X": "1", "HTTP_PROXY": "http://127.0.0.1:1",
        "PYTHONPATH": "/tmp", "BASH_ENV": "/tmp/x", "X": f"x --volume=/:/h,{secret}", "IFS": "x",
    }  # fmt: skip
    script = f'test ! -e /h; cat /h{secret} 2>/dev/null || echo "$DOCKER_HOST|$APPTAINERENV_X|$X"'
    done = node.run(engine, sh(script, env=nasty))
    assert done.outcome == "complete", done.document
    assert done.stdout() == f"tcp://127.0.0.1:1|1|x --volume=/:/h,{secret}\n"


@pytest.mark.parametrize("name", ["", "A=B", "=", "A\0B"])
def test_an_environment_name_that_is_none_is_refused(host: Engine, node: Node, name: str) -> None:
    done = node.run(host, {"command": ["true"], "env": {name: "x"}})
    assert done.outcome == "system_error"
    assert "order cannot be carried out" in done.reason


def test_odd_environment_names(daemon: Engine, node: Node, apptainer: Engine, host: Engine) -> None:
    env = {"a.b-c": "1", "--volume": "2", "-v": "3", "9": "4", "x y": "5"}
    for engine in (daemon, host):
        seen = node.run(engine, {"command": ["env"], "env": env}).complete().stdout().splitlines()
        assert {f"{name}={value}" for name, value in env.items()} <= set(seen)
    done = node.run(apptainer, {"command": ["env"], "env": {"a;touch /tmp/x": "1"}})
    assert "apptainer cannot set a variable named 'a;touch /tmp/x'" in done.reason


def test_a_path_cannot_become_a_mount_option(engine: Engine, node: Node) -> None:
    paths = ["/a,source=/,target=/h/x", "/a:/h/x", '/a"/x', "/a,readonly/x", "/a:rw:z/x", "/--v/x"]
    script = 'test ! -e /h/etc; for f in "$@"; do echo seen > "$f"; done'
    outputs = [{"path": path, "url": f"{node.shared}/{n}"} for n, path in enumerate(paths)]
    done = node.run(engine, ["/bin/sh", "-euc", script, "sh", *paths], outputs=outputs).complete()
    assert [one["path"] for one in done.outputs] == paths


def test_a_return_before_a_line_feed_is_refused_with_a_reason(engine: Engine, node: Node) -> None:
    done = node.run(engine, ["true"], inputs=[file("/a\r\nb/x", "")])
    if engine.kind == "host":
        done.complete()
    else:
        assert done.outcome == "system_error"
        assert "carriage return before a line feed" in done.reason


@pytest.mark.parametrize("field", ["job", "task", "instance"])
@pytest.mark.parametrize("name", ["../x", "a b", "--rm", "x;y", ""])
def test_names_of_the_server_are_checked_too(
    docker: Engine, node: Node, field: str, name: str
) -> None:
    if (field, name) == ("job", "--rm") or name == "--rm":
        return  # a name of the alphabet: it only ever stands behind a prefix
    job = node.start(docker, ["true"], **{field: name})
    out, _ = job.process.communicate(timeout=60)
    from tests.runner.conftest import decoded

    assert decoded(out.decode())["outcome"] == "system_error"


def test_what_is_planted_for_the_runner_is_not_followed(
    engine: Engine, node: Node, secret: Path
) -> None:
    """The second executor's streams, and the outputs, are links, FIFOs and devices by the first."""
    if engine.kind in {"docker", "podman"}:
        need("root")
        device = (
            "(mknod /o/disk b 254 0 && mknod /o/null c 1 3) || true"  # podman gives no right to
        )
    else:
        device = "true"
    plant = f"ln -s {secret} /o/link; mkfifo /o/fifo; ln -s {secret.parent} /o/dir; {device}"
    write = {"command": ["/bin/echo", "overwritten"], "ignore_error": True}
    outputs = [
        {"path": f"/o/{name}", "url": f"{node.shared}/{name}"}
        for name in ("link", "fifo", "disk", "null")
    ]
    done = node.run(
        engine,
        sh(plant),
        {**write, "stdout": "/o/link"},
        {**write, "stderr": f"/o/dir/{MARK}"},
        outputs=outputs,
    )
    assert done.outcome == "complete", done.document
    assert secret.read_text() == "secret"
    assert all(not (node.shared / name).exists() for name in ("fifo", "disk", "null"))
    for stream in ("stdin", "stdout"):
        done = node.run(
            engine, sh(plant), {"command": ["/bin/cat"], stream: "/o/fifo"}, volumes=["/o"]
        )
        assert done.outcome == "system_error"
        assert "not a regular file" in done.reason
    done = node.run(
        engine, sh(plant), {"command": ["/bin/cat"], "stdin": "/o/link"}, volumes=["/o"]
    )
    assert done.outcome == "system_error"
    assert "secret" not in json.dumps(done.document["executors"])


def test_a_tree_of_any_depth_and_mode_is_removed(engine: Engine, node: Node, user: str) -> None:
    script = (
        "cd /v; i=0; while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i+1)); done; echo x > f;"
        "cd /v; mkdir -p c/i; echo > c/i/f; chmod 0 c/i c; mkfifo p; ln -s / l;"
        "echo > \"$(printf '\\377')\";"
        "mkdir own; echo > own/setuid; chmod 4755 own/setuid"
    )
    if engine.kind == "podman":
        node.run(engine, sh(script), volumes=["/v"]).complete()
    else:
        node.run(engine, sh(script), volumes=["/v"], user=user).complete()


def test_a_setuid_file_of_a_task_is_out_of_others_reach(
    docker: Engine, node: Node, user: str
) -> None:
    script = "cp /bin/sh /v/sh; chmod 4755 /v/sh; while [ ! -e /v/go ]; do sleep 0.05; done"
    job = node.start(docker, sh(script), volumes=["/v"])
    planted = job.directory / "working" / "task" / "root" / "v" / "sh"
    from tests.runner.conftest import until

    until(lambda: planted.exists() and planted.stat().st_mode & stat.S_ISUID, 20)
    other = ["setpriv", "--reuid", user, "--clear-groups", "--regid", "1001", "/bin/sh", "-c"]
    tried = subprocess.run([*other, f"{planted} -c id"], check=False, capture_output=True)
    (planted.parent / "go").touch()
    job.report().complete()
    assert tried.returncode != 0
    assert b"uid=" not in tried.stdout


def test_two_instances_do_not_share_names(docker: Engine, node: Node) -> None:
    done = node.run(docker, ["true"], instance="other").complete()
    assert os.listdir(done.directory / "working") == []
    assert engine_named("docker").containers(done.directory.name) == []
