"""What the runner decides without doing anything."""

import csv
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from tesp_api import runner
from tesp_api.runner.engine import is_reference
from tesp_api.runner.mounts import Mount, inexpressible, mount_option, mounts
from tesp_api.runner.order import Order, read_order
from tesp_api.runner.report import REPORT_CAP, frame
from tesp_api.runner.streams import Tail
from tesp_api.runner.transfer import public_url
from tesp_api.runner.tree import Tree, plant, uproot
from tests.runner.conftest import decoded, file


def order(**more: Any) -> Order:
    return read_order({"job": "j1", "engine": {"kind": "docker"}, **more})


def plan(**more: Any) -> dict[str, str]:
    found = mounts(order(**more), "/tree")
    assert all(mount.host == f"/tree{mount.container}" for mount in found)
    assert [mount.container for mount in found] == sorted(mount.container for mount in found)
    return {mount.container: mount.kind for mount in found}


def output(path: str, kind: str = "FILE") -> dict[str, str]:
    return {"path": path, "type": kind, "url": "file:///x"}


def executor(**more: Any) -> dict[str, Any]:
    return {"image": "alpine", "command": ["true"], **more}


def test_tmp_is_always_the_tasks_own() -> None:
    assert plan() == {"/tmp": "directory"}
    assert plan(inputs=[file("/tmp/a/b")]) == {"/tmp": "directory"}


@pytest.mark.parametrize(
    ("paths", "homes"),
    [
        (["/data/a", "/data/b"], {"/data": "directory"}),
        (["/data/a", "/data/b/c", "/data/b/d/e"], {"/data": "directory"}),
        (["/data/b/c", "/dat/a"], {"/data/b": "directory", "/dat": "directory"}),
        (["/a"], {"/a": "file"}),
        (["/etc/a", "/etc/b/c"], {"/etc/a": "file", "/etc/b/c": "file"}),
        (["/usr/share/x/y"], {"/usr/share/x/y": "file"}),
        (["/home/a", "/home/u/a"], {"/home/a": "file", "/home/u": "directory"}),
        (["/var/lib/cwl/stg1/a"], {"/var/lib/cwl/stg1": "directory"}),
        (["/library/a"], {"/library": "directory"}),
        (["/opt/a/b/c"], {"/opt/a/b/c": "file"}),
    ],
)
def test_a_files_home_is_bound_unless_the_image_lives_there(
    paths: list[str], homes: dict[str, str]
) -> None:
    expected = {"/tmp": "directory", **homes}
    assert plan(inputs=[file(path) for path in paths]) == expected
    assert plan(outputs=[output(path) for path in paths]) == expected
    assert plan(executors=[executor(stdout=path) for path in paths]) == expected


def test_stdin_alone_binds_nothing_of_the_images() -> None:
    assert plan(executors=[executor(stdin="/etc/hosts")]) == {"/tmp": "directory"}


def test_directories_and_volumes_are_bound_themselves() -> None:
    found = plan(
        volumes=["/vol/AB", "/vol/A/B", "/etc/conf"],
        inputs=[{"path": "/in/d", "type": "DIRECTORY", "url": "file:///x"}],
        outputs=[output("/opt/results", "DIRECTORY"), output("/opt/results/x")],
    )
    assert set(found) == {"/vol/AB", "/vol/A/B", "/etc/conf", "/in/d", "/opt/results", "/tmp"}


def test_a_workdir_holds_what_is_declared_below_it() -> None:
    run = [executor(workdir="/work")]
    assert plan(executors=run) == {"/tmp": "directory"}
    assert set(plan(executors=run, outputs=[output("/work/a/b/c")])) == {"/work", "/tmp"}
    assert set(plan(executors=run, outputs=[output("/work/a", "DIRECTORY")])) == {"/work", "/tmp"}
    assert set(plan(executors=run, inputs=[file("/work/a/b")])) == {"/work", "/tmp"}
    outside = plan(executors=[executor(workdir="/")], outputs=[output("/o/a/b")])
    assert set(outside) == {"/o/a", "/tmp"}
    nested = [executor(workdir="/work/inner"), executor(workdir="/work")]
    assert set(plan(executors=nested, outputs=[output("/work/inner/x")])) == {"/work", "/tmp"}


def test_only_what_lies_outside_of_a_workdir_is_made_beforehand(tmp_path: Path) -> None:
    made = order(
        executors=[executor(workdir="/work", stdout="/logs/deep/out")],
        outputs=[output("/work/results/x"), output("/o/deep/x"), output("/d/e", "DIRECTORY")],
        volumes=["/vol/a"],
    )
    tree = Tree(str(tmp_path))
    old = os.umask(0o077)
    try:
        plant(made, tree, mounts(made, tree.top))
    finally:
        os.umask(old)
    found = {str(path.relative_to(tmp_path)): path.stat().st_mode for path in tmp_path.rglob("*")}
    assert set(found) == {
        "tmp", "work", "logs", "logs/deep", "o", "o/deep", "d", "d/e", "vol", "vol/a",
    }  # fmt: skip
    assert {oct(mode & 0o7777) for name, mode in found.items() if name != "tmp"} == {"0o777"}
    assert found["tmp"] & 0o7777 == 0o1777


@pytest.mark.parametrize(
    "path",
    [
        "/a,b",
        '/a"b',
        "/a:b",
        "/a b",
        " /a",
        "/a\nb",
        "/a'b",
        "/a\\b",
        "/a=b",
        '/"',
        "/a\rb",
        '/",x="',
        "/ a ",
    ],
)
def test_a_mount_option_reads_back_as_it_was_meant(path: str) -> None:
    option = mount_option(Mount("/h" + path, "/c" + path, "file"))
    (fields,) = (
        csv.reader([option.replace("\r", "\N{SNOWMAN}")], strict=True)
        if "\n" not in option
        else [next(csv.reader(option.splitlines(keepends=True), strict=True))]
    )
    read = dict(field.replace("\N{SNOWMAN}", "\r").split("=", 1) for field in fields)
    assert read == {"type": "bind", "source": "/h" + path, "target": "/c" + path}


@pytest.mark.parametrize("kind", ["docker", "podman", "apptainer", "singularity"])
def test_the_only_path_that_no_engine_can_bind_is_named(kind: str) -> None:
    assert "carriage return" in (inexpressible(kind, "/a\r\nb") or "")
    assert inexpressible(kind, "/a\rb\n,:\"'") is None
    assert inexpressible("host", "/a\r\nb") is None


@pytest.mark.parametrize(
    "image",
    [
        *("alpine", "ubuntu:20.04", "a/b/c", "localhost/x", "localhost:5000/x:y", "a" * 64),
        *("quay.io/bio_c/x-y--z__a.b:1.0_2--3", "REG.example.org/x", "[::1]:5000/x"),
        *("a@sha256:" + "0" * 64, "a:b@sha256:" + "0" * 64),
    ],
)
def test_a_reference_is_known(image: str) -> None:
    assert is_reference(image)


@pytest.mark.parametrize(
    "image",
    [
        *(
            "",
            "-v",
            "--volume=/:/h",
            "-",
            "a b",
            "a\nb",
            "alpine\n",
            "/alpine",
            "Upper",
            "a:",
            "a:-x",
        ),
        *("a@", "a@sha256:0", "a//b", "a/", "docker://a", "../a", "./a", "a;b", "a$b", "ä", "a..b"),
        *("a:" + "t" * 129, "a" * 600, "a\x00", "https://x/y", "a:b:c"),
    ],
)
def test_what_is_no_reference_is_refused(image: str) -> None:
    assert not is_reference(image)


def test_a_long_image_name_is_judged_quickly() -> None:
    assert not is_reference("a-" * 255 + "!")
    assert not is_reference("a/" * 255 + "!")


def test_a_tail_is_the_end_and_cuts_no_character() -> None:
    tail = Tail(10)
    for _ in range(100_000):
        tail.write("žluť".encode())
    assert tail.text() == "žluťlu"[-6:] or len(tail.text().encode()) <= 10
    assert "\ufffd" not in tail.text()
    short = Tail(10)
    short.write(b"\x80abc")
    assert short.text() == "\ufffdabc"
    empty = Tail(0)
    empty.write(b"abc")
    assert empty.text() == ""


def report(tails: int, outputs: int = 0, log: int = 0) -> dict[str, Any]:
    rng = random.Random(1)

    def text(size: int) -> str:
        return rng.randbytes(size).decode("latin-1")

    return {
        "executors": [
            {"exit_code": n, "stdout": text(65536), "stderr": text(65536)} for n in range(tails)
        ],
        "outputs": [{"url": f"http://x/{text(60)}", "path": f"/{n}"} for n in range(outputs)],
        "log": [text(100) for _ in range(log)],
    }


def test_a_short_report_is_whole() -> None:
    short = report(1, 3, 3)
    assert decoded(frame(short)) == short


def test_a_long_report_loses_tails_first_then_listings() -> None:
    line = frame(report(20, 10))
    assert len(line) <= REPORT_CAP
    read = decoded(line)
    assert len(read["executors"]) == 20
    assert len(read["outputs"]) == 10
    assert 0 < len(read["executors"][0]["stdout"]) < 65536
    assert "tails of stdout and stderr are shortened" in read["log"][-1]
    line = frame(report(2, 20_000))
    assert len(line) <= REPORT_CAP
    read = decoded(line)
    assert 0 < len(read["outputs"]) < 20_000
    assert "outputs are not listed" in read["log"][-1]
    line = frame(report(2, 0, 20_000))
    assert len(line) <= REPORT_CAP


def test_a_report_is_valid_unicode() -> None:
    read = decoded(frame({"executors": [], "outputs": [{"path": "/a\udcff"}], "log": []}))
    assert read["outputs"][0]["path"] == "/a\ufffd"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:p@h:1/a?X-Amz-Signature=s#f", "http://h:1/a"),
        ("https://h/a@b?c", "https://h/a@b"),
        ("http://u:p%40@h", "http://h"),
        ("http://h?x=/y@z", "http://h"),
        ("file:///a?b", "file:///a?b"),
        ("/a/b", "/a/b"),
    ],
)
def test_a_url_is_shown_without_credentials(url: str, shown: str) -> None:
    assert public_url(url) == shown


def test_links_never_lead_out_of_the_tree(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    (top / "d").mkdir(parents=True)
    (top / "d" / "real").write_text("in")
    (tmp_path / "secret").write_text("out")
    (top / "absolute").symlink_to("/d/real")
    (top / "up").symlink_to("../../../../../d/real")
    (top / "out").symlink_to("../secret")
    (top / "away").symlink_to(tmp_path / "secret")
    (top / "loop").symlink_to("loop")
    (top / "dirlink").symlink_to("/")
    os.mkfifo(top / "fifo")
    tree = Tree(str(top))
    for path in ("/absolute", "/up", "/dirlink/d/../d/real", "/dirlink/absolute"):
        descriptor = tree.open(path, os.O_RDONLY)
        assert os.read(descriptor, 10) == b"in"
        os.close(descriptor)
    for path in ("/out", "/away"):
        assert tree.kind(path) is None
        with pytest.raises(FileNotFoundError):
            tree.open(path, os.O_RDONLY)
    for path in ("/loop", "/fifo"):
        with pytest.raises(OSError, match=r"link|regular"):
            tree.open(path, os.O_RDONLY)
    descriptor = tree.open("/away", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"changed")
    os.close(descriptor)
    assert (tmp_path / "secret").read_text() == "out"


def test_whatever_a_task_left_is_removed(tmp_path: Path) -> None:
    top = tmp_path / "task"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):  # deeper than a path, a stack or the open files may be
        os.mkdir("deep", dir_fd=here)
        below = os.open("deep", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    (top / "closed" / "inner").mkdir(parents=True)
    (top / "closed" / "inner" / "f").write_text("x")
    (top / "closed" / "inner").chmod(0)
    (top / "closed").chmod(0)
    (top / "link").symlink_to("/etc")
    os.mkfifo(top / "fifo")
    (top / os.fsdecode(b"\xff\xfe")).write_text("")
    uproot(str(top))
    assert os.listdir(tmp_path) == []
    uproot(str(top))


def test_no_module_imports_what_is_slow_before_it_is_needed() -> None:
    quick = {"__future__", "errno", "json", "os", "posixpath", "re", "select", "signal"}
    quick |= {"stat", "sys", "time", "typing"}
    quick |= {"collections", "contextlib", "functools", "itertools"}  # typing has imported them
    for module in Path(str(runner.__file__)).parent.glob("*.py"):
        top = re.findall(r"^(?:import|from) (\S+)", module.read_text(), re.MULTILINE)
        assert {name for name in top if not name.startswith("tesp_api.runner.")} <= quick
