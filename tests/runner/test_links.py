"""Links and empty directories of outputs, and the files of the node as a way in and out."""

import errno
import os
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest

from tesp_api.runner import tree as trees
from tesp_api.runner.files import Files
from tesp_api.runner.transfer import Arrival, Departure, Place, Refused, Terms, Transient
from tesp_api.runner.tree import Bound, Tree
from tesp_api.runner.trouble import Trouble
from tests.runner.conftest import Engine, Node, file, sh


def found(top: Path, path: str = "/out") -> dict[str, str | None]:
    return dict(Tree(str(top)).files(path))


def test_links_inside_the_tree_are_followed_whatever_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "x").write_text("x")
    (tmp_path / "out" / "file").symlink_to("/in/deep/x")
    (tmp_path / "out" / "dir").symlink_to("../in")
    (tmp_path / "out" / "sub" / "again").symlink_to("../dir/deep")
    assert found(tmp_path) == {"file": "FILE", "dir/deep/x": "FILE", "sub/again/x": "FILE"}


def test_links_out_of_the_tree_and_to_nothing_are_named_only(tmp_path: Path) -> None:
    (tmp_path / "tree" / "out").mkdir(parents=True)
    out = tmp_path / "tree" / "out"
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x").write_text("secret")
    for name, target in {
        "up": "../../secret", "file": "../../secret/x", "absolute": str(tmp_path / "secret"),
        "passwd": "/etc/passwd", "none": "nothing", "self": "self",
    }.items():  # fmt: skip
        (out / name).symlink_to(target)
    os.mkfifo(out / "fifo")
    assert found(tmp_path / "tree") == {
        "up": None, "file": None, "absolute": None, "passwd": None, "none": None, "self": "other",
        "fifo": "other",
    }  # fmt: skip


def test_loops_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "a" / "b").mkdir(parents=True)
    (out / "a" / "b" / "x").write_text("x")
    (out / "a" / "up").symlink_to("..")
    (out / "a" / "b" / "top").symlink_to("/out")
    (out / "a" / "b" / "here").symlink_to(".")
    assert found(tmp_path) == {
        "a/b/x": "FILE", "a/up": "other", "a/b/top": "other", "a/b/here": "other",
    }  # fmt: skip


def test_links_that_make_billions_of_a_few_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "MOST_DIRECTORIES", 1000)
    for number in range(30):
        level = tmp_path / "out" / str(number)
        level.mkdir(parents=True)
        for link in "ab":
            (level / link).symlink_to(f"../{number + 1}")
    with pytest.raises(Trouble, match="too often"):
        found(tmp_path)


def test_empty_directories_are_told(tmp_path: Path) -> None:
    for path in ("out/empty", "out/a/b/empty", "out/a/full"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "out" / "a" / "full" / "x").write_text("")
    (tmp_path / "out" / "link").symlink_to("empty")
    assert found(tmp_path) == {
        "empty": "DIRECTORY", "link": "DIRECTORY", "a/b/empty": "DIRECTORY", "a/full/x": "FILE",
    }  # fmt: skip
    assert found(tmp_path, "/out/empty") == {}


def test_directories_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    here = os.open(tmp_path / "out", os.O_RDONLY)
    for _ in range(1000):
        os.mkdir("deeper", dir_fd=here)
        below = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(Trouble, match="too deeply"):
        found(tmp_path)
    trees.uproot(str(tmp_path / "out"))


def test_what_is_bound_is_seen_through_and_written_only_where_it_may_be(tmp_path: Path) -> None:
    top, host = tmp_path / "tree", tmp_path / "host"
    (top / "ro").mkdir(parents=True)
    (top / "rw").mkdir()
    (top / "file").write_text("")
    host.mkdir()
    (host / "x").write_text("of the node")
    (host / "out").symlink_to(tmp_path)
    (host / "in").symlink_to("/rw/x")
    tree = Tree(str(top))
    tree.bound = {
        "/ro": Bound(str(host), False),
        "/rw": Bound(str(host), True),
        "/file": Bound(str(host / "x"), False),
    }
    for path in ("/ro/x", "/rw/x", "/file", "/ro/in"):
        with open(tree.open(path, os.O_RDONLY)) as one:
            assert one.read() == "of the node", path
    assert tree.kind("/ro/out") is None
    assert sorted(tree.names("/ro")) == ["in", "out", "x"]
    for path in ("/ro/new", "/ro/x", "/file"):
        with pytest.raises(OSError, match="Read-only") as error:
            tree.open(path, os.O_WRONLY | os.O_CREAT)
        assert error.value.errno == errno.EROFS
    with pytest.raises(FileNotFoundError):
        tree.make_directory("/ro/dir")
    os.close(tree.open("/rw/sub/new", os.O_WRONLY | os.O_CREAT))
    tree.make_directory("/rw/dir")
    assert sorted(os.listdir(host)) == ["dir", "in", "out", "sub", "x"]
    assert (host / "dir").stat().st_mode & 0o022 == 0


# --- files of the node ---


def way() -> Files:
    return Files(Terms(5, job="job1"))


def place(root: Path, url: str) -> Place:
    return Place(url, url, {}, root=str(root))


def got(where: Place, into: Path) -> bytes:
    with into.open("w+b") as sink:
        way().get(where, Arrival(sink.fileno()))
    return into.read_bytes()


def put(where: Place, content: bytes, source: Path, mode: int = 0o644) -> None:
    source.write_bytes(content)
    source.chmod(mode)
    with source.open("rb") as one:
        way().put(where, Departure(one.fileno(), source.name, len(content)))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    made.mkdir()
    return made


@pytest.mark.parametrize("name", ["x", "a b%20", "žluť", "#?", os.fsdecode(b"\xff")])
def test_a_file_goes_and_comes_back(root: Path, tmp_path: Path, name: str) -> None:
    for url in (f"file://{root}", f"file://localhost{root}", f"FILE://{root}/", str(root)):
        where = place(root, url).below(f"deep/{name}")
        put(where, url.encode() * 100_000, tmp_path / "source", 0o755)
        assert got(where, tmp_path / "sink") == url.encode() * 100_000
    assert os.listdir(root / "deep") == [name]
    assert os.access(root / "deep" / name, os.X_OK)


def outside(root: Path) -> Iterable[str]:
    (root.parent / "secret").write_text("secret")
    (root.parent / "rooted").mkdir()
    (root / "link").symlink_to("../secret")
    (root / "dir").symlink_to("..")
    (root / "inside").mkdir()
    return (
        f"{root}/link", f"{root}/dir/secret", f"{root}/../secret", f"{root}/dir/rooted/x",
        f"file://{root}/%2e%2e/secret", f"{root}ed/x", f"file://other{root}/x", f"file://{root}/%00",
    )  # fmt: skip


def test_nothing_is_read_written_or_listed_out_of_the_root(root: Path, tmp_path: Path) -> None:
    for url in outside(root):
        where, said = place(root, url), r"not below|another host|NUL"
        with pytest.raises(Trouble, match=said):
            got(where, tmp_path / "sink")
        with pytest.raises(Trouble, match=said):
            put(where, b"changed", tmp_path / "source")
        for act in (way().entries, way().make_directory):
            with pytest.raises(Trouble, match=said):
                act(where)
    with pytest.raises(Trouble, match="not below"):
        got(Place(str(root), "x", {}), tmp_path / "sink")
    assert (tmp_path / "secret").read_text() == "secret"
    assert list((tmp_path / "rooted").iterdir()) == []


def test_links_within_the_root_are_followed(root: Path, tmp_path: Path) -> None:
    (root / "a").mkdir()
    (root / "a" / "x").write_text("1")
    (root / "b").symlink_to("a")
    assert got(place(root, f"{root}/b/x"), tmp_path / "sink") == b"1"
    put(place(root, f"{root}/b/y"), b"2", tmp_path / "source")
    assert (root / "a" / "y").read_text() == "2"


def test_what_cannot_be_is_an_answer(root: Path, tmp_path: Path) -> None:
    (root / "d").mkdir()
    (root / "f").write_text("1")
    os.mkfifo(root / "fifo")
    for name, said in {
        "none": "cannot be read: No such file", "d": "not a regular file", "f/x": "Not a directory",
        "fifo": "not a regular file",
    }.items():  # fmt: skip
        with pytest.raises(Refused, match=said):
            got(place(root, f"{root}/{name}"), tmp_path / "sink")
    for name, said in {"d": "cannot be written: Is a dir", "f/x": "Not a directory"}.items():
        with pytest.raises(Refused, match=said):
            put(place(root, f"{root}/{name}"), b"1", tmp_path / "source")
    for name, said in {"f": "is not a directory", "none": "No such file"}.items():
        with pytest.raises(Refused, match=said):
            way().entries(place(root, f"{root}/{name}"))
    assert sorted(os.listdir(root)) == ["d", "f", "fifo"]


def test_a_directory_of_the_node_is_listed_with_its_links(root: Path, tmp_path: Path) -> None:
    top = root / "top"
    (top / "sub").mkdir(parents=True)
    (top / "x").write_text("123")
    (top / "good").symlink_to(top / "sub")
    (top / "sub" / "up").symlink_to("../x")
    (top / "bad").symlink_to("../../secret")
    entries = {one.name: one for one in way().entries(place(root, f"file://{top}/"))}
    said = {name: (one.kind, one.size_bytes, one.target) for name, one in entries.items()}
    assert said == {
        "sub": ("DIRECTORY", None, ""), "x": ("FILE", 3, ""), "good": ("LINK", None, "sub"),
        "bad": ("LINK", None, "../../secret"),
    }  # fmt: skip
    (up,) = way().entries(entries["sub"].place)
    assert (up.kind, up.target) == ("LINK", "../x")
    assert got(entries["x"].place, tmp_path / "sink") == b"123"


def test_directories_are_made_by_many_at_once(root: Path) -> None:
    barrier, failed = threading.Barrier(8), []

    def make() -> None:
        barrier.wait()
        try:
            assert way().make_directory(place(root, f"{root}/a/b/c/d/e/f"))
        except (Refused, Transient, Trouble) as error:
            failed.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert (root / "a/b/c/d/e/f").is_dir()


# --- the whole way ---


def test_a_directory_output_follows_links_and_keeps_empty_directories(
    engine: Engine, node: Node
) -> None:
    script = (
        "mkdir -p /out/d/empty/er /out/d/sub; echo 1 > /out/d/sub/x; cp /in/x /tmp/y;"
        "ln -s /in /out/d/input; ln -s sub /out/d/again; ln -s .. /out/d/sub/loop;"
        "ln -s /etc /out/d/etc; ln -s /tmp/y /out/d/y; ln -s none /out/d/dangling"
    )
    url = f"file://{node.shared}/o"
    outputs = [{"path": "/out/d", "type": "DIRECTORY", "url": url, "root": str(node.shared)}]
    done = node.run(engine, sh(script), inputs=[file("/in/x", "mine")], outputs=outputs).complete()
    top = node.shared / "o"
    names = sorted(str(path.relative_to(top)) for path in top.rglob("*"))
    assert names == [
        "again", "again/x", "empty", "empty/er", "input", "input/x", "sub", "sub/x", "y",
    ]  # fmt: skip
    assert (top / "input" / "x").read_text() == (top / "y").read_text() == "mine"
    assert sorted(one["path"] for one in done.outputs) == [
        "/out/d/again/x", "/out/d/input/x", "/out/d/sub/x", "/out/d/y",
    ]  # fmt: skip
    for name in ("etc", "dangling", "sub/loop"):
        assert f"/out/d/{name}" in done.log


def test_wildcards_select_what_is_sent(engine: Engine, node: Node) -> None:
    script = (
        "cd /out; echo 1 > a.txt; echo 2 > 'b c.txt'; echo 3 > .x.txt; mkdir s; echo 4 > s/d.txt"
    )
    url = {"url": f"file://{node.shared}/o/", "root": str(node.shared)}
    outputs = [
        {"path": "/out/*.txt", "path_prefix": "/out", **url},
        {"path": "/out/*/d.[a-t]xt", "path_prefix": "/out/", **url},
        {"path": "/out/*.none", "path_prefix": "/out/", **url},
    ]
    done = node.run(engine, sh(script), outputs=outputs).complete()
    assert sorted(one["path"] for one in done.outputs) == [
        "/out/a.txt", "/out/b c.txt", "/out/s/d.txt",
    ]  # fmt: skip
    top = node.shared / "o"
    assert (top / "b c.txt").read_text() == "2\n"
    assert (top / "s" / "d.txt").read_text() == "4\n"
    assert "/out/*.none" in done.log


@pytest.mark.parametrize("path", ["/*.txt", "/usr/share/*/x", "/root/?"])
def test_wildcards_among_what_the_image_keeps_are_refused(
    host: Engine, node: Node, path: str
) -> None:
    output = {"path": path, "path_prefix": "/", "url": f"{node.shared}/x", "root": str(node.shared)}
    done = node.run(host, ["true"], outputs=[output])
    assert done.outcome == "system_error"
    assert "selects among what the image keeps" in done.reason
    assert done.document["executors"] == []
