"""Index pages as servers write them, and as nobody should."""

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tesp_api.runner.index_page import Page, links, reader
from tesp_api.runner.transfer import Refused
from tests.runner.conftest import Engine, Handler, Node, Web, sh

BASE = "http://h:80/data/"

NGINX = """<html><head><title>Index of /data/</title></head><body><h1>Index of /data/</h1><hr><pre>
<a href="../">../</a>
<a href="sub%20dir/">sub dir/</a>       01-Jan-2026 00:00   -
<a href="a%3Fb.txt">a?b.txt</a>       01-Jan-2026 00:00   1</pre></body></html>"""

APACHE = """<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2 Final//EN"><html><head>
<title>Index of /data</title></head><body><h1>Index of /data</h1><table>
<tr><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th></tr>
<tr><td><a href="/">Parent Directory</a></td></tr>
<tr><td><a href="a%3fb.txt"><img src="/icons/text.gif"></a>
<a href="a%3fb.txt">a?b.txt</a></td></tr>
<tr><td><a href="sub%20dir/">sub dir/</a></td></tr></table>
<address>Apache/2.4 <a href="http://httpd.apache.org/">Server</a></address></body></html>"""

PYTHON = """<!DOCTYPE HTML><html lang="en"><head><title>Directory listing for /data/</title></head>
<body><h1>Directory listing for /data/</h1><hr><ul><li><a href="a%3Fb.txt">a?b.txt</a></li>
<li><a href="sub%20dir/">sub dir/</a></li></ul><hr></body></html>"""

ABSOLUTE = """<title>files</title><a href=/data/a%3Fb.txt>1</a><a href="http://h/data/sub%20dir/">
</a><a href='/data/sub%20dir/deep'>deep</a><a href='/other/x'>x</a><a href="/database/y">y</a>
<a href="https://h/data/z">z</a><a href="//other/data/z">z</a><a href="#top">t</a><a href="">e</a>
<a href=".">here</a><a href="./">here</a><a href="javascript:alert(1)">j</a><a name="x">n</a>
<a href="mailto:a@b">m</a><a href="http://[">bad</a><a href="ftp://h/data/q">f</a>"""


def found(html: str, base: str = BASE) -> dict[str, tuple[bool, str]]:
    page = Page({}, [])
    parser = reader(page)
    for start in range(0, len(html), 7):
        parser.feed(html[start : start + 7])
    parser.close()
    return {link.name: (link.is_directory, link.url) for link in links(page, base)}


@pytest.mark.parametrize("html", [NGINX, APACHE, PYTHON], ids=["nginx", "apache", "python"])
def test_every_servers_page_tells_files_and_directories_and_nothing_else(html: str) -> None:
    told = found(html)
    assert {name: is_directory for name, (is_directory, _) in told.items()} == {
        "a?b.txt": False,
        "sub dir": True,
    }
    assert told["sub dir"][1] == f"{BASE}sub%20dir/"


def test_no_link_leads_out_of_the_directory() -> None:
    assert set(found(ABSOLUTE, "http://h/data/")) == {"a?b.txt", "sub dir"}


@pytest.mark.parametrize(
    "href", ["%2e%2e", "%2E%2e/", "a%2fb", "..%2f..%2fetc%2fpasswd", "/data/%2e%2e%2fx", "a%00b"]
)
def test_a_name_that_leads_elsewhere_is_refused(href: str) -> None:
    with pytest.raises(Refused, match="no file can be named"):
        found(f'<title>Index of /</title><a href="{href}">x</a>')


def test_a_page_without_links_is_an_empty_directory_only_if_it_says_so() -> None:
    assert found("<title>Index of /data/</title><a href='../'>..</a>") == {}
    with pytest.raises(Refused, match="no index"):
        found("<title>Welcome</title><p>Please sign in")


@pytest.fixture
def python_server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """The web server that Python brings."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

    handler = functools.partial(Quiet, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_pythons_server_gives_a_tree(
    host: Engine, node: Node, python_server: tuple[Path, str]
) -> None:
    top, url = python_server
    (top / "d" / "sub dir" / "ž").mkdir(parents=True)
    (top / "d" / "sub dir" / "ž" / ".hidden #1").write_text("hidden")
    (top / "d" / "page.html").write_text("<p>page")
    (top / "d" / "none").mkdir()
    inputs = [{"path": "/in", "type": "DIRECTORY", "url": f"{url}/d"}]
    script = sh("cd /in; cat 'sub dir/ž/.hidden #1' page.html; rmdir none")
    assert node.run(host, script, inputs=inputs).complete().stdout() == "hidden<p>page"


def test_a_link_of_the_server_to_itself_ends(
    host: Engine, node: Node, python_server: tuple[Path, str]
) -> None:
    top, url = python_server
    (top / "d").mkdir()
    os.symlink(".", top / "d" / "self")
    inputs = [{"path": "/in", "type": "DIRECTORY", "url": f"{url}/d"}]
    done = node.run(host, ["true"], inputs=inputs)
    assert done.outcome == "system_error"
    assert "has no end" in done.reason or "HTTP 40" in done.reason


def test_a_hostile_index_is_refused(host: Engine, node: Node, web: Web) -> None:
    page = b"<title>Index of /</title><a href='x%2f..%2f..%2fevil'>x</a>"
    web.moods["/d/"] = [lambda handler: handler.answer(200, page, Content_Type="text/html")]
    inputs = [{"path": "/in", "type": "DIRECTORY", "url": f"{web.url}/d"}]
    done = node.run(host, ["true"], inputs=inputs)
    assert "which no file can be named" in done.reason
    web.moods["/d/"] = [Handler.half] * 3
    assert "no index page of a directory" in node.run(host, ["true"], inputs=inputs).reason
