"""Inputs that are bound from the node itself: seen, never copied, never changed by the runner."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tesp_api.runner.mounts import Mount, impossible, mount_option, mounts
from tesp_api.runner.order import Order, read_order
from tesp_api.runner.tree import Tree, plant
from tesp_api.runner.trouble import Trouble
from tests.runner.conftest import Engine, Node, file, sh

AWKWARD = ("with space", "a,b:c=d", 'it\'s "quoted"', "ro,readonly=false", "žluť", "line\nfeed")


def bound(path: str, host: Path | str, root: Path, how: str = "ro", **more: Any) -> dict[str, Any]:
    kind = "DIRECTORY" if os.path.isdir(host) else "FILE"
    return {"path": path, "type": kind, "url": str(host), "root": str(root), "bind": how, **more}


def facts(top: Path) -> dict[str, tuple[int, ...]]:
    """Return what chown, chmod and a copy would change."""
    found = {str(path): path.lstat() for path in (top, *top.rglob("*"))}
    return {
        path: (one.st_uid, one.st_gid, one.st_mode, one.st_ino, one.st_mtime_ns)
        for path, one in found.items()
    }


@pytest.fixture
def data(node: Node) -> Path:
    """A directory of the node with files that another user made."""
    top = node.shared / "data"
    (top / "sub").mkdir(parents=True)
    (top / "x").write_text("of the node")
    (top / "sub" / "y").write_text("deep")
    (top / "link").symlink_to("sub/y")
    for path in (top, *top.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    return top


def test_bound_inputs_are_read_and_stay_as_they_are(engine: Engine, node: Node, data: Path) -> None:
    before = facts(data)
    inputs = [
        bound("/ref", data, node.shared),
        bound("/in/deep/x", data / "x", node.shared),
        bound("/etc/tesp-test.conf", data / "x", node.shared),
        bound("/opt/tesp-test", data / "sub", node.shared),
        file("/in/deep/own", "own"),
    ]
    script = (
        "cat /ref/x /ref/link /in/deep/x /etc/tesp-test.conf /opt/tesp-test/y /in/deep/own;"
        "echo; for f in /ref/x /ref/new /ref/sub/new /in/deep/x /etc/tesp-test.conf; do"
        " (echo changed > $f) 2>/dev/null && echo wrote $f; done;"
        "exec 2>/dev/null; rm -f /ref/x; chmod 777 /ref/x; mv /ref/sub /ref/other;"
        "echo scratch > /in/deep/new; cp /ref/sub/y /out/y"
    )
    outputs = [{"path": "/out/y", "url": f"{node.shared}/y", "root": str(node.shared)}]
    done = node.run(engine, sh(f"set +e; {script}"), inputs=inputs, outputs=outputs).complete()
    assert done.stdout() == "of the nodedeepof the nodeof the nodedeepown\n"
    assert facts(data) == before
    assert (node.shared / "y").read_text() == "deep"


def test_what_is_bound_to_be_written_is_written_in_its_place(engine: Engine, node: Node) -> None:
    top = node.shared / "work"
    top.mkdir()
    top.chmod(0o777)
    (top / "f").write_text("old")
    (top / "f").chmod(0o666)
    inputs = [
        bound("/work", top, node.shared, "rw"),
        bound("/in/f", top / "f", node.shared, "rw"),
    ]
    outputs = [
        {"path": "/work/made/x", "url": f"{node.shared}/sent", "root": str(node.shared)},
        {"path": "/work/m*/?", "path_prefix": "/work/", "url": f"{node.shared}/wild",
         "root": str(node.shared)},
    ]  # fmt: skip
    first = sh("echo 1 > /work/made/x; echo more >> /in/f", stdout="/work/log", workdir="/work")
    second = sh("echo said; cat /work/made/x /work/f", stdout="/work/log")
    made = top / "made"
    made.mkdir()
    made.chmod(0o777)
    node.run(engine, first, second, inputs=inputs, outputs=outputs).complete()
    assert (top / "log").read_text() == "said\n1\noldmore\n"
    assert (node.shared / "sent").read_text() == "1\n"
    assert (node.shared / "wild" / "made" / "x").read_text() == "1\n"
    assert sorted(os.listdir(top)) == ["f", "log", "made"]


def test_a_directory_is_bound_inside_of_a_workdir(engine: Engine, node: Node, data: Path) -> None:
    before = facts(data)
    inputs = [bound("/w/ref", data, node.shared), bound("/w/in/x", data / "x", node.shared)]
    script = "cat ref/x in/x; echo 1 > result; (echo > ref/new) 2>/dev/null || echo; ls"
    outputs = [
        {"path": "/w", "type": "DIRECTORY", "url": f"{node.shared}/o", "root": str(node.shared)}
    ]
    executor = sh(script, workdir="/w")
    done = node.run(engine, executor, inputs=inputs, outputs=outputs).complete()
    assert done.stdout() == "of the nodeof the node\nin\nref\nresult\n"
    assert facts(data) == before
    assert (node.shared / "o" / "ref" / "sub" / "y").read_text() == "deep"


@pytest.mark.parametrize("name", AWKWARD)
def test_no_name_breaks_out_of_a_read_only_bind(engine: Engine, node: Node, name: str) -> None:
    top = node.shared / name
    top.mkdir()
    (top / "x").write_text(name)
    script = 'cat "$1/x"; echo bad > "$1/x" || echo safe'
    inputs = [bound(f"/b/{name}", top, node.shared)]
    command = ["/bin/sh", "-uc", script, "sh", f"/b/{name}"]
    done = node.run(engine, command, inputs=inputs).complete()
    assert done.stdout() == f"{name}safe\n"
    assert (top / "x").read_text() == name


def test_an_ordinary_user_binds_too(node: Node, docker: Engine, user: str, data: Path) -> None:
    before = facts(data)
    inputs = [bound("/in/ref", data, node.shared)]
    outputs = [{"path": "/in/made/x", "url": f"{node.shared}/x", "root": str(node.shared)}]
    script = "cat /in/ref/x; mkdir -p /in/made; umask 077; echo 1 > /in/made/x"
    done = node.run(docker, sh(script), inputs=inputs, outputs=outputs, user=user).complete()
    assert done.stdout() == "of the node"
    assert (node.shared / "x").read_text() == "1\n"
    assert facts(data) == before


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("none", "there is no such file"),
        ("data/none", "there is no such file"),
        ("out/passwd", "not below"),
        ("../secret", "not below"),
    ],
)
def test_only_what_lies_below_its_root_is_bound(
    node: Node, host: str, said: str, docker: Engine, data: Path
) -> None:
    (node.shared / "out").symlink_to("/etc")
    (node.base / "secret").write_text("x")
    done = node.run(docker, ["true"], inputs=[bound("/in/x", f"{data.parent}/{host}", node.shared)])
    assert done.outcome == "system_error"
    assert said in done.reason
    assert done.document["executors"] == []


def test_a_kind_that_is_another_is_told(node: Node, docker: Engine, data: Path) -> None:
    for host, kind in ((data, "FILE"), (data / "x", "DIRECTORY")):
        done = node.run(docker, ["true"], inputs=[bound("/in/x", host, node.shared, type=kind)])
        assert f"there is no such {kind.lower()}" in done.reason


def made(*inputs: dict[str, Any], **more: Any) -> Order:
    document = {"job": "j1", "engine": {"kind": "docker"}, "inputs": list(inputs), **more}
    return read_order(document)


@pytest.mark.parametrize(
    "more",
    [
        {"inputs": [file("/ref/sub/x")]},
        {"volumes": ["/ref/sub"]},
        {"volumes": ["/ref"]},
    ],
)
def test_nothing_of_the_tasks_own_can_lie_in_what_is_bound(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    inputs = [bound("/ref", tmp_path, tmp_path, "rw"), *more.pop("inputs", [])]
    order = made(*inputs, **more)
    plan = mounts(order, "/tree")
    assert "not the task's own" in (impossible(order, plan) or "")
    with pytest.raises(Trouble, match="not the task's own"):
        plant(order, Tree(str(tmp_path / "none")), plan)


def test_a_plan_with_binds(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    order = made(
        bound("/ref", tmp_path, tmp_path),
        bound("/in/f", tmp_path / "f", tmp_path, "rw"),
        bound("/root/f", tmp_path / "f", tmp_path),
        bound("/w/ref", tmp_path, tmp_path),
        outputs=[{"path": "/ref/out/x", "url": "/x"}],
        executors=[{"image": "a", "command": ["a"], "workdir": "/w"}],
    )
    host = str(tmp_path)
    assert mounts(order, "/tree") == [
        Mount("/tree/in", "/in", "directory"),
        Mount(f"{host}/f", "/in/f", "file", readonly=False, bound=True),
        Mount(host, "/ref", "directory", readonly=True, bound=True),
        Mount(f"{host}/f", "/root/f", "file", readonly=True, bound=True),
        Mount("/tree/tmp", "/tmp", "directory"),
        Mount("/tree/w", "/w", "directory"),
        Mount(host, "/w/ref", "directory", readonly=True, bound=True),
    ]


def test_a_link_that_came_into_the_way_is_not_followed(tmp_path: Path) -> None:
    real, moved = tmp_path / "real", tmp_path / "moved"
    real.mkdir()
    mount = Mount(str(real), "/ref", "directory", readonly=True, bound=True)
    assert mount_option(mount) == f"type=bind,source={real},target=/ref,ro"
    real.rename(moved)
    real.symlink_to(moved)
    with pytest.raises(Trouble, match="has been moved"):
        mount_option(mount)


def test_points_to_mount_on_are_the_tasks_own(tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.mkdir()
    (host / "f").write_text("x")
    order = made(bound("/in/f", host / "f", host), bound("/in/d", host, host, "rw"))
    tree = Tree(str(tmp_path / "tree"))
    os.mkdir(tree.top)
    before = facts(host)
    plant(order, tree, mounts(order, tree.top))
    assert facts(host) == before
    assert stat.S_ISREG(os.lstat(f"{tree.top}/in/f").st_mode)
    assert os.listdir(f"{tree.top}/in/d") == []
    assert tree.kind("/in/f") == "FILE"
