"""Inputs and outputs by HTTP."""

from __future__ import annotations

import os
import posixpath
import re
from typing import TYPE_CHECKING

from tesp_api.runner.checksums import checksums
from tesp_api.runner.gunzip import Gunzip
from tesp_api.runner.http import Answer, Body, Client, Request, origin
from tesp_api.runner.index_page import Page, links, reader
from tesp_api.runner.streams import CHUNK
from tesp_api.runner.transfer import (
    Arrival,
    Departure,
    Entry,
    Place,
    Refused,
    Terms,
    Transient,
    Way,
    below_url,
)
from tesp_api.runner.trouble import readable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OK, NON_AUTHORITATIVE, PARTIAL = 200, 203, 206

CONFLICT, NOT_SATISFIABLE = 409, 416

NO_PUT = frozenset({404, 405, 501})  # how servers say that they take this upload by POST only

IS_THERE = 405  # what MKCOL is answered where a collection is

PAGES = frozenset({"html", "htm", "xhtml", "shtml", "php", "asp", "aspx", "jsp", "cgi"})

INDEX_BYTES = 32 << 20


class Web(Way):
    """By HTTP: connections are kept, a broken body is continued where the server lets us."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        self._client = Client(terms)

    def get(self, place: Place, arrival: Arrival) -> None:
        """Get the file: all of it, or what is missing of the same version."""
        more = {}
        if arrival.received and arrival.version:
            more = {"Range": f"bytes={arrival.received}-", "If-Range": arrival.version}
        try:
            answer = self._client.ask(Request("GET", place.url, place.headers, more))
        except Refused as refusal:
            if refusal.status != NOT_SATISFIABLE or not more:
                raise
            arrival.restart()
            raise Transient(str(refusal)) from refusal
        try:
            _begin(answer, place, arrival, resumed=bool(more))
            _receive(answer, place, arrival)
        except BaseException:
            answer.drop()
            raise
        self._client.finish(answer)

    def put(self, place: Place, departure: Departure) -> str | None:
        """Send by PUT, or as the form field `file` by POST where the server takes no PUT."""
        body = Body(departure.size, departure.chunks)
        request = Request("PUT", place.url, place.headers, body=body)
        try:
            try:
                answer = self._client.ask(request)
            except Refused as refusal:
                if refusal.status != CONFLICT or not self._make_collections(place):
                    raise
                answer = self._client.ask(request)
        except Refused as refusal:
            if refusal.status not in NO_PUT or place.signed:
                raise
            answer = self._post(place, departure, refusal)
        self._client.finish(answer)
        return answer.header("ETag") or None

    def _post(self, place: Place, departure: Departure, refusal: Refused) -> Answer:
        boundary = os.urandom(16).hex()
        head, tail = _form(departure.name, boundary)

        def chunks() -> Iterator[bytes]:
            yield head
            yield from departure.chunks()
            yield tail

        more = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        body = Body(len(head) + departure.size + len(tail), chunks)
        try:
            return self._client.ask(Request("POST", place.url, place.headers, more, body))
        except Refused as error:
            raise Refused(refusal.status, f"{refusal} to PUT, {error} to POST") from error

    def _make_collections(self, place: Place) -> bool:
        """Make the WebDAV collections above `place`; False where there is no such thing."""
        above: list[str] = []
        url = place.url
        while True:
            url = _parent(url)
            if not url:
                return False
            above.append(url)
            status = self._make_collection(url, place)
            if status != CONFLICT:
                break
        return status in {0, IS_THERE} and not any(
            self._make_collection(one, place) for one in above[-2::-1]
        )

    def _make_collection(self, url: str, place: Place) -> int:
        """Return 0, or the status of a refusal."""
        try:
            self._client.finish(self._client.ask(Request("MKCOL", url, place.headers)))
        except Refused as refusal:
            return refusal.status or CONFLICT
        return 0

    def entries(self, place: Place) -> Iterable[Entry]:
        """Return what the index page of a directory links to."""
        url = place.url if _path(place.url).endswith("/") else below_url(place.url, "")
        answer = self._client.ask(Request("GET", url, place.headers))
        try:
            page = _page(answer)
        except BaseException:
            answer.drop()
            raise
        self._client.finish(answer)
        base = answer.url[: len(re.split(r"[?#]", answer.url)[0])]
        base = base[: base.rindex("/") + 1]
        if origin(base) != origin(place.url):
            place = place._replace(headers={}, url=base)
        for link in links(page, base):
            there = place.below(link.name)._replace(url=_with_user(link.url, place.url))
            yield Entry(link.name, "DIRECTORY" if link.is_directory else "FILE", there)

    def make_directory(self, place: Place) -> bool:
        """Make nothing: the web has files only."""
        return False

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _begin(answer: Answer, place: Place, arrival: Arrival, *, resumed: bool) -> None:
    """See what an answer is before its body: a file, its rest, or something else."""
    status = answer.response.status
    if status == PARTIAL and resumed:
        said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.header("Content-Range").strip())
        fits = said and int(said[1]) == arrival.received
        if not fits or (
            said and arrival.size is not None and said[2] not in {str(arrival.size), "*"}
        ):
            arrival.restart()
            raise Transient("HTTP 206 with another part than was asked for")
    elif status in {OK, NON_AUTHORITATIVE}:
        _refuse_page(answer, place.url)
        arrival.restart(_version(answer), checksums(answer.header))
    else:
        raise Refused(status, f"HTTP {status}, which is no file")
    if answer.response.length is not None:
        arrival.expect(arrival.received + answer.response.length)


def _refuse_page(answer: Answer, asked: str) -> None:
    """Raise Refused for a web page that stands where a file should."""
    kind = answer.header("Content-Type").partition(";")[0].strip().lower()
    if kind not in {"text/html", "application/xhtml+xml"}:
        return
    extension = posixpath.splitext(_path(asked).rpartition("/")[2])[1][1:].lower()
    if extension not in PAGES and (extension or answer.redirected):
        raise Refused(answer.response.status, "the server answered a web page instead of the file")


def _version(answer: Answer) -> str:
    """Return what If-Range takes, or nothing where the body cannot be continued."""
    etag = answer.header("ETag")
    if answer.header("Content-Encoding"):
        return ""
    return etag if etag.startswith('"') else answer.header("Last-Modified")


def _receive(answer: Answer, place: Place, arrival: Arrival) -> None:
    """Take the body, and see that it is all, and what was announced."""
    gunzip = _gunzip(answer, place)
    for data in _pieces(answer):
        for check in arrival.checks:
            check.update(data)
        for piece in gunzip.pieces(data) if gunzip else (data,):
            arrival.write(piece)
    left = answer.response.length
    if left:
        raise Transient(f"{left} bytes less were received than announced")
    if gunzip:
        gunzip.end()
    wrong = [said for said in (check.verdict() for check in arrival.checks) if said]
    if wrong:
        arrival.restart()
        raise Transient(wrong[0])


def _gunzip(answer: Answer, place: Place) -> Gunzip | None:
    """Return what undoes a compression that is none of the file's own.

    What was stored compressed in S3 stays as it is there, and so does what is named so.
    """
    coding = answer.header("Content-Encoding").strip().lower()
    if coding in {"", "identity"} or place.signed:
        return None
    if coding not in {"gzip", "x-gzip"}:
        raise Refused(answer.response.status, f"the answer is coded as {coding[:20]!r}")
    packed = re.search(r"\.(t?gz|gzip|svgz|z|bgz|bai|tbi)$", _path(place.url), re.IGNORECASE)
    return None if packed else Gunzip()


def _pieces(answer: Answer) -> Iterator[bytes]:
    """Yield the body as it comes; raises Transient if it breaks off, or does not end as it should.

    Up to the last byte but one, then what is there: more than one byte is more than announced.
    """
    from http.client import HTTPException

    response = answer.response
    while response.length != 0:
        limit = CHUNK if response.length is None else min(CHUNK, max(1, response.length - 1))
        try:
            if response.length == 1 and len(response.fp.peek(1)) > 1:
                raise Transient("more bytes were received than announced")
            data = response.read1(limit)
        except (OSError, HTTPException) as error:
            raise Transient(str(error) or type(error).__name__) from error
        if not data:
            return
        yield data


def _page(answer: Answer) -> Page:
    """Return the parsed page; raises Refused for anything that is none."""
    import codecs

    kind = answer.header("Content-Type")
    if "html" not in kind.lower():
        said = f"the answer is no index page of a directory, but {kind[:60] or 'of unknown type'}"
        raise Refused(answer.response.status, said)
    make, page, size = codecs.getincrementaldecoder("utf-8"), Page({}, []), 0
    decoder, parser = make("replace"), reader(page)
    for data in _pieces(answer):
        size += len(data)
        if size > INDEX_BYTES:
            raise Refused(answer.response.status, "the index page is too long")
        parser.feed(decoder.decode(data))
    if answer.response.length:
        raise Transient("the index page broke off")
    parser.close()
    return page


def _form(name: str, boundary: str) -> tuple[bytes, bytes]:
    name = readable(name)
    for mark, code in (('"', "%22"), ("\r", "%0D"), ("\n", "%0A")):
        name = name.replace(mark, code)
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return head.encode(), f"\r\n--{boundary}--\r\n".encode()


def _path(url: str) -> str:
    from urllib.parse import unquote, urlsplit

    return unquote(urlsplit(url).path)


def _parent(url: str) -> str:
    """Return the URL of the directory above, or nothing above the topmost."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    above = parts.path.rstrip("/").rpartition("/")[0]
    return parts._replace(path=f"{above}/").geturl() if above else ""


def _with_user(url: str, owner: str) -> str:
    """Return `url` with user and password of the URL `owner`, of the same origin."""
    from urllib.parse import urlsplit

    user = urlsplit(owner).netloc.rpartition("@")[0]
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}@{host}" if user else host).geturl()
