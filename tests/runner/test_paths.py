"""Where a task finds its files: each case in every engine."""

import pytest

from tests.runner.conftest import Engine, Node, file, sh

AWKWARD = (
    "/data/.hidden",
    "/data/with space",
    '/data/it\'s "quoted"',
    "/data/[a]{b}*?",
    "/data/žluťoučký 日本",
    "/data/a,b:c=d;e",
    '/data/dir, with: "all"/$x`y`\\z',
    "/data/-dash",
    "/da ta/line\nfeed/x",
    " /data".strip() + "/ leading",
)


def test_an_input_is_found_wherever_it_is_declared(engine: Engine, node: Node) -> None:
    paths = [
        "/data/in/a",
        "/tmp/b",
        "/file-in-root",
        "/etc/tesp-test.conf",
        "/home/c",
        "/opt/x/d",
        "/srv/e",
    ]
    script = 'for f in "$@"; do cat "$f"; done; test -s /etc/passwd; test -d /usr/bin; ls -d /usr'
    command = ["/bin/sh", "-euc", script, "sh", *paths]
    done = node.run(engine, command, inputs=[file(path, f"{path}\n") for path in paths]).complete()
    assert done.stdout() == "".join(f"{path}\n" for path in paths) + "/usr\n"


def test_names_are_taken_as_they_are(engine: Engine, node: Node) -> None:
    script = 'for f in "$@"; do cat "$f"; printf x > "$f.out"; done'
    command = ["/bin/sh", "-euc", script, "sh", *AWKWARD]
    outputs = [
        {"path": f"{path}.out", "url": f"{node.shared}/{number}"}
        for number, path in enumerate(AWKWARD)
    ]
    inputs = [file(path, f"<{path}>") for path in AWKWARD]
    done = node.run(engine, command, inputs=inputs, outputs=outputs).complete()
    assert done.stdout() == "".join(f"<{path}>" for path in AWKWARD)
    assert [one["path"] for one in done.outputs] == [one["path"] for one in outputs]


def test_tmp_is_fresh_writable_and_shared_by_the_executors(engine: Engine, node: Node) -> None:
    first = sh(
        "test ! -e /tmp/conda; mkdir /tmp/conda; ls -A /tmp; stat -c %a /tmp; echo kept > /tmp/k"
    )
    done = node.run(engine, first, sh("cat /tmp/k"), inputs=[file("/tmp/run.sh", "")]).complete()
    assert done.stdout() == "conda\nrun.sh\n1777\n"
    assert done.stdout(1) == "kept\n"
    again = node.run(engine, sh("ls -A /tmp")).complete()
    assert again.stdout() == ""


def test_an_output_is_taken_from_wherever_it_is_written(engine: Engine, node: Node) -> None:
    paths = [
        "/data/in/result",
        "/result-in-root",
        "/deep/new/directory/x",
        "/etc/tesp-out",
        "/tmp/y",
    ]
    script = 'for f in "$@"; do echo "$f" > "$f"; done'
    outputs = [{"path": path, "url": f"file://{node.shared}/a/b{path}"} for path in paths]
    command = ["/bin/sh", "-euc", script, "sh", *paths]
    done = node.run(engine, command, inputs=[file("/data/in/a")], outputs=outputs).complete()
    for path in paths:
        assert (node.shared / "a" / f"b{path}").read_text() == f"{path}\n"
    assert [one["size_bytes"] for one in done.outputs] == [len(path) + 1 for path in paths]


def test_an_output_of_one_executor_is_read_by_the_next(engine: Engine, node: Node) -> None:
    outputs = [
        {"path": "/one/x", "url": f"{node.shared}/x"},
        {"path": "/root-file", "url": f"{node.shared}/r"},
    ]
    first = sh("umask 077; echo 1 > /one/x; echo 2 > /root-file; mkdir /one/d; echo 3 > /one/d/e")
    second = sh("cat /one/x /root-file /one/d/e; echo 4 >> /one/x", image="alpine")
    done = node.run(engine, first, second, outputs=outputs).complete()
    assert done.stdout(1) == "1\n2\n3\n"
    assert (node.shared / "x").read_text() == "1\n4\n"


def test_executors_of_different_users_share_their_files(daemon: Engine, node: Node) -> None:
    outputs = [{"path": "/one/x", "url": f"{node.shared}/x"}]
    executors = (
        sh("id -u; umask 077; mkdir /one/d; echo 1 > /one/d/x; echo 1 > /one/x"),
        sh(
            "id -u; cat /one/d/x; echo 2 >> /one/x; umask 077; echo 3 > /one/y",
            image=daemon.user_image,
        ),
        sh("id -u; cat /one/x /one/y"),
    )
    done = node.run(daemon, *executors, outputs=outputs).complete()
    assert [done.stdout(index) for index in range(3)] == ["0\n", "1000\n1\n", "0\n1\n2\n3\n"]


def test_volumes_are_shared_and_not_confused(engine: Engine, node: Node) -> None:
    first = sh("echo AB > /vol/AB/f; echo A-B > /vol/A/B/f; test ! -e /vol/AB/g; mkdir /vol/AB/sub")
    second = sh("cat /vol/AB/f /vol/A/B/f; ls /vol/AB", image="alpine")
    done = node.run(engine, first, second, volumes=["/vol/AB", "/vol/A/B"]).complete()
    assert done.stdout(1) == "AB\nA-B\nf\nsub\n"


@pytest.mark.parametrize(
    "workdir", ["/Xq3 kz", "/a/b/c", "/tmp", "/tmp/sub", "/", "/opt/tesp-new", "/etc/tesp-new"]
)
def test_a_workdir_is_made_and_writable(engine: Engine, node: Node, workdir: str) -> None:
    if workdir in {"/", "/etc/tesp-new"} and engine.kind == "host":
        script = "pwd"
    else:
        script = "pwd; echo x > here; cat here"
    done = node.run(engine, sh(script, workdir=workdir)).complete()
    assert done.stdout().splitlines()[0] == workdir


def test_a_workdir_is_writable_for_an_image_with_an_ordinary_user(
    daemon: Engine, node: Node
) -> None:
    done = node.run(
        daemon, sh("id -u; pwd; touch x", image=daemon.user_image, workdir="/Xq3kz")
    ).complete()
    assert done.stdout() == "1000\n/Xq3kz\n"


def test_a_workdir_of_the_image_keeps_its_content(engine: Engine, node: Node) -> None:
    assert "bin" in node.run(engine, sh("ls", workdir="/usr")).complete().stdout().split()


def test_below_a_workdir_the_program_makes_its_own_directories(engine: Engine, node: Node) -> None:
    outputs = [
        {"path": "/work/results/x", "url": f"{node.shared}/x"},
        {"path": "/work/more/deep", "url": f"{node.shared}/deep", "type": "DIRECTORY"},
        {"path": "/work/.command.out", "url": f"{node.shared}/log"},
    ]
    script = (
        "pwd; ls -A; mkdir results; echo 1 > results/x;"
        "mkdir -p more/deep/er; echo 2 > more/deep/er/y"
    )
    executor = sh(script, workdir="/work", stdout="/work/.command.out")
    inputs = [file("/work/in/a"), file("/work/.command.run")]
    node.run(engine, executor, inputs=inputs, outputs=outputs).complete()
    assert (node.shared / "x").read_text() == "1\n"
    assert (node.shared / "deep" / "er" / "y").read_text() == "2\n"
    assert (node.shared / "log").read_text() == "/work\n.command.out\n.command.run\nin\n"


def test_streams_are_redirected_from_and_to_files(engine: Engine, node: Node) -> None:
    first = sh("cat; echo e >&2", stdin="/data/in", stdout="/logs/deep/out", stderr="/err-in-root")
    second = sh(
        "cat; cat /err-in-root", stdin="/logs/deep/out", stdout="/tmp/both", stderr="/tmp/both"
    )
    outputs = [{"path": "/tmp/both", "url": f"{node.shared}/both"}]
    done = node.run(
        engine, first, second, inputs=[file("/data/in", "žluť\n")], outputs=outputs
    ).complete()
    assert done.stdout() == "žluť\n"
    assert done.stderr_of() == "e\n"
    assert (node.shared / "both").read_text() == "žluť\ne\n"


def test_without_stdin_there_is_nothing_to_read(engine: Engine, node: Node) -> None:
    assert node.run(engine, sh("cat; echo end")).complete().stdout() == "end\n"


def test_a_directory_goes_in_and_out(engine: Engine, node: Node) -> None:
    tree = node.shared / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "f").write_text("deep")
    (tree / "link").symlink_to("a/b/f")
    (tree / "a" / "absolute").symlink_to(tree / "a" / "b" / "f")
    inputs = [{"path": "/in/tree", "type": "DIRECTORY", "url": f"file://{tree}"}]
    outputs = [{"path": "/out/dir", "type": "DIRECTORY", "url": f"file://{node.shared}/copy/"}]
    script = (
        "cat /in/tree/link /in/tree/a/absolute; cp -a /in/tree/. /out/dir;"
        "mkdir /out/dir/empty; ls -A /out/dir"
    )
    done = node.run(engine, sh(script), inputs=inputs, outputs=outputs).complete()
    assert done.stdout() == "deepdeepa\nempty\nlink\n"
    assert (node.shared / "copy" / "a" / "b" / "f").read_text() == "deep"
    assert (node.shared / "copy" / "link").read_text() == "deep"
    assert sorted(one["path"] for one in done.outputs) == [
        "/out/dir/a/absolute", "/out/dir/a/b/f", "/out/dir/link",
    ]  # fmt: skip


def test_an_output_never_written_is_told_from_an_empty_one(engine: Engine, node: Node) -> None:
    names = ("/never", "/empty", "/d/never", "/d/empty")
    outputs = [{"path": path, "url": f"{node.shared}{path}"} for path in names]
    done = node.run(engine, sh(": > /empty; : > /d/empty"), outputs=outputs).complete()
    assert [one["path"] for one in done.outputs] == ["/empty", "/d/empty"]
    assert "output /never (FILE) was not written" in done.log
    assert "output /d/never (FILE) was not written" in done.log


def test_an_output_of_the_wrong_kind_is_named(engine: Engine, node: Node) -> None:
    outputs = [
        {"path": "/o/a", "url": f"{node.shared}/a"},
        {"path": "/w/b", "url": f"{node.shared}/b", "type": "DIRECTORY"},
        {"path": "/o/fifo", "url": f"{node.shared}/fifo"},
    ]
    executor = sh("mkdir /o/a; echo > b; mkfifo /o/fifo", workdir="/w")
    done = node.run(engine, executor, outputs=outputs).complete()
    assert "output /o/a (FILE) is a directory" in done.log
    assert "output /w/b (DIRECTORY) is a file" in done.log
    assert "output /o/fifo (FILE) is neither file nor directory" in done.log


@pytest.mark.parametrize(
    "where", ["/proc/x", "/sys/x", "/dev/x", "/a/../b", "/a//b", "relative", "//a", "/"]
)
def test_a_path_that_no_task_may_have_is_refused(host: Engine, node: Node, where: str) -> None:
    done = node.run(host, ["true"], inputs=[file(where)])
    assert done.outcome == "system_error"
    assert "path" in done.reason
