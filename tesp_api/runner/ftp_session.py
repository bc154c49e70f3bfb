"""One conversation with an FTP server: commands, replies, and passive data connections.

RFC 959 and 2228 (TLS), 2428 (EPSV), 2640 (UTF-8 names), 3659 (SIZE, MDTM, REST, MLSD).
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.tls import tls_context
from tesp_api.runner.transfer import Refused, Transient
from tesp_api.runner.trouble import Trouble

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from socket import socket

    from tesp_api.runner.transfer import Terms

PASSING = frozenset({421, 425, 426, 450, 451})
UNKNOWN = frozenset({500, 501, 502, 503, 504, 522})  # a command or a form of it that is not known
IMPLICIT_PORT = 990  # where TLS begins before the first word
PIECE = 1 << 18
LAST_WORD_S = 2.0  # how long to wait for what a server says of data that broke
LINE_BYTES, REPLY_BYTES, SAID = 8192, 1 << 17, 200


class Login(NamedTuple):
    """Whom to speak with, and as whom."""

    secure: bool
    host: str
    port: int
    username: str
    password: str


class Reply(NamedTuple):
    """What a server says to a command."""

    code: int
    text: str

    def good(self) -> bool:
        """Tell whether what was asked for is done, or begun, or wants the next command."""
        return self.code < 400  # noqa: PLR2004


class Session:
    """A control connection that is logged in.

    Raises Transient and Refused; after either of a connection that broke it is `dead`.
    """

    def __init__(self, login: Login, terms: Terms) -> None:
        self.login = login
        self.dead = False
        self.used_at = time.monotonic()
        self.renames = True  # until the server shows that it does not
        self.directories: set[str] = set()  # known to be there
        self.timeout_s = terms.timeout_s
        self._ca = terms.ca
        self._received = b""
        self._extended = True
        self._socket = self._connected(login.port)
        try:
            self._begin()
            self.home = self._home()
        except BaseException:
            self._socket.close()
            raise

    def _connected(self, port: int) -> socket:
        import socket

        try:
            made = socket.create_connection((self.login.host, port), self.timeout_s)
        except (OSError, UnicodeError) as error:
            raise Transient(str(error)) from error
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # While data flow for hours nothing is said here, and what is between would forget us.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def _begin(self) -> None:
        login, implicit = self.login, self.login.port == IMPLICIT_PORT
        if login.secure and implicit:
            self._socket = self._protected(self._socket)
        self._expect(self.reply())
        if login.secure and not implicit:
            self.must("AUTH TLS")
            self._received = b""  # nothing said in the clear counts from here on
            self._socket = self._protected(self._socket)
        if self.must(f"USER {login.username}").code == 331:  # noqa: PLR2004 - a password is wanted
            self.must(f"PASS {login.password}")
        if login.secure:
            self.must("PBSZ 0")
            self.must("PROT P")
        self.ask("OPTS UTF8 ON")
        self.must("TYPE I")

    def _home(self) -> str:
        """Return the directory that paths begin in, or nothing if its name is no such path."""
        said = re.search(r'"((?:[^"]|"")*)"', self.ask("PWD").text)
        home = said[1].replace('""', '"') if said else ""
        return home if home.startswith("/") else ""

    def _protected(self, bare: socket) -> socket:
        context, session = tls_context(self._ca), getattr(self._socket, "session", None)
        try:
            # Many servers take a data connection only from whom they know by his TLS session.
            return context.wrap_socket(bare, server_hostname=self.login.host, session=session)
        except (OSError, ValueError) as error:
            bare.close()
            raise self._broken(error) from error

    def ask(self, command: str) -> Reply:
        """Say `command` and return the reply, whatever it is."""
        self._say(command)
        return self.reply()

    def must(self, command: str) -> Reply:
        """Say `command` and return the reply; raises if it is no success."""
        return self._expect(self.ask(command))

    def _say(self, command: str) -> None:
        if re.search(r"[\r\n\0]", command):
            raise Refused(0, "an FTP command cannot carry a line end in a name")
        try:
            self._socket.settimeout(self.timeout_s)
            self._socket.sendall(command.encode("utf-8", "surrogateescape") + b"\r\n")
        except OSError as error:
            raise self._broken(error) from error
        except UnicodeEncodeError:
            raise Refused(0, "the name is not valid Unicode") from None

    def reply(self, at_most_s: float | None = None) -> Reply:
        """Return the next reply."""
        deadline, size = time.monotonic() + (at_most_s or self.timeout_s), 0
        first = line = self._line(deadline)
        while first[3:4] == "-" and not (line[:3] == first[:3] and line[3:4] == " "):
            line = self._line(deadline)
            size += len(line) + 2
            if size > REPLY_BYTES:
                raise self._broken("the reply does not end")
        if not re.match(r"[1-5][0-9][0-9]", line):
            raise self._broken("the reply is not FTP's")
        self.used_at = time.monotonic()
        code = int(line[:3])
        self.dead = self.dead or code == 421  # noqa: PLR2004 - with these words it hangs up
        return Reply(code, self._shown(line[4:]))

    def _line(self, deadline: float) -> str:
        while b"\n" not in self._received:
            if len(self._received) > LINE_BYTES:
                raise self._broken("the reply does not end")
            try:
                self._socket.settimeout(max(0.01, deadline - time.monotonic()))
                data = self._socket.recv(LINE_BYTES)
            except OSError as error:
                raise self._broken(error) from error
            if not data:
                raise self._broken("the server closed the connection")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        if len(line) > LINE_BYTES:
            raise self._broken("the reply does not end")
        return line.rstrip(b"\r").decode("utf-8", "surrogateescape")

    def _shown(self, text: str) -> str:
        """Return what a server said, without the password, should it say that."""
        password = self.login.password
        return text.replace(password, "***") if password and password in text else text

    def _broken(self, error: object) -> Exception:
        self.dead = True
        if type(error).__name__ == "SSLCertVerificationError":
            return Refused(0, str(error))
        return Transient(str(error) or type(error).__name__)

    def _expect(self, reply: Reply) -> Reply:
        if reply.good():
            return reply
        raise refusal(reply)

    def data(self, command: str, offset: int = 0) -> Data:
        """Begin `command`, which moves data, from byte `offset` on."""
        opened = self._passive()
        try:
            if offset:
                self.must(f"REST {offset}")
            begun = self.must(command)
            return Data(self, self._protected(opened) if self.login.secure else opened, begun)
        except BaseException:
            opened.close()
            raise

    def _passive(self) -> socket:
        """Open a data connection to the host that is spoken with, whatever it says of others."""
        if self._extended:
            reply = self.ask("EPSV")
            port = re.search(r"\((.)\1\1([0-9]{1,5})\1\)", reply.text)
            if reply.good() and port:
                return self._to(int(port[2]))
            if not reply.good() and reply.code not in UNKNOWN:
                self._expect(reply)
            self._extended = False
        numbers = re.search(r"(?:[0-9]{1,3},){4}([0-9]{1,3}),([0-9]{1,3})", self.must("PASV").text)
        if not numbers:
            raise self._broken("the server names no data connection")
        return self._to(int(numbers[1]) * 256 + int(numbers[2]))

    def _to(self, port: int) -> socket:
        import socket

        address = self._socket.getpeername()
        try:
            made = socket.create_connection((address[0], port), self.timeout_s)
        except (OSError, OverflowError) as error:
            raise self._broken(f"no data connection: {error}") from error
        return made

    def close(self) -> None:
        """Take leave, without waiting for an answer."""
        try:
            if not self.dead:
                self._say("QUIT")
        except (Transient, Refused):
            pass
        self.dead = True
        self._socket.close()


class Data:
    """A data connection under way; it must be ended by `finish`, or the session is dead."""

    def __init__(self, session: Session, connection: socket, begun: Reply) -> None:
        self.begun = begun
        self._session = session
        self._connection = connection

    def pieces(self) -> Iterator[bytes]:
        """Yield what comes, to its end."""
        while True:
            try:
                data = self._connection.recv(PIECE)
            except OSError as error:
                raise self._failure(error) from error
            if not data:
                return
            yield data

    def send(self, pieces: Iterable[bytes]) -> None:
        """Send everything."""
        for data in pieces:
            try:
                self._connection.sendall(data)
            except OSError as error:
                raise self._failure(error) from error

    def _failure(self, error: OSError) -> Exception:
        """Return why the data ended: what the server says of it is better than a reset."""
        try:
            reply = self._session.reply(min(LAST_WORD_S, self._session.timeout_s))
        except (Transient, Refused):
            return Transient(str(error) or type(error).__name__)
        return Transient(str(error)) if reply.good() else refusal(reply)

    def finish(self) -> Reply:
        """End the data and return the server's last word on them; raises if that is no success."""
        unwrap = getattr(self._connection, "unwrap", None)
        try:
            if unwrap:
                unwrap()
        except (OSError, ValueError):
            pass  # many servers close without the ceremony; the last word tells what counts
        self._connection.close()
        reply = self._session.reply()
        if not reply.good():
            raise refusal(reply)
        return reply

    def abandon(self) -> None:
        """Leave in the middle: the conversation cannot go on after that."""
        self._connection.close()
        self._session.dead = True


def refusal(reply: Reply) -> Exception:
    """Return what a reply that is no success is: an answer, or something that may pass."""
    text = re.sub(r"\s+", " ", re.sub(r"[^\x20-\x7e]", " ", reply.text)).strip()[:SAID]
    said = f"FTP {reply.code} {text}".strip()
    return Transient(said) if reply.code in PASSING else Refused(reply.code, said)


def login_of(url: str, username: str | None, password: str | None) -> Login:
    """Return whom a URL leads to; a user in it counts if none is given, else it is anonymous."""
    from urllib.parse import unquote, urlsplit

    kind, _, rest = url.partition("://")
    authority = rest.partition("/")[0]
    user, at, place = authority.rpartition("@")
    if username is None and at:
        username, password = (unquote(part) for part in (user.partition(":")[::2]))
    if username is None:
        username, password = "anonymous", "anonymous@"
    try:
        parts = urlsplit(f"ftp://{place}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host:
        raise Trouble("the URL is malformed")
    return Login(kind.lower() == "ftps", host, port or 21, username, password or "")
