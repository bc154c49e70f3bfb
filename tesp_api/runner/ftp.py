"""Inputs and outputs by FTP and FTPS."""

from __future__ import annotations

import os
import posixpath
import re
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tesp_api.runner.ftp_listing import Listed, bare_listed, human_listed, machine_listed
from tesp_api.runner.ftp_session import UNKNOWN, Login, Session, login_of, refusal
from tesp_api.runner.transfer import Arrival, Departure, Entry, Place, Refused, Transient, Way
from tesp_api.runner.trouble import DataTrouble, Trouble

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tesp_api.runner.ftp_session import Data
    from tesp_api.runner.transfer import Terms

IDLE_S = 5.0  # after that a server may have hung up without our noticing
FAREWELL_S = 5.0
WORTH_RESUMING = 1 << 20
LISTING_BYTES = 32 << 20
NO_ROOM = 552  # the answer that no other name for the file betters


class Ftp(Way):
    """Keeps one conversation with each server and user, for all its files."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._sessions: dict[Login, Session] = {}
        self._beside = f".{terms.job}.{os.urandom(4).hex()}.part"
        self._parts: dict[str, Login] = {}  # what may lie beside, and where

    @contextmanager
    def _session(self, place: Place) -> Iterator[Session]:
        login = login_of(place.url, place.username, place.password)
        kept = self._sessions.pop(login, None)
        if kept and time.monotonic() - kept.used_at > IDLE_S and not _answers(kept):
            kept.close()
            kept = None
        session = kept or Session(login, self.terms)
        try:
            yield session
        finally:
            if session.dead:
                session.close()
            else:
                self._sessions[login] = session

    def get(self, place: Place, arrival: Arrival) -> None:
        """Get the file; goes on where the last attempt ended if it is still the same file."""
        with self._session(place) as session:
            path = path_of(place.url, session.home)
            size = _size(session, path)
            version = _version(session, path, size)
            if not version or version != arrival.version:
                arrival.restart()
                arrival.version = version
            size = self._receive(session, path, size, arrival)
            if size is not None and arrival.received != size:
                said = f"{arrival.received} of {size} bytes received"
                if arrival.received > size:
                    arrival.restart()
                raise Transient(said)

    def _receive(
        self, session: Session, path: str, size: int | None, arrival: Arrival
    ) -> int | None:
        """Receive what is missing; return how long the file is, if the server tells at all."""
        if size is not None:
            arrival.expect(size)
        try:
            data = session.data(f"RETR {path}", arrival.received)
        except Refused as error:
            if not arrival.received or error.status not in UNKNOWN:
                raise
            arrival.restart()  # there is no REST here
            data = session.data(f"RETR {path}")
        if size is None:
            told = re.search(r"\(([0-9]+) bytes\)", data.begun.text)
            size = int(told[1]) if told and not arrival.received else None
        with _moving(data):
            for piece in data.pieces():
                arrival.write(piece)
        return size

    def put(self, place: Place, departure: Departure) -> str | None:
        """Send the file beside its place and rename it, where the server does such things."""
        with self._session(place) as session:
            path = path_of(place.url, session.home)
            directory = posixpath.dirname(path)
            _make(session, directory)
            if not (session.renames and self._put_beside(session, path, departure)):
                _store(session, path, departure)
        return None

    def _put_beside(self, session: Session, path: str, departure: Departure) -> bool:
        """Return whether the file is in its place now; False where it must be sent straight."""
        beside = posixpath.join(posixpath.dirname(path), self._beside)
        if departure.size > WORTH_RESUMING and not _can_rename(session, beside):
            session.renames = False
            return False
        self._parts[beside] = session.login
        try:
            _store(session, beside, departure)
        except Refused as error:
            if error.status == NO_ROOM:
                raise
            return False
        session.renames = _rename(session, beside, path)
        if session.renames or session.ask(f"DELE {beside}").good():
            del self._parts[beside]
        return session.renames

    def entries(self, place: Place) -> list[Entry]:
        """Return what is in the directory, by MLSD or what the server has instead."""
        with self._session(place) as session:
            path = path_of(place.url, session.home)
            session.must(f"CWD {path}")
            return [
                _entry(session, one, path, place)
                for one in _listed(session, path)
                if one.name not in {".", ".."}
            ]

    def make_directory(self, place: Place) -> bool:
        """Make the directory, and those above it."""
        with self._session(place) as session:
            _make(session, path_of(place.url, session.home).rstrip("/"))
        return True

    def close(self) -> None:
        """Remove what broken uploads have left, if that is quickly done, and take leave."""
        while self._parts:
            beside, login = self._parts.popitem()
            with suppress(Transient, Refused, Trouble):
                if login not in self._sessions:
                    hurry = self.terms._replace(timeout_s=min(FAREWELL_S, self.terms.timeout_s))
                    self._sessions[login] = Session(login, hurry)
                self._sessions[login].ask(f"DELE {beside}")
        while self._sessions:
            self._sessions.popitem()[1].close()


def path_of(url: str, home: str) -> str:
    """Return the path that an FTP URL names: from `home` on, or from the root after `/%2F`."""
    from urllib.parse import unquote

    path = url.partition("://")[2].partition("/")[2]
    path = unquote(re.sub(r";type=[aid]$", "", path, flags=re.IGNORECASE), errors="surrogateescape")
    if ".." in path.split("/"):
        raise Trouble("an FTP URL must not have '..' in it")
    if re.search(r"[\r\n\0]", path):
        raise Trouble("an FTP URL must not have a line end in it")
    return posixpath.join(home, path) if path else home or "/"


@contextmanager
def _moving(data: Data) -> Iterator[None]:
    """Move data in this block; what breaks it breaks the conversation."""
    try:
        yield
    except BaseException:
        data.abandon()
        raise
    data.finish()


def _answers(session: Session) -> bool:
    try:
        return session.ask("NOOP").good() and not session.dead
    except (Transient, Refused):
        return False


def _size(session: Session, path: str) -> int | None:
    """Return how long the file is, or None if the server does not say: the next command will."""
    reply = session.ask(f"SIZE {path}")
    size = re.fullmatch(r"([0-9]{1,19})\s*", reply.text)
    return int(size[1]) if size and reply.good() else None


def _version(session: Session, path: str, size: int | None) -> str:
    """Return by what the file is known again, or nothing if it is not worth to be."""
    if size is None or size < WORTH_RESUMING:
        return ""
    reply = session.ask(f"MDTM {path}")
    return f"{size} {reply.text}" if reply.good() else ""


def _make(session: Session, path: str) -> None:
    """Make the directory `path` and those above it, unless they are there."""
    if path in session.directories or path in {"", "/", session.home}:
        return
    if not (_is_directory(session, path) or session.ask(f"MKD {path}").good()):
        _make(session, posixpath.dirname(path))
        made = session.ask(f"MKD {path}")
        if not made.good() and not _is_directory(session, path):
            raise refusal(made)
    session.directories.add(path)


def _is_directory(session: Session, path: str) -> bool:
    # Only with whole paths: the next one must not begin where this one leads.
    return path.startswith("/") and session.ask(f"CWD {path}").good()


def _store(session: Session, path: str, departure: Departure) -> None:
    """Upload straight to `path`; raises Transient if not all has arrived."""
    data = session.data(f"STOR {path}")
    with _moving(data):
        data.send(departure.chunks())
    size = _size(session, path)
    if size not in {None, departure.size}:
        raise Transient(f"{size} of {departure.size} bytes arrived")


def _rename(session: Session, path: str, new: str) -> bool:
    """Return whether `path` has become `new`, also where something is in the way there."""
    for clear in (False, True):
        if clear and not session.ask(f"DELE {new}").good():
            return False
        if not session.ask(f"RNFR {path}").good():
            return False
        if session.ask(f"RNTO {new}").good():
            return True
    return False


def _can_rename(session: Session, beside: str) -> bool:
    """Try it with a file of one byte (some take none of none), lest a large one is sent twice."""
    try:
        data = session.data(f"STOR {beside}")
    except Refused:
        return False
    with _moving(data):
        data.send([b"."])
    renamed = _rename(session, beside, f"{beside}2")
    session.ask(f"DELE {beside}2" if renamed else f"DELE {beside}")
    return renamed


def _listed(session: Session, path: str) -> list[Listed]:
    """Return what is in the directory that the session is in."""
    lines = _lines(session, "MLSD")
    if lines is not None:
        return machine_listed(lines)
    for command in ("LIST -a", "LIST"):
        lines = _lines(session, command)
        found = None if lines is None else human_listed(lines)
        if found is not None:
            return found
    lines = _lines(session, "NLST")
    if lines is None:
        raise Refused(0, "the server lists no directories")
    return bare_listed(lines, path)


def _lines(session: Session, command: str) -> list[str] | None:
    """Return the lines that `command` yields, or None if the server does not know it."""
    try:
        data = session.data(command)
    except Refused as error:
        if error.status not in UNKNOWN:
            raise
        return None
    text = bytearray()
    with _moving(data):
        for piece in data.pieces():
            text += piece
            if len(text) > LISTING_BYTES:
                raise DataTrouble("the directory has too many entries")
    lines = text.decode("utf-8", "surrogateescape").split("\n")
    return [line for line in (line.rstrip("\r") for line in lines) if line]


def _entry(session: Session, one: Listed, path: str, place: Place) -> Entry:
    if "/" in one.name or "\0" in one.name or not one.name:
        raise DataTrouble(f"the server lists {one.name!r}, which is no name in a directory")
    kind = one.kind
    if kind not in {"FILE", "DIRECTORY"}:
        inside = _is_directory(session, posixpath.join(path, one.name))
        kind = "DIRECTORY" if inside else "FILE"
    return Entry(one.name, kind, place.below(one.name), one.size_bytes)
