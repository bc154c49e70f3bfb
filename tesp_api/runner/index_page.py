"""Index pages: the directories of a web server, as nginx, Apache, lighttpd or Python show them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.transfer import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable
    from html.parser import HTMLParser

INDEX_TITLE = re.compile(r"index of|directory listing|listing of|directory:", re.IGNORECASE)


TITLES = frozenset({"title", "h1", "h2"})

LONGEST_TITLE = 50  # pieces of text


class Link(NamedTuple):
    """A link of the page to what stands in its directory."""

    name: str
    is_directory: bool
    url: str


class Page(NamedTuple):
    """What a page has: links as they are written there, and its title."""

    hrefs: dict[str, None]
    title: list[str]


def reader(page: Page) -> HTMLParser:
    """Return what reads a page, fed in pieces."""
    from html.parser import HTMLParser

    class Reader(HTMLParser):
        """Gathers links, and what is written large."""

        titled = False

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.titled = tag in TITLES
            if tag == "a":
                page.hrefs.update(
                    (value, None) for name, value in attrs if name == "href" and value
                )

        def handle_data(self, data: str) -> None:
            if self.titled and len(page.title) < LONGEST_TITLE:
                page.title.append(data)

        def handle_endtag(self, tag: str) -> None:
            self.titled = self.titled and tag not in TITLES

    return Reader(convert_charrefs=True)


def links(page: Page, base: str) -> Iterable[Link]:
    """Return the links to what stands in the directory `base`, whose URL ends with a slash.

    Not those to a parent, another host, or with a query (to sort a table). Raises Refused for a
    page that is no index, and for names that are none.
    """
    found = {link.name: link for href in page.hrefs for link in _within(href, base)}
    if not found and not INDEX_TITLE.search("".join(page.title)):
        raise Refused(200, "the answer is a web page, but no index of a directory")
    return found.values()


def _within(href: str, base: str) -> list[Link]:
    from urllib.parse import unquote, urljoin, urlsplit

    try:
        url = urljoin(base, href.strip()).partition("#")[0]
        here, there = urlsplit(base), urlsplit(url)
    except ValueError:
        return []
    same = (here.scheme, here.netloc.rpartition("@")[2].lower()) == (
        there.scheme,
        there.netloc.rpartition("@")[2].lower(),
    )
    if not same or "?" in url:
        return []
    top, path = (unquote(part.path, errors="surrogateescape") for part in (here, there))
    if not path.startswith(top) or path == top:
        return []
    name = path[len(top) :]
    step = name[:-1] if name.endswith("/") else name
    if there.path.rstrip("/").count("/") > here.path.count("/"):
        return []  # a link to what stands deeper, which its own index shows
    if step in {"", ".", ".."} or "/" in step or "\0" in step:
        raise Refused(200, f"the index names {step[:100]!r}, which no file can be named")
    return [Link(step, name.endswith("/"), url)]
