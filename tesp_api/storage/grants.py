"""Whom the server's credentials and file roots serve, and for which URLs. Pure.

`{owner}` in a prefix stands for a name made of the owner: percent-encoded, so that nothing in it is
a slash. That name is the same in a directory, in a bucket and behind a web server (whose URLs spell
its `%` as `%25`, as those of any name).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar
from urllib.parse import quote

from tesp_api.storage.places import Place

OWNER: Final = "{owner}"
ANYBODY: Final = "*"
EVERYBODY: Final = frozenset({ANYBODY})

Thing = TypeVar("Thing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """URL prefixes, as the operator wrote them, and the owners whom they serve."""

    prefixes: Sequence[str]
    owners: frozenset[str] = EVERYBODY

    def serves(self, owner: str | None) -> bool:
        """Whether it is for this owner; None is whoever comes where nobody has to say who."""
        return ANYBODY in self.owners or (owner is not None and owner in self.owners)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule(Generic[Thing]):
    text: str
    prefix: Place
    grant: Grant
    thing: Thing


class Grants(Generic[Thing]):
    """What is granted to whom: things of the server (credentials, roots) by owner and place."""

    def __init__(
        self, granted: Iterable[tuple[Grant, Thing]], place_of: Callable[[str], Place]
    ) -> None:
        self._rules = [
            _Rule(text=text, prefix=place_of(text), grant=grant, thing=thing)
            for grant, thing in granted
            for text in grant.prefixes
        ]

    def find(self, place: Place | None, owner: str | None) -> tuple[Place, Thing] | None:
        """Return the longest prefix that holds the place, and its thing; of equals the first."""
        held = [found for found in self.all_of(owner) if place and found[0].holds(place)]
        return max(held, key=lambda found: _length(found[0]), default=None)

    def all_of(self, owner: str | None) -> Sequence[tuple[Place, Thing]]:
        """Return all that this owner may use."""
        rules = ((rule, _prefix(rule.prefix, owner)) for rule in self._rules)
        return [
            (prefix, rule.thing) for rule, prefix in rules if prefix and rule.grant.serves(owner)
        ]

    def public(self) -> Sequence[str]:
        """Return the prefixes that serve everybody, as the operator wrote them."""
        return [rule.text for rule in self._rules if ANYBODY in rule.grant.owners]


def _prefix(prefix: Place, owner: str | None) -> Place | None:
    """Return the prefix for this owner; a task without one has no name."""
    if not any(OWNER in name for name in prefix.names):
        return prefix
    if not owner:
        return None
    own = quote(owner, safe="", errors="surrogatepass")
    names = tuple(name.replace(OWNER, own) for name in prefix.names)
    return Place(prefix.scheme, prefix.authority, names)


def _length(prefix: Place) -> tuple[bool, int]:
    return bool(prefix.authority), len(prefix.names)
