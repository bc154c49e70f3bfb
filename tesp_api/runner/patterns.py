"""The wildcards of POSIX in the paths of outputs: `* ? [..] [!..]`, one name at a time.

No wildcard matches a slash, or a dot at the start of a name; a backslash takes its meaning from
what follows it. Which paths are patterns says `domain/rules.is_pattern`.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple, Protocol, Union

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_CLASS = r"\[:[a-z]+:\]"
_ITEM = rf"(?:{_CLASS}|\\.|(?!{_CLASS})[^\]\\])"
BRACKET = re.compile(rf"\[([!^]|(?![!^]))((?:\]|{_ITEM}){_ITEM}*)\]", re.DOTALL)
ELEMENT = re.compile(r"\[:([a-z]+):\]|(\\.|[^\\])(?:-(\\.|[^\\]))?", re.DOTALL)
QUOTED = re.compile(r"\\([*?\[\\])")

CLASSES: dict[str, Callable[[str], bool]] = {
    "alnum": str.isalnum,
    "alpha": str.isalpha,
    "blank": lambda char: char in " \t",
    "cntrl": lambda char: char < " " or char == "\x7f",
    "digit": lambda char: char in "0123456789",
    "graph": lambda char: char.isprintable() and not char.isspace(),
    "lower": str.islower,
    "print": str.isprintable,
    "punct": lambda char: char.isprintable() and not char.isalnum() and not char.isspace(),
    "space": str.isspace,
    "upper": str.isupper,
    "xdigit": lambda char: char in "0123456789abcdefABCDEF",
}


class Files(Protocol):
    """Where matches are looked for: the task's tree."""

    def names(self, path: str) -> list[str]:
        """Return the names in the directory `path`; none if it is no directory."""

    def kind(self, path: str) -> str | None:
        """Return what `path` is, or None for nothing."""

    def is_link(self, path: str) -> bool:
        """Tell whether `path` itself is a link."""


class Bracket(NamedTuple):
    """One character of a set, or one that is not in it."""

    negated: bool
    ranges: tuple[tuple[str, str], ...]
    classes: tuple[str, ...]

    def takes(self, char: str) -> bool:
        """Tell whether `char` is one that is meant."""
        found = any(low <= char <= high for low, high in self.ranges) or any(
            name in CLASSES and CLASSES[name](char) for name in self.classes
        )
        return found != self.negated


STAR, ONE = None, True  # any characters; any character
Token = Union[None, bool, str, Bracket]  # noqa: UP007 - evaluated, also by Python 3.8


def tokens(name: str) -> Iterator[Token]:
    """Yield what the pattern `name` of one name is made of; a character means itself."""
    at = 0
    while at < len(name):
        bracket = BRACKET.match(name, at)
        if bracket:
            yield _bracket(bracket[1] != "", bracket[2])
            at = bracket.end()
        elif name[at] in "*?":
            yield STAR if name[at] == "*" else ONE
            at += 1
        else:
            quotes = name[at] == "\\" and at + 1 < len(name)
            yield name[at + quotes]
            at += 1 + quotes


def _bracket(negated: bool, body: str) -> Bracket:
    ranges, classes = [], []
    for name, low, high in ELEMENT.findall(body):
        if name:
            classes.append(name)
        else:
            ranges.append((low[-1], (high or low)[-1]))
    return Bracket(negated, tuple(ranges), tuple(classes))


def fits(name: str, pattern: str) -> bool:
    """Tell whether the pattern of one name matches all of `name`."""
    meant = list(tokens(pattern))
    if name.startswith(".") and meant[:1] != ["."]:
        return False
    return _fits(name, meant)


def _fits(name: str, meant: Sequence[Token]) -> bool:
    """Match from the left; only the last star met has ever to be tried anew."""
    at = token = 0
    star, tried = -1, 0
    while at < len(name):
        if token < len(meant) and meant[token] is STAR:
            star, tried, token = token, at, token + 1
        elif token < len(meant) and _takes(meant[token], name[at]):
            at, token = at + 1, token + 1
        elif star >= 0:
            tried += 1
            at, token = tried, star + 1
        else:
            return False
    return all(rest is STAR for rest in meant[token:])


def _takes(token: Token, char: str) -> bool:
    if isinstance(token, Bracket):
        return token.takes(char)
    return token is ONE or token == char


def is_wild(name: str) -> bool:
    """Tell whether the pattern of one name can match more than one name."""
    return any(not isinstance(token, str) for token in tokens(name))


def literal(path: str) -> str:
    r"""Return the path that one without wildcards means: `\*` is a star."""
    return QUOTED.sub(r"\1", path)


def base(pattern: str) -> str:
    """Return the directory that is certain: the one above the first name with a wildcard."""
    names = []
    for name in pattern.split("/")[1:-1]:
        if is_wild(name):
            break
        names.append("".join(str(token) for token in tokens(name)))
    return "/" + "/".join(names)


def matches(tree: Files, pattern: str) -> list[tuple[str, str | None]]:
    """Return what `pattern` matches, sorted, and the kind of each; None is a link to nothing."""
    found = [""]
    for step in pattern.split("/")[1:]:
        found = [
            f"{where}/{name}" for where in found for name in tree.names(where) if fits(name, step)
        ]
    kinds = ((path, tree.kind(path)) for path in sorted(found))
    return [(path, kind) for path, kind in kinds if kind or tree.is_link(path)]


def below(path: str, prefix: str) -> str:
    """Return what of the match `path` is joined to the URL: the rest after `prefix`.

    Without the slashes it begins with, for the URL and it are joined by exactly one. What is the
    prefix itself keeps its own name.
    """
    head, _, last = literal(prefix).rpartition("/")
    top = posixpath.normpath("/" + head.lstrip("/")).rstrip("/")
    for start in (f"{top}/{last}", posixpath.normpath(f"{top}/{last}"), top):
        if path.startswith(start):
            return path[len(start) :].lstrip("/") or posixpath.basename(path)
    return posixpath.basename(path)
