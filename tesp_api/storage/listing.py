"""A bucket's keys below a prefix as a tree of files, where they can be one. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tesp_api.domain.errors import OutOfReach

IMPOSSIBLE: Final = frozenset({"", ".", ".."})


@dataclass(frozen=True, slots=True)
class Found:
    """One object of a bucket."""

    key: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Files by their names below the prefix, and the directories that objects stand for."""

    files: Sequence[tuple[str, Found]]
    directories: Sequence[str]


def tree(where: str, prefix: str, found: Iterable[Found]) -> Tree:
    """Return what is below `prefix`; an object `a/b/` stands for a directory.

    Raises OutOfReach for nothing at all, and for what no file system can hold.
    """
    below = [(each.key.removeprefix(prefix), each) for each in found]
    if not below:
        raise OutOfReach(f"{where}: there are no objects below it.")
    for name, each in below:
        if (why := _refusal(name, each)) is not None:
            raise OutOfReach(f"{where}: the object {each.key!r} {why}.")
    files = [(name, each) for name, each in below if name and not name.endswith("/")]
    directories = [name[:-1] for name, _ in below if name.endswith("/")]
    _refuse_both(where, files, directories)
    return Tree(files=files, directories=directories)


def name_refusal(name: str) -> str | None:
    """Return why `name` can be no relative path, as a sentence, or None."""
    if not IMPOSSIBLE.isdisjoint(name.split("/")):
        return "has an empty part, '.' or '..' in its name"
    if "\0" in name:
        return "has a NUL character in its name"
    return None


def _refusal(name: str, each: Found) -> str | None:
    """The prefix's own marker has no name left."""
    if name.endswith("/") and each.size_bytes:
        return "has a directory's name, and is not empty"
    return name_refusal(name.removesuffix("/")) if name else None


def _refuse_both(
    where: str, files: Sequence[tuple[str, Found]], directories: Iterable[str]
) -> None:
    names = {name for name, _ in files}
    above = {parent for name in names for parent in _parents(name)}
    above |= {parent for name in directories for parent in (name, *_parents(name))}
    if both := sorted(names & above):
        raise OutOfReach(f"{where}: {both[0]!r} is an object, and others are below it.")


def _parents(name: str) -> Iterator[str]:
    while slash := name.rpartition("/")[0]:
        yield slash
        name = slash
