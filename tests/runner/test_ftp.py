"""FTP and FTPS against two real servers, with their limits and faults, and against liars."""

import hashlib
import os
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tesp_api.runner.ftp import Ftp, path_of
from tesp_api.runner.ftp_listing import bare_listed, human_listed, machine_listed
from tesp_api.runner.ftp_session import Login, login_of
from tesp_api.runner.transfer import (
    Arrival,
    Departure,
    Place,
    Refused,
    Terms,
    Transient,
    public_url,
)
from tesp_api.runner.trouble import Trouble
from tests.runner.conftest import Engine, Node, sh
from tests.servers import ftp as servers
from tests.servers.pki import Pki, pki
from tests.servers.process import HOST
from tests.servers.proxy import Cut, Delay, Silence, faulty

BIG = secrets.token_bytes(3 << 20)
NAMES = ("plain", "with space", " leading", "žluťoučký 日本", "it's \"quoted\"", "a,b;c=d", "-dash",
         "[a]*?", "100%25", "#?&", "-> arrow", ".hidden", "back\\slash")  # fmt: skip


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(params=["pyftpdlib", "pyftpdlib-tls", "vsftpd", "vsftpd-tls"])
def server(request: pytest.FixtureRequest, tmp_path: Path, authority: Pki) -> Iterator[servers.Ftp]:
    kind, _, tls = request.param.partition("-")
    # An ordinary account reads below it.
    for above in (tmp_path, *list(tmp_path.parents)[:2]):
        above.chmod(0o755)
    start = servers.vsftpd if kind == "vsftpd" else servers.ftp
    with start(tmp_path, authority if tls else None) as running:
        yield running


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[servers.Ftp]:
    with servers.ftp(tmp_path) as running:
        yield running


def place(server: servers.Ftp, path: str = "", **more: Any) -> Place:
    url = server.url("") + "/" * path.startswith("/")
    made = Place(url, url, {}, server.username, server.password)._replace(**more)
    return made.below(path) if path else made


def way(server: servers.Ftp | None = None, timeout_s: float = 5) -> Ftp:
    ca = server.ca.read_text() if server and server.ca else None
    return Ftp(Terms(timeout_s, ca, "job1"))


@contextmanager
def arrival(path: Path) -> Iterator[Arrival]:
    with path.open("w+b") as file:
        yield Arrival(file.fileno())


def fetched(ftp: Ftp, where: Place, into: Path, attempts: int = 1) -> tuple[bytes, Arrival]:
    with arrival(into) as one:
        patiently(lambda: ftp.get(where, one), attempts)
        return into.read_bytes(), one


def sent(ftp: Ftp, where: Place, content: bytes, source: Path, attempts: int = 1) -> Departure:
    source.write_bytes(content)
    with source.open("rb") as file:
        departure = Departure(file.fileno(), source.name, len(content))
        patiently(lambda: ftp.put(where, departure), attempts)
        return departure


def patiently(once: Callable[[], object], attempts: int) -> None:
    for left in reversed(range(attempts)):
        try:
            once()
        except Transient:
            if not left:
                raise
        else:
            return


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def said(server: servers.Ftp) -> str:
    return server.log.read_text()


def test_files_come_and_go_whatever_they_are_called(server: servers.Ftp, tmp_path: Path) -> None:
    with closing(way(server)) as ftp:
        for name in NAMES:
            content = BIG + name.encode()
            sent(ftp, place(server, f"deep/er/{name}"), content, tmp_path / "source")
            assert sha((server.files / "deep" / "er" / name).read_bytes()) == sha(content)
            got, _ = fetched(ftp, place(server, f"deep/er/{name}"), tmp_path / "sink")
            assert sha(got) == sha(content)
        sent(ftp, place(server, "plain"), b"", tmp_path / "source")
        assert fetched(ftp, place(server, "plain"), tmp_path / "sink")[0] == b""
    assert sorted(os.listdir(server.files / "deep" / "er")) == sorted(NAMES)


def test_an_existing_file_is_replaced(server: servers.Ftp, tmp_path: Path) -> None:
    with closing(way(server)) as ftp:
        for content in (b"first", b"second, longer", b"3rd"):
            sent(ftp, place(server, "x"), content, tmp_path / "source")
            assert (server.files / "x").read_bytes() == content
    assert os.listdir(server.files) == ["x"]


def test_a_directory_is_listed(server: servers.Ftp, tmp_path: Path) -> None:
    top = server.files / "top dir"
    (top / "sub").mkdir(parents=True)
    for name in NAMES:
        (top / name).write_bytes(b"12345")
    (top / "sub" / "inner").write_text("x")
    (top / "link").symlink_to("plain")
    (top / "dirlink").symlink_to("sub")
    with closing(way(server)) as ftp:
        for url in ("top dir", "top dir/"):
            found = {one.name: one for one in ftp.entries(place(server, url))}
            assert set(found) == {*NAMES, "sub", "link", "dirlink"}
            kinds = {name for name, one in found.items() if one.kind == "DIRECTORY"}
            assert kinds == {"sub", "dirlink"}
            assert {found[name].size_bytes for name in NAMES} == {5}
        assert fetched(ftp, found["-> arrow"].place, tmp_path / "sink")[0] == b"12345"
        (inner,) = ftp.entries(found["sub"].place)
        assert (inner.name, inner.kind) == ("inner", "FILE")
        assert ftp.make_directory(place(server, "top dir/empty/er/"))
        assert list(ftp.entries(place(server, "top dir/empty/er"))) == []
        assert ftp.make_directory(place(server, "top dir/empty/er"))


@pytest.mark.parametrize("without", [["MLSD"], ["MLSD", "LIST"]])
def test_servers_without_mlsd_are_read_too(tmp_path: Path, without: Sequence[str]) -> None:
    with servers.ftp(tmp_path, without=without) as server, closing(way()) as ftp:
        (server.files / "d" / "sub").mkdir(parents=True)
        (server.files / "d" / "a b").write_text("1")
        (server.files / "d" / ".c").write_text("1")
        found = {one.name: one.kind for one in ftp.entries(place(server, "d"))}
        assert found == {"sub": "DIRECTORY", "a b": "FILE", ".c": "FILE"}
        assert list(ftp.entries(place(server, "d/sub"))) == []


def test_what_is_not_there_is_an_answer(server: servers.Ftp, tmp_path: Path) -> None:
    (server.files / "dir").mkdir()
    with closing(way(server)) as ftp:
        for path in ("none", "none/at/all", "dir"):
            with pytest.raises(Refused, match="FTP 55") as error:
                fetched(ftp, place(server, path), tmp_path / "sink")
            assert error.value.status in {550, 553}
        with pytest.raises(Refused, match="FTP 55"):
            ftp.entries(place(server, "none"))
        with pytest.raises(Refused, match="FTP 55"):
            sent(ftp, place(server, "dir"), b"1", tmp_path / "source")
        (server.files / "x").write_text("still")
        assert fetched(ftp, place(server, "x"), tmp_path / "sink")[0] == b"still"
    assert said(server).count("OK LOGIN") <= 1
    assert said(server).count("logged in") <= 1


def test_an_upload_that_cannot_be_leaves_nothing(server: servers.Ftp, tmp_path: Path) -> None:
    (server.files / "file").write_text("x")
    with closing(way(server)) as ftp, pytest.raises(Refused, match="FTP 5"):
        sent(ftp, place(server, "file/below"), b"1", tmp_path / "source")
    assert os.listdir(server.files) == ["file"]


def test_a_wrong_password_is_an_answer_that_does_not_show_it(
    server: servers.Ftp, tmp_path: Path
) -> None:
    wrong = place(server, "x", password="canary-of-the-test")
    with closing(way(server)) as ftp, pytest.raises(Refused, match="FTP 530") as error:
        fetched(ftp, wrong, tmp_path / "sink")
    assert "canary" not in str(error.value)


def test_credentials_come_from_the_url_or_are_those_of_anybody(tmp_path: Path) -> None:
    with servers.ftp(tmp_path, anonymous=True) as server, closing(way()) as ftp:
        (server.files / "x").write_text("open")
        nobody = place(server, "x", username=None, password=None)
        assert fetched(ftp, nobody, tmp_path / "sink")[0] == b"open"
        with pytest.raises(Refused, match="FTP 55"):
            sent(ftp, nobody, b"1", tmp_path / "source")
        url = server.url("y", login=True)
        mine = Place(url, public_url(url), {})
        sent(ftp, mine, b"1", tmp_path / "source")
        assert fetched(ftp, mine, tmp_path / "sink")[0] == b"1"


@pytest.mark.parametrize("secure", [False, True])
def test_a_broken_download_goes_on_where_it_was(
    tmp_path: Path, authority: Pki, *, secure: bool
) -> None:
    tls = authority if secure else None
    with (
        servers.ftp(tmp_path, tls, cut_after=1_000_000, cut_times=2) as server,
        closing(way(server, timeout_s=1)) as ftp,
    ):
        (server.files / "x").write_bytes(BIG)
        got, one = fetched(ftp, place(server, "x"), tmp_path / "sink", attempts=3)
        assert sha(got) == sha(BIG)
        assert one.moved < len(BIG) * 1.2
        assert "REST" in said(server)


def test_a_download_cut_in_order_is_seen(tmp_path: Path) -> None:
    with (
        servers.ftp(tmp_path, cut_after=2_000_000, liar=True) as server,
        closing(way(server)) as ftp,
    ):
        (server.files / "x").write_bytes(BIG)
        with pytest.raises(Transient, match=f"of {len(BIG)} bytes received"):
            fetched(ftp, place(server, "x"), tmp_path / "sink")
        got, _ = fetched(ftp, place(server, "x"), tmp_path / "sink")
        assert sha(got) == sha(BIG)


def test_a_file_that_changed_between_two_attempts_is_not_mixed(tmp_path: Path) -> None:
    with servers.ftp(tmp_path, cut_after=1_000_000) as server, closing(way()) as ftp:
        file = server.files / "x"
        file.write_bytes(BIG)
        with arrival(tmp_path / "sink") as one:
            with pytest.raises(Transient):
                ftp.get(place(server, "x"), one)
            assert 0 < one.received < len(BIG)
            file.write_bytes(BIG[::-1])
            os.utime(file, (1_000_000_000, 1_000_000_000))
            ftp.get(place(server, "x"), one)
        assert sha((tmp_path / "sink").read_bytes()) == sha(BIG[::-1])


@pytest.mark.parametrize("liar", [False, True])
def test_a_broken_upload_is_seen_and_done_again(tmp_path: Path, *, liar: bool) -> None:
    with (
        servers.ftp(tmp_path, cut_after=1_000_000, cut_times=2, liar=liar) as server,
        closing(way()) as ftp,
    ):
        (server.files / "x").write_text("old")
        with pytest.raises(Transient):
            sent(ftp, place(server, "x"), BIG, tmp_path / "source")
        assert (server.files / "x").read_text() == "old"
        sent(ftp, place(server, "x"), BIG, tmp_path / "source", attempts=2)
        assert sha((server.files / "x").read_bytes()) == sha(BIG)
        assert os.listdir(server.files) == ["x"]


def test_an_upload_given_up_leaves_nothing(tmp_path: Path) -> None:
    with servers.ftp(tmp_path, cut_after=1_000_000, cut_times=9) as server:
        with closing(way()) as ftp, pytest.raises(Transient):
            sent(ftp, place(server, "x"), BIG, tmp_path / "source", attempts=2)
        assert os.listdir(server.files) == []


def test_a_busy_server_may_be_asked_again(tmp_path: Path) -> None:
    with servers.ftp(tmp_path, busy_times=2) as server, closing(way()) as ftp:
        (server.files / "x").write_text("1")
        with pytest.raises(Transient, match="FTP 450 Busy"):
            fetched(ftp, place(server, "x"), tmp_path / "sink")
        assert fetched(ftp, place(server, "x"), tmp_path / "sink", attempts=2)[0] == b"1"


@pytest.mark.parametrize("without", [["RNFR", "RNTO"], ["RNTO"], ["EPSV"], ["SIZE", "MDTM"],
                                     ["REST"], ["PWD"], ["OPTS", "FEAT"], ["MKD"]])  # fmt: skip
def test_servers_that_lack_a_command_are_served(tmp_path: Path, without: Sequence[str]) -> None:
    directory = "" if without == ["MKD"] else "a/b/"
    with servers.ftp(tmp_path, without=without) as server, closing(way()) as ftp:
        for content in (BIG, b"small", BIG[::-1]):
            sent(ftp, place(server, f"{directory}x"), content, tmp_path / "source")
            got, _ = fetched(ftp, place(server, f"{directory}x"), tmp_path / "sink")
            assert sha(got) == sha(content)
        assert os.listdir(server.files / directory) == ["x"]


def test_without_rest_a_broken_download_begins_again(tmp_path: Path) -> None:
    with servers.ftp(tmp_path, without=["REST"], cut_after=2_000_000, cut_times=2) as server:
        (server.files / "x").write_bytes(BIG)
        with closing(way()) as ftp:
            with pytest.raises(Transient):
                fetched(ftp, place(server, "x"), tmp_path / "sink")
            got, _ = fetched(ftp, place(server, "x"), tmp_path / "sink", attempts=2)
        assert sha(got) == sha(BIG)


def test_a_certificate_is_checked(tmp_path: Path, authority: Pki) -> None:
    with servers.ftp(tmp_path, authority) as server:
        (server.files / "x").write_text("1")
        with closing(way()) as ftp, pytest.raises(Refused, match="certificate verify failed"):
            fetched(ftp, place(server, "x"), tmp_path / "sink")
        assert server.password not in said(server)
        with closing(way(server)) as ftp:
            url = server.url("x").replace(HOST, "localhost")
            named = place(server, "")._replace(url=url)
            assert fetched(ftp, named, tmp_path / "sink")[0] == b"1"


def test_ftp_in_the_clear_is_no_way_out_of_ftps(plain: servers.Ftp, tmp_path: Path) -> None:
    secure = place(plain, "x")
    secure = secure._replace(url=secure.url.replace("ftp:", "ftps:"))
    with servers.ftp(_made(tmp_path / "b"), without=["AUTH"]) as other, closing(way()) as ftp:
        for url in (secure.url, other.url("x").replace("ftp:", "ftps:")):
            with pytest.raises((Refused, Transient)):
                fetched(ftp, secure._replace(url=url), tmp_path / "sink")
        assert "USER" not in said(plain) + said(other)


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def test_implicit_tls_begins_before_the_first_word(
    tmp_path: Path, authority: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority.both)
    with Scripted({"USER": "230 in", "RETR": "550 none", "EPSV": "500 no"}, context) as server:
        monkeypatch.setattr("tesp_api.runner.ftp_session.IMPLICIT_PORT", server.port)
        where = Place(f"ftps://{HOST}:{server.port}/x", "x", {}, "u", "p")
        ca = authority.ca.read_text()
        with closing(Ftp(Terms(5, ca))) as ftp, pytest.raises(Transient, match=r"closed|names no"):
            fetched(ftp, where, tmp_path / "sink")
    assert server.heard[:3] == ["USER u", "PBSZ 0", "PROT P"]


class Scripted:
    """A server that answers each command with one line, by its first word; 200 else."""

    def __init__(self, answers: dict[str, str], tls: ssl.SSLContext | None = None) -> None:
        self.answers = {"": "220 here", "PWD": '257 "/"', **answers}
        self.heard: list[str] = []
        self._tls = tls
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> "Scripted":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                bare, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._talk(bare)
            except OSError:
                bare.close()

    def _talk(self, bare: socket.socket) -> None:
        bare.settimeout(5)
        talk = self._tls.wrap_socket(bare, server_side=True) if self._tls else bare
        with talk, talk.makefile("rb") as lines:
            talk.sendall(self.answers[""].encode() + b"\r\n")
            for line in lines:
                self.heard.append(line.decode().rstrip("\r\n"))
                answer = self.answers.get(self.heard[-1].partition(" ")[0], "200 yes")
                talk.sendall(answer.encode() + b"\r\n")


def scripted(answers: dict[str, str], tmp_path: Path, path: str = "x") -> list[str]:
    with Scripted(answers) as server, closing(way(timeout_s=1)) as ftp:
        where = Place(f"ftp://{HOST}:{server.port}/{path}", "x", {}, "u", "canary")
        fetched(ftp, where, tmp_path / "sink")
    return server.heard


def test_data_are_taken_only_from_the_host_that_is_spoken_with(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        answers = {"EPSV": "500 no", "PASV": f"227 (10,255,255,1,{port // 256},{port % 256})",
                   "RETR": "550 not today"}  # fmt: skip
        with pytest.raises(Refused, match="FTP 550 not today"):
            scripted(answers, tmp_path)
        listener.settimeout(1)
        listener.accept()[0].close()


def test_a_server_that_repeats_the_password_is_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(Refused) as error:
        scripted({"USER": "331 now", "PASS": "530 canary is wrong\x1b[2J"}, tmp_path)
    assert str(error.value) == "FTP 530 *** is wrong [2J"


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ({"": "421 too many"}, "FTP 421 too many"),
        ({"": "HTTP/1.1 400 Bad"}, "not FTP's"),
        ({"": "220-" + "x" * 10_000}, "does not end"),
        ({"": "220-\r\n" + "x\r\n" * 100_000}, "does not end"),
        ({"": "220-never the end"}, "timed out|closed"),
        ({"EPSV": "229 (|||0|)"}, "no data connection"),
        ({"EPSV": "229 (|||99999|)"}, "no data connection"),
        ({"EPSV": "229 what", "PASV": "227 what"}, "names no data connection"),
        ({"EPSV": "425 later"}, "FTP 425"),
        ({"EPSV": "229 (|||1|)"}, "refused"),
    ],
)
def test_a_strange_server_is_an_error_that_may_pass(
    tmp_path: Path, answers: dict[str, str], error: str
) -> None:
    with pytest.raises(Transient, match=error):
        scripted(answers, tmp_path)


def test_a_silent_or_cutting_way_to_the_server_ends(plain: servers.Ftp, tmp_path: Path) -> None:
    (plain.files / "x").write_text("1")
    with faulty(plain.port) as proxy, closing(way(timeout_s=0.5)) as ftp:
        url = plain.url("x").replace(str(plain.port), str(proxy.port))
        where = place(plain, "")._replace(url=url)
        for fault, error in ((Silence(), "timed out"), (Cut(after=30), "reset|closed")):
            proxy.next(fault)
            began = time.monotonic()
            with pytest.raises(Transient, match=error):
                fetched(ftp, where, tmp_path / "sink")
            assert time.monotonic() - began < 5
        proxy.next(Delay(0.05))
        assert fetched(ftp, where, tmp_path / "sink")[0] == b"1"


@pytest.mark.parametrize(("idle_s", "calls"), [(0.0, 2), (60.0, 1)])
def test_a_server_that_hung_up_meanwhile_is_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle_s: float, calls: int
) -> None:
    monkeypatch.setattr("tesp_api.runner.ftp.IDLE_S", idle_s)
    with socket.create_server((HOST, 0)) as data:
        answers = {"EPSV": f"229 (|||{data.getsockname()[1]}|)", "RETR": "550", "NOOP": "421 bye"}
        with Scripted(answers) as server, closing(way()) as ftp:
            where = Place(f"ftp://{HOST}:{server.port}/x", "x", {}, "u", "p")
            for _ in range(2):
                with pytest.raises(Refused, match="FTP 550"):
                    fetched(ftp, where, tmp_path / "sink")
    assert server.heard.count("USER u") == calls


def test_nobody_there_may_pass(tmp_path: Path) -> None:
    with closing(way()) as ftp, pytest.raises(Transient, match="refused"):
        fetched(ftp, Place("ftp://127.0.0.1:1/x", "x", {}), tmp_path / "sink")


@pytest.mark.parametrize(
    ("url", "home", "path"),
    [
        ("ftp://h/a/b", "/home/u", "/home/u/a/b"),
        ("ftp://h/a/b", "", "a/b"),
        ("ftp://h/a/b", "/", "/a/b"),
        ("ftp://h/%2Fa/b", "/home/u", "/a/b"),
        ("ftp://h//a/b", "/home/u", "/a/b"),
        ("ftp://h/a%20b%3F;type=i", "/", "/a b?"),
        ("ftp://h/a?b#c", "/", "/a?b#c"),
        ("ftp://h/%C5%BE", "/", "/ž"),
        ("ftp://h", "/home/u", "/home/u"),
        ("ftp://h/", "", "/"),
    ],
)
def test_a_path_begins_where_the_user_does(url: str, home: str, path: str) -> None:
    assert path_of(url, home) == path


@pytest.mark.parametrize(
    "url", ["ftp://h/a%0d%0aDELE%20b", "ftp://h/a%00b", "ftp://h/../b", "ftp://h/a/%2e%2e/b",
            "ftp://h/a%2F..%2Fb"]
)  # fmt: skip
def test_a_path_that_would_be_more_than_a_path_is_refused(url: str) -> None:
    with pytest.raises(Trouble):
        path_of(url, "/")


def test_a_password_that_would_be_a_command_is_refused(tmp_path: Path) -> None:
    with Scripted({"USER": "331 now"}) as server, closing(way()) as ftp:
        where = Place(f"ftp://{HOST}:{server.port}/x", "x", {}, "u", "p\r\nDELE x")
        with pytest.raises(Refused, match="line end"):
            fetched(ftp, where, tmp_path / "sink")
    assert server.heard == ["USER u"]


def test_a_login_is_the_orders_the_urls_or_anybodys() -> None:
    assert login_of("ftp://h/x", "u", "p") == Login(False, "h", 21, "u", "p")
    assert login_of("ftps://a%40b:c%3Ad@h:990/x", None, None) == Login(True, "h", 990, "a@b", "c:d")
    assert login_of("ftp://a@[::1]:2121/x", "u", "p") == Login(False, "::1", 2121, "u", "p")
    assert login_of("FTP://H", None, None)[:4] == (False, "h", 21, "anonymous")
    for url in ("ftp://", "ftp:///x", "ftp://h:x/y", "ftp://[/x"):
        with pytest.raises(Trouble):
            login_of(url, None, None)


LISTS = (
    ("-rw-r--r--   1 ftp  ftp   12 Jan  1 2020 a  b", ("a  b", "FILE", 12)),
    ("-rw-r--r--+  1 dom\\a user  domain users  12 Jan 11 10:20  lead", (" lead", "FILE", 12)),
    ("drwxr-sr-x   9 1000 100   4096 Dec 31 23:59 d 1 Jan 1 2020 x",
     ("d 1 Jan 1 2020 x", "DIRECTORY", None)),
    ("lrwxrwxrwx   1 0 0 7 Feb 02 2021 l -> a b", ("l", "LINK", None)),
    ("-rw-rw-rw- 1 ftp ftp               0 2021-03-04 05:06 iso", ("iso", "FILE", 0)),
    ("02-03-24  11:12AM       <DIR>          Some Dir", ("Some Dir", "DIRECTORY", None)),
    ("02-03-2024  11:12            1234 f.txt", ("f.txt", "FILE", 1234)),
)  # fmt: skip


@pytest.mark.parametrize(("line", "found"), LISTS)
def test_lists_for_people_are_read(line: str, found: tuple[str, str, int | None]) -> None:
    assert human_listed(["total 4", line]) == [found]


def test_other_lists_are_not_guessed_at() -> None:
    assert human_listed(["+i8388621.48594,m825718503,r,s280,\tdjb.html"]) is None
    assert [one.name for one in bare_listed(["/d/a", "b c"], "/d")] == ["a", "b c"]
    lines = [
        "type=cdir; .",
        "Type=file;Size=3;Modify=2020; a ; b",
        "type=OS.unix=slink:/x; l",
        " x",
    ]
    assert [one[:3] for one in machine_listed(lines)] == [
        ("a ; b", "FILE", 3), ("l", "LINK", None), ("x", "LINK", None),
    ]  # fmt: skip


def test_a_listed_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    for name in ("../x", "/etc/passwd", "a/b"):
        with socket.create_server((HOST, 0)) as listener:
            port = listener.getsockname()[1]
            answers = {"EPSV": f"229 (|||{port}|)", "MLSD": "150 now\r\n226 done"}
            sender = threading.Thread(target=_tell, args=(listener, f"type=file; {name}\r\n"))
            sender.start()
            with Scripted(answers) as server, closing(way()) as ftp:
                where = Place(f"ftp://{HOST}:{server.port}/d", "d", {}, "u", "p")
                with pytest.raises(Trouble, match="no name"):
                    ftp.entries(where)
            sender.join()


def _tell(listener: socket.socket, text: str) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(text.encode())


def test_many_files_take_one_conversation(plain: servers.Ftp, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 100)
    with closing(way()) as ftp, (tmp_path / "source").open("rb") as file:
        for number in range(300):
            where = place(plain, f"d/{number}")
            ftp.put(where, Departure(file.fileno(), "source", 100))
            assert len(fetched(ftp, where, tmp_path / "sink")[0]) == 100
    assert said(plain).count("USER") - said(plain).count("USER '") <= 1
    assert len(list((plain.files / "d").iterdir())) == 300


# --- the whole way ---


def item(server: servers.Ftp, path: str, url: str, **more: Any) -> dict[str, Any]:
    login = {"username": server.username, "password": server.password}
    return {"path": path, "url": server.url(url), "type": "FILE", **login, **more}


def ca(server: servers.Ftp) -> dict[str, str]:
    return {"ca": server.ca.read_text()} if server.ca else {}


def test_a_task_takes_and_gives_files_directories_and_wildcards(
    server: servers.Ftp, host: Engine, node: Node
) -> None:
    for name in NAMES:
        (server.files / "in" / "sub").mkdir(parents=True, exist_ok=True)
        (server.files / "in" / "sub" / name).write_bytes(BIG[:100_000] + name.encode())
    (server.files / "in" / "empty").mkdir()
    inputs = [
        item(server, "/in/dir", "in", type="DIRECTORY"),
        item(server, "/in/one", "in/sub/plain"),
    ]
    outputs = [
        item(server, "/out/dir", "made/dir/", type="DIRECTORY"),
        item(server, "/out/one", "made/one"),
        item(server, "/out/dir/*/[!a-z]*", "made/wild", path_prefix="/out/dir"),
    ]
    script = "cp -r /in/dir/. /out/dir; cp /in/one /out/one; ls -A /in/dir"
    done = node.run(host, sh(script), inputs=inputs, outputs=outputs, **ca(server)).complete()
    assert done.stdout() == "empty\nsub\n"
    top = server.files / "made"
    assert (top / "dir" / "empty").is_dir()
    assert (top / "one").read_bytes() == (server.files / "in" / "sub" / "plain").read_bytes()
    for name in NAMES:
        sent_back = (top / "dir" / "sub" / name).read_bytes()
        assert sha(sent_back) == sha(BIG[:100_000] + name.encode())
    wild = {name for name in NAMES if not name[0].isascii() or name[0] in " -["}
    assert wild <= set(os.listdir(top / "wild" / "sub"))
    assert len(done.outputs) == len(NAMES) + 1 + len(os.listdir(top / "wild" / "sub"))
    assert {type(one["size_bytes"]) for one in done.outputs} == {int}
    assert server.password not in str(done.document) + done.stderr
    for path in done.directory.rglob("*"):
        assert path.is_dir() or path.name == "order.json" or (
            server.password.encode() not in path.read_bytes()
        )  # fmt: skip


@pytest.mark.parametrize("direction", ["in", "out"])
def test_a_task_outlives_cut_connections(
    tmp_path: Path, host: Engine, node: Node, direction: str
) -> None:
    with servers.ftp(tmp_path, cut_after=1_000_000, cut_times=2) as server:
        (server.files / "x").write_bytes(BIG)
        inputs = [item(server, "/in/x", "x")] if direction == "in" else []
        outputs = [item(server, "/out/y", "y")] if direction == "out" else []
        make = "sha256sum < /in/x" if inputs else "seq 500000 > /out/y; sha256sum < /out/y"
        done = node.run(host, sh(make), inputs=inputs, outputs=outputs).complete()
        content = BIG if inputs else (server.files / "y").read_bytes()
        assert done.stdout() == f"{sha(content)}  -\n"


def test_a_task_whose_transfer_fails_says_where_how_often_and_why(
    tmp_path: Path, host: Engine, node: Node
) -> None:
    with servers.ftp(tmp_path, busy_times=3) as server:
        (server.files / "x").write_text("1")
        wrong = item(server, "/in/x", "x", password="canary-of-the-test")
        cases = [
            (item(server, "/in/x", "x"), ["FTP 450 Busy", "3 attempts"]),
            (item(server, "/in/x", "none"), ["FTP 550", "/none", "attempt 1"]),
            (wrong, ["FTP 530", "attempt 1"]),
        ]
        for one, words in cases:
            done = node.run(host, ["true"], inputs=[one])
            assert done.outcome == "system_error"
            assert all(word in done.reason for word in words), done.reason
            assert "canary" not in str(done.document)


@pytest.mark.slow
def test_ten_thousand_files_go_and_come(plain: servers.Ftp, host: Engine, node: Node) -> None:
    script = "i=0; while [ $i -lt 10000 ]; do echo $i > /out/d/$i; i=$((i+1)); done"
    output = item(plain, "/out/d", "many", type="DIRECTORY")
    node.run(host, sh(script), outputs=[output]).complete()
    assert len(os.listdir(plain.files / "many")) == 10_000
    count = sh("ls /in/d | wc -l; cat /in/d/* | sort -n | tail -1")
    given = item(plain, "/in/d", "many", type="DIRECTORY")
    assert node.run(host, count, inputs=[given]).complete().stdout() == "10000\n9999\n"
    assert said(plain).count("USER 'tester' logged in") <= 8
