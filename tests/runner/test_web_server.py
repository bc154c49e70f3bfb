"""Inputs and outputs by a real web server: files, directories, wildcards, credentials, TLS."""

import hashlib
import secrets
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.runner.conftest import Engine, Node, file, pythons, sh
from tests.servers.http import Web
from tests.servers.pki import Pki
from tests.servers.proxy import Answer, Cut, Length, Truncate, faulty

NAMES = ("plain", "with space", "žluťoučký 日本", "it's \"quoted\"", "a,b;c=d", "100%25", "#?&",
         "a+b~c", "[a]", ".hidden", "-dash", "<b>&amp;")  # fmt: skip
TREE = {name: secrets.token_bytes(3000) for name in NAMES} | {
    "sub/deep er/x": secrets.token_bytes(1 << 20),
    "sub/same": b"1",
    "empty file": b"",
}
SUMS = "cd /in; find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum -z | tr '\\0' '\\n'"


def sums(tree: dict[str, bytes]) -> str:
    ordered = sorted(tree, key=lambda name: f"./{name}".encode())
    return "".join(f"{hashlib.sha256(tree[name]).hexdigest()}  ./{name}\n" for name in ordered)


def stored(below: Path) -> dict[str, bytes]:
    files = (path for path in below.rglob("*") if path.is_file())
    return {str(path.relative_to(below)): path.read_bytes() for path in files}


@pytest.fixture
def top(site: Web) -> str:
    """A directory of this test's own."""
    return f"t{secrets.token_hex(6)}"


def ca(authority: Pki) -> str:
    return authority.ca.read_text()


@pytest.mark.parametrize("way", ["", "moved/", "kept/", "elsewhere/", "whole/", "chunked/"])
def test_a_file_comes_whole_by_every_way(host: Engine, node: Node, site: Web, way: str) -> None:
    top = node.base.name
    content = secrets.token_bytes(2 << 20)
    site.offer(f"{top}/a b.bin", content)
    one = {"path": "/in/x", "url": f"{site.base}/{way}{top}/a%20b.bin"}
    done = node.run(host, sh(SUMS), inputs=[one]).complete()
    assert done.stdout() == sums({"x": content})


@pytest.mark.parametrize("way", ["", "secure/"])
def test_tls_is_trusted_by_the_certificates_of_the_order(
    host: Engine, node: Node, site: Web, authority: Pki, way: str
) -> None:
    top = node.base.name
    site.offer(f"{top}/x", b"content")
    inputs = [{"path": "/in/x", "url": f"{site.base if way else site.tls}/{way}{top}/x"}]
    outputs = [{"path": "/out/x", "url": f"{site.tls}/{top}/up"}]
    script = sh("cp /in/x /out/x")
    node.run(host, script, inputs=inputs, outputs=outputs, ca=ca(authority)).complete()
    assert (site.files / top / "up").read_bytes() == b"content"
    done = node.run(host, script, inputs=inputs, outputs=outputs)
    assert done.outcome == "system_error"
    assert "CERTIFICATE_VERIFY_FAILED" in done.reason
    assert "at attempt 1" in done.reason


def test_a_ca_file_without_certificates_is_named(host: Engine, node: Node, site: Web) -> None:
    done = node.run(host, ["true"], inputs=[{"path": "/in/x", "url": f"{site.tls}/x"}], ca="none")
    assert "holds no certificates" in done.reason


def test_basic_and_bearer_open_what_is_closed(
    host: Engine, node: Node, site: Web, top: str
) -> None:
    site.offer(f"{top}/x", b"content")
    user = site.base.replace("http://", f"http://{site.username}:{site.password}@")
    ways = [
        {"url": f"{user}/private/{top}/x"},
        {"url": f"{site.base}/token/{top}/x", "headers": {"Authorization": f"Bearer {site.token}"}},
    ]
    for way in ways:
        done = node.run(host, sh(SUMS), inputs=[{"path": "/in/x", **way}]).complete()
        assert done.stdout() == sums({"x": b"content"})
        closed = {"path": "/in/x", "url": way["url"].replace(f":{site.password}@", ":wrong@")}
        done = node.run(host, ["true"], inputs=[closed])
        assert "failed at attempt 1: HTTP 401" in done.reason


def test_credentials_go_to_no_other_host_and_port(
    host: Engine, node: Node, site: Web, top: str
) -> None:
    site.offer(f"{top}/x", b"content")
    url = site.base.replace("http://", f"http://{site.username}:{site.password}@")
    one = {"path": "/in/x", "url": f"{url}/elsewhere/{top}/x"}
    node.run(host, ["true"], inputs=[one]).complete()
    first, second = (one.authorization for one in site.asked(f"{top}/x"))
    assert first.startswith("Basic ")
    assert not second


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("leads/ftp/{}/x", "HTTP 302 redirects to ftp"),
        ("leads/file/etc/passwd", "HTTP 302 redirects to file"),
        ("round/x", "too many redirections"),
        ("login/{}/x", "a web page instead of the file"),
        ("page/{}/x.bam", "a web page instead of the file"),
        ("status/410", "failed at attempt 1: HTTP 410"),
        ("status/504", "failed after 3 attempts: HTTP 504"),
        ("md5-wrong/{}/x", "Content-MD5"),
        ("{}/none", "failed at attempt 1: HTTP 404 Not Found (0 bytes received)"),
    ],
)
def test_what_is_no_file_is_said_precisely(
    host: Engine, node: Node, site: Web, path: str, said: str
) -> None:
    top = node.base.name
    site.offer(f"{top}/x", b"content")
    url = f"{site.base}/{path.format(top)}"
    done = node.run(host, ["true"], inputs=[{"path": "/in/x", "url": url}])
    assert (done.outcome, done.codes) == ("system_error", [])
    assert done.reason.startswith(f"input {url} failed")
    assert said in done.reason


def test_a_web_page_is_an_input_where_one_was_asked_for(
    host: Engine, node: Node, site: Web, top: str
) -> None:
    site.offer(f"{top}/x.html", b"<p>page")
    one = {"path": "/in/x", "url": f"{site.base}/{top}/x.html"}
    assert node.run(host, sh("cat /in/x"), inputs=[one]).complete().stdout() == "<p>page"


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("closed", [False, True])
def test_a_directory_comes_as_its_index_pages_tell(
    host: Engine, node: Node, site: Web, slash: str, closed: bool
) -> None:
    top = node.base.name
    for name, content in TREE.items():
        site.offer(f"{top}/d/{name}", content)
    (site.files / top / "d" / "empty").mkdir()
    site.offer(f"{top}/beside", b"not this")
    base = site.base.replace("http://", f"http://{site.username}:{site.password}@")
    url = f"{base}/private/{top}/d{slash}" if closed else f"{site.base}/{top}/d{slash}"
    one = {"path": "/in", "type": "DIRECTORY", "url": url}
    done = node.run(host, sh(f"{SUMS}; test -d empty"), inputs=[one]).complete()
    assert done.stdout() == sums({name: TREE[name] for name in TREE if name != ".hidden"})


def test_a_directory_that_is_a_file_or_missing_is_an_error(
    host: Engine, node: Node, site: Web, top: str
) -> None:
    site.offer(f"{top}/f", b"x")
    wrong = {path: "HTTP 404" for path in (f"{top}/f", f"{top}/none", "pages/sign-in.html")}
    for path, said in {**wrong, "page": "no index of a directory"}.items():
        one = {"path": "/in", "type": "DIRECTORY", "url": f"{site.base}/{path}"}
        done = node.run(host, ["true"], inputs=[one])
        assert said in done.reason, path


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_directory_goes_out_with_its_structure(
    engine: Engine, node: Node, site: Web, top: str, slash: str
) -> None:
    for name, content in TREE.items():
        (node.shared / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (node.shared / "d" / name).write_bytes(content)
    inputs = [{"path": "/in", "type": "DIRECTORY", "url": f"file://{node.shared}/d"}]
    outputs = [{"path": "/out", "type": "DIRECTORY", "url": f"{site.base}/{top}/o{slash}"}]
    script = sh("cp -r /in/. /out/; mkdir -p /out/none/here")
    done = node.run(engine, script, inputs=inputs, outputs=outputs).complete()
    assert stored(site.files / top / "o") == TREE
    sent = {one["path"]: one for one in done.outputs}
    assert set(sent) == {f"/out/{name}" for name in TREE}
    for name, content in TREE.items():
        url = f"{site.base}/{top}/o/{quote(name)}"
        assert sent[f"/out/{name}"] == {
            "url": url, "path": f"/out/{name}", "size_bytes": len(content),
        }  # fmt: skip
    assert "1 empty directories have no place there" in done.log


def test_wildcards_choose_what_goes_out(host: Engine, node: Node, site: Web, top: str) -> None:
    outputs = [
        {"path": "/out/*.tx?", "path_prefix": "/out", "type": "FILE"},
        {"path": "/out/d[12]", "path_prefix": "/out/", "type": "DIRECTORY"},
        {"path": "/out/none*", "path_prefix": "/out", "type": "FILE"},
    ]
    for one, slash in zip(outputs, ("", "/", ""), strict=True):
        one["url"] = f"{site.base}/{top}/w{slash}"
    script = sh(
        "cd /out; echo 1 > a.txt; echo 2 > 'b c.txz'; echo 3 > c.log; echo 4 > .d.txt;"
        "mkdir d1 d2 d3; echo 5 > d1/x; echo 6 > d2/y; echo 7 > d3/z; mkdir e.txt"
    )
    done = node.run(host, script, outputs=outputs).complete()
    assert stored(site.files / top) == {
        "w/a.txt": b"1\n", "w/b c.txz": b"2\n", "w/d1/x": b"5\n", "w/d2/y": b"6\n",
    }  # fmt: skip
    assert "output /out/none* (FILE) matches nothing that was written" in done.log


def test_an_upload_that_is_refused_is_said_and_the_others_go(
    host: Engine, node: Node, site: Web, top: str
) -> None:
    outputs = [
        {"path": "/out/a", "url": f"{site.base}/readonly/{top}/a"},
        {"path": "/out/b", "url": f"{site.base}/{top}/b"},
    ]
    done = node.run(host, sh("echo a > /out/a; echo b > /out/b"), outputs=outputs)
    assert done.outcome == "system_error"
    url = outputs[0]["url"]
    assert done.reason.startswith(f"output {url} failed at attempt 1: HTTP 405 Not Allowed to PUT")
    assert [one["path"] for one in done.outputs] == ["/out/b"]
    assert (site.files / top / "b").read_bytes() == b"b\n"


def test_outputs_go_out_after_a_failed_program_and_a_missing_one_is_told(
    host: Engine, node: Node, site: Web, top: str
) -> None:
    outputs = [
        {"path": f"/out/{name}", "url": f"{site.base}/{top}/{name}"} for name in ("a", "none")
    ]
    done = node.run(host, sh("echo a > /out/a; exit 3"), outputs=outputs, missing="error")
    assert (done.outcome, done.codes) == ("executor_error", [3])
    assert stored(site.files / top) == {"a": b"a\n"}
    assert "output /out/none (FILE) was not written" in done.log


@pytest.mark.parametrize(("missing", "outcome"), [("warn", "complete"), ("error", "system_error")])
def test_a_missing_output_is_a_warning_or_an_error(
    host: Engine, node: Node, site: Web, missing: str, outcome: str
) -> None:
    top = node.base.name
    outputs = [
        {"path": f"/out/{name}", "url": f"{site.base}/{top}/{name}"} for name in ("none", "a")
    ]
    done = node.run(host, sh("echo a > /out/a"), outputs=outputs, missing=missing)
    said = "output /out/none (FILE) was not written"
    assert done.outcome == outcome
    assert said in (done.log if missing == "warn" else done.reason).splitlines()
    assert stored(site.files / top) == {"a": b"a\n"}


def test_a_disk_that_is_too_small_is_said_before_anything_comes(
    host: Engine, node: Node, site: Web, top: str
) -> None:
    one = {"path": "/in/x", "url": site.offer(f"{top}/x", b"content")}
    done = node.run(host, ["true"], inputs=[one], limits={"disk_gb": 10**9})
    assert done.outcome == "system_error"
    assert "asks for 1e+09 GB of disk" in done.reason
    assert site.asked(top) == []


def test_connections_are_kept_for_many_files(host: Engine, node: Node, site: Web, top: str) -> None:
    for number in range(300):
        site.offer(f"{top}/d/{number}", str(number).encode())
    with faulty(site.port) as proxy:
        inputs = [{"path": "/in", "type": "DIRECTORY", "url": proxy.url(f"/{top}/d")}]
        outputs = [{"path": "/in", "type": "DIRECTORY", "url": proxy.url(f"/{top}/o")}]
        done = node.run(host, sh("ls /in | wc -l"), inputs=inputs, outputs=outputs).complete()
        assert proxy.connections <= 10
    assert done.stdout() == "300\n"
    assert len(stored(site.files / top / "o")) == 300


def test_an_input_that_is_given_and_one_that_is_fetched_do_not_meet(
    host: Engine, node: Node, site: Web, top: str
) -> None:
    site.offer(f"{top}/d/x", b"theirs")
    inputs = [
        file("/in/given", "mine"),
        {"path": "/in/d", "type": "DIRECTORY", "url": f"{site.base}/{top}/d"},
    ]
    done = node.run(host, sh("cat /in/given /in/d/x"), inputs=inputs).complete()
    assert done.stdout() == "minetheirs"


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parts[-3])
def test_every_python_transfers(
    host: Engine, node: Node, site: Web, authority: Pki, python: str
) -> None:
    top = node.base.name
    for name, content in TREE.items():
        site.offer(f"{top}/d/{name}", content)
    with faulty(site.port) as proxy:
        proxy.next(Truncate(20), Answer(503), Length(-1), Cut(500))
        inputs = [
            {"path": "/in", "type": "DIRECTORY", "url": proxy.url(f"/{top}/d")},
            {"path": "/tls", "url": f"{site.tls}/{top}/d/plain"},
        ]
        outputs = [{"path": "/in", "type": "DIRECTORY", "url": f"{site.tls}/{top}/o"}]
        order = {"inputs": inputs, "outputs": outputs, "ca": ca(authority)}
        transfer = {"attempts": 9, "backoff_s": 0.01, "timeout_s": 5}
        done = node.run(host, sh(SUMS), python=python, transfer=transfer, **order).complete()
    tree = {name: TREE[name] for name in TREE if name != ".hidden"}
    assert done.stdout() == sums(tree)
    assert stored(site.files / top / "o") == tree
    assert done.stderr == ""
