"""What comes in and goes out: files of the node, HTTP with all its moods."""

import os
import re
import threading
from pathlib import Path

import pytest

from tests.needs import need
from tests.runner.conftest import Engine, Handler, Node, Web, file, sh


def fetch(url: str, **more: object) -> dict[str, object]:
    return {"path": "/in/x", "url": url, **more}


def send(url: str, **more: object) -> dict[str, object]:
    return {"path": "/out/x", "url": url, **more}


def test_content_of_any_size_is_written(host: Engine, node: Node) -> None:
    text = "žluť\n" * 60_000
    done = node.run(
        host, sh("wc -c < /in/x; tail -1 /in/x"), inputs=[file("/in/x", text)]
    ).complete()
    assert done.stdout() == f"{len(text.encode())}\nžluť\n"


def test_http_both_ways(host: Engine, node: Node, web: Web) -> None:
    web.files["/a b"] = os.urandom(3 << 20)
    inputs = [fetch(f"{web.url}/a b?sig=secret", headers={"X-Token": "t"})]
    done = node.run(
        host, sh("cp /in/x /out/x"), inputs=inputs, outputs=[send(f"{web.url}/up?sig=secret")]
    )
    done.complete()
    assert web.files["/up"] == web.files["/a b"]
    assert web.requests("/a b")[0][1]["X-Token"] == "t"
    assert done.outputs == [
        {"url": f"{web.url}/up", "path": "/out/x", "size_bytes": len(web.files["/up"])}
    ]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_may_pass_is_tried_again(host: Engine, node: Node, web: Web, status: int) -> None:
    web.files["/a"] = b"at last"
    web.moods["/a"] = [lambda handler: handler.answer(status), Handler.abort, Handler.half]
    web.moods["/up"] = [_read_and(status)]
    done = node.run(
        host,
        sh("cat /in/x; echo 1 > /out/x"),
        inputs=[fetch(f"{web.url}/a")],
        outputs=[send(f"{web.url}/up")],
        transfer={"timeout_s": 5, "attempts": 4, "backoff_s": 0.01},
    )
    assert done.complete().stdout() == "at last"
    assert len(web.requests("/a")) == 4
    assert web.files["/up"] == b"1\n"


def _read_and(status: int):  # noqa: ANN202
    def mood(handler: Handler) -> None:
        handler.body()
        handler.answer(status)

    return mood


def test_a_transfer_that_keeps_failing_says_where_and_how_often(
    host: Engine, node: Node, web: Web
) -> None:
    web.moods["/a"] = [lambda handler: handler.answer(503)] * 3
    url = web.url.replace("http://", "http://user:secret@") + "/a?signature=secret"
    done = node.run(host, ["true"], inputs=[fetch(url)])
    assert done.outcome == "system_error"
    assert f"input {web.url}/a failed after 3 attempts: HTTP 503" in done.reason
    assert "secret" not in str(done.document) + done.stderr


def test_a_refusal_is_not_asked_again(host: Engine, node: Node, web: Web) -> None:
    done = node.run(host, ["true"], inputs=[fetch(f"{web.url}/missing")])
    assert (done.outcome, len(web.requests("/missing"))) == ("system_error", 1)
    assert "HTTP 404" in done.reason


def test_a_server_that_is_not_there_or_silent(host: Engine, node: Node, web: Web) -> None:
    hold = threading.Event()
    web.moods["/a"] = [lambda _: hold.wait(5) and None] * 2
    transfer = {"timeout_s": 0.2, "attempts": 2, "backoff_s": 0.01}
    done = node.run(host, ["true"], inputs=[fetch(f"{web.url}/a")], transfer=transfer)
    hold.set()
    assert "timed out" in done.reason
    done = node.run(host, ["true"], inputs=[fetch("http://127.0.0.1:1/a")], transfer=transfer)
    assert "failed after 2 attempts: [Errno 111] Connection refused" in done.reason


def test_redirections_are_followed_without_the_headers(host: Engine, node: Node, web: Web) -> None:
    web.files["/a"] = b"there"
    other = web.url.replace("127.0.0.1", "localhost")
    web.moods["/same"] = [lambda handler: handler.answer(302, Location="/away")]
    web.moods["/away"] = [lambda handler: handler.answer(307, Location=f"{other}/a")]
    headers = {"Authorization": "Bearer t", "X-Token": "t"}
    done = node.run(host, sh("cat /in/x"), inputs=[fetch(f"{web.url}/same", headers=headers)])
    assert done.complete().stdout() == "there"
    (_, kept), (_, away), (_, dropped) = (
        web.requests(path)[0] for path in ("/same", "/away", "/a")
    )
    assert kept["X-Token"] == away["Authorization"][-1:] == "t"
    assert "Authorization" not in dropped
    assert "X-Token" not in dropped


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x"])
def test_redirections_stay_with_http(host: Engine, node: Node, web: Web, target: str) -> None:
    web.moods["/a"] = [lambda handler: handler.answer(302, Location=target)]
    done = node.run(host, ["true"], inputs=[fetch(f"{web.url}/a")])
    assert done.outcome == "system_error"
    assert "redirects to" in done.reason


def test_endless_redirections_end(host: Engine, node: Node, web: Web) -> None:
    web.moods["/a"] = [lambda handler: handler.answer(302, Location="/a")] * 20
    assert (
        "too many redirections" in node.run(host, ["true"], inputs=[fetch(f"{web.url}/a")]).reason
    )


def test_credentials_in_a_url_are_sent_as_basic(host: Engine, node: Node, web: Web) -> None:
    web.files["/a"] = b"1"
    url = web.url.replace("http://", "http://us%40er:p%3Aw@")
    node.run(host, ["true"], inputs=[fetch(f"{url}/a")]).complete()
    assert web.requests("/a")[0][1]["Authorization"] == "Basic dXNAZXI6cDp3"


@pytest.mark.parametrize("status", [404, 405, 501])
def test_where_put_is_refused_a_form_is_posted(
    host: Engine, node: Node, web: Web, status: int
) -> None:
    web.moods["/form"] = [_read_and(status)]
    output = {"path": '/out/na"me.txt', "url": f"{web.url}/form"}
    node.run(host, sh("printf '\\377ok' > '/out/na\"me.txt'"), outputs=[output]).complete()
    method, headers = web.requests("/form")[1]
    boundary = re.fullmatch(r"multipart/form-data; boundary=(\w+)", headers["Content-Type"])[1]  # type: ignore[index]
    assert method == "POST"
    assert (
        web.files["/form"]
        == (
            f"--{boundary}\r\n"
            'Content-Disposition: form-data; name="file"; filename="na%22me.txt"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        + b"\xffok"
        + f"\r\n--{boundary}--\r\n".encode()
    )


def test_an_early_refusal_of_a_large_upload_is_understood(
    host: Engine, node: Node, web: Web
) -> None:
    web.moods["/up"] = [Handler.refuse_early]
    done = node.run(host, sh("head -c 50M /dev/zero > /out/x"), outputs=[send(f"{web.url}/up")])
    assert done.outcome == "system_error"
    assert "HTTP 403" in done.reason or "failed after" in done.reason


def test_a_failed_upload_after_a_failed_program_stays_the_programs_failure(
    host: Engine, node: Node, web: Web
) -> None:
    web.moods["/up"] = [_read_and(403)]
    done = node.run(host, sh("echo > /out/x; exit 5"), outputs=[send(f"{web.url}/up")])
    assert (done.outcome, done.codes) == ("executor_error", [5])
    assert "HTTP 403" in done.log


def test_an_unknown_scheme_is_refused(host: Engine, node: Node) -> None:
    done = node.run(host, ["true"], inputs=[fetch("gopher://h/x")])
    assert "no transfer for gopher://h/x" in done.reason


def test_files_are_only_taken_below_the_roots(host: Engine, node: Node) -> None:
    (node.shared / "link").symlink_to("/etc/passwd")
    (node.shared / "dir").symlink_to("/etc")
    (node.base / "sharedx").write_text("beside")
    secret = node.base / "secret"
    secret.write_text("x")
    for url in (
        "/etc/passwd", "file:///etc/passwd", f"{node.shared}/link", f"{node.shared}/dir/passwd",
        f"{node.shared}/../secret", f"file://{node.shared}/%2e%2e/secret", f"{node.base}/sharedx", "file://h/x",
    ):  # fmt: skip
        done = node.run(host, sh("cat /in/x"), inputs=[fetch(url)])
        assert done.outcome == "system_error", url
        assert (
            "not below a directory that this node opens" in done.reason
            or "another host" in done.reason
        )
    tree = node.shared / "tree"
    tree.mkdir()
    (tree / "out").symlink_to("../link")
    done = node.run(host, ["true"], inputs=[fetch(f"{tree}", type="DIRECTORY")])
    assert "is a link that leads out of" in done.reason


def test_files_are_only_written_below_the_roots(host: Engine, node: Node) -> None:
    outside = node.base / "outside"
    outside.mkdir()
    (node.shared / "link").symlink_to(outside)
    for url in (
        f"{outside}/x",
        f"{node.shared}/link/x",
        f"{node.shared}/../outside/x",
        "/etc/tesp-test-x",
    ):
        done = node.run(host, sh("echo > /out/x"), outputs=[send(url)])
        assert done.outcome == "system_error", url
    assert list(outside.iterdir()) == []
    assert not Path("/etc/tesp-test-x").exists()


def test_a_missing_input_is_named(host: Engine, node: Node) -> None:
    done = node.run(host, ["true"], inputs=[fetch(f"file://{node.shared}/none")])
    assert f"input file://{node.shared}/none failed at attempt 1: cannot be read" in done.reason
    done = node.run(host, ["true"], inputs=[fetch(f"{node.shared}")])
    assert "not a regular file" in done.reason
    os.mkfifo(node.shared / "fifo")
    assert (
        "not a regular file"
        in node.run(host, ["true"], inputs=[fetch(f"{node.shared}/fifo")]).reason
    )


def test_a_file_output_appears_whole_and_keeps_its_x_bit(host: Engine, node: Node) -> None:
    (node.shared / "x").write_text("old")
    done = node.run(
        host, sh("echo '#!/bin/sh' > /out/x; chmod 755 /out/x"), outputs=[send(f"{node.shared}/x")]
    )
    done.complete()
    assert (node.shared / "x").read_text() == "#!/bin/sh\n"
    assert os.access(node.shared / "x", os.X_OK)
    assert sorted(os.listdir(node.shared)) == ["x"]
    (node.shared / "d").mkdir()
    done = node.run(host, sh("echo > /out/x"), outputs=[send(f"{node.shared}/d")])
    assert "cannot be written: Is a directory" in done.reason
    assert sorted(os.listdir(node.shared)) == ["d", "x"]


def test_a_name_that_is_no_utf_8_goes_out(host: Engine, node: Node) -> None:
    outputs = [send(f"file://{node.shared}/o", type="DIRECTORY")]
    done = node.run(host, sh("echo 1 > \"$(printf '/out/x/a\\377')\""), outputs=outputs).complete()
    assert os.listdir(os.fsencode(node.shared / "o")) == [b"a\xff"]
    assert done.outputs[0]["url"] == f"file://{node.shared}/o/a%FF"


def test_a_link_as_an_output_is_followed_inside_the_task_only(engine: Engine, node: Node) -> None:
    script = (
        "ln -s /in/x /out/good; ln -s /etc/passwd /out/bad;"
        "ln -s ../../../../../../etc/passwd /out/up; ln -s /out /out/self"
    )
    names = ("good", "bad", "up", "self")
    outputs = [{"path": f"/out/{name}", "url": f"{node.shared}/{name}"} for name in names]
    outputs.append(send(f"{node.shared}/all", path="/out", type="DIRECTORY"))
    done = node.run(engine, sh(script), inputs=[file("/in/x", "mine")], outputs=outputs).complete()
    assert sorted(one["path"] for one in done.outputs) == ["/out/good", "/out/good"]
    assert (node.shared / "good").read_text() == "mine"
    assert "/out/up is no file, or a link to none: not sent" in done.log


def test_https_checks_the_certificate(host: Engine, node: Node, web: Web) -> None:
    done = node.run(host, ["true"], inputs=[fetch(web.url.replace("http:", "https:") + "/a")])
    assert done.outcome == "system_error"
    assert "SSL" in done.reason


def test_a_full_disk_is_named_and_reported(engine: Engine, node: Node) -> None:
    need("root")
    disk = node.base / "disk"
    disk.mkdir()
    assert os.system(f"mount -t tmpfs -o size=6m,mode=755 tmpfs {disk}") == 0
    try:
        done = node.run(engine, sh("head -c 9M /dev/zero; echo end"), base=disk)
        done.complete()
        full = sh("head -c 9000000 /dev/zero; sleep 60", stdout="/o/out")
        done = node.run(engine, full, base=disk)
        assert (done.outcome, done.reason) == ("system_error", "the disk of the node is full")
        assert done.seconds < 30
        done = node.run(engine, sh("head -c 9000000 /dev/zero > /tmp/x || exit 7"), base=disk)
        assert (done.outcome, done.codes) == ("executor_error", [7])
    finally:
        node.check()
        node.jobs.clear()
        assert os.system(f"umount {disk}") == 0
