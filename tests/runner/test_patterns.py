"""Wildcards against POSIX itself (the C library's fnmatch) and against what the server takes."""

import ctypes
import fnmatch
import os
import time
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tesp_api.domain.rules import is_pattern
from tesp_api.runner.patterns import base, below, fits, is_wild, literal, matches
from tesp_api.runner.transfer import below_url
from tesp_api.runner.tree import Tree

LIBC = ctypes.CDLL(None)
FNM_PATHNAME, FNM_PERIOD = 1, 4

ALPHABET = "ab.-]![^*?\\:é "
TEXT = st.text(ALPHABET, max_size=8)
NAME = st.text("ab.-]![^*?: ", min_size=1, max_size=6)
PIECES = st.sampled_from(
    ["*", "?", "[ab]", "[!a]", "[^a]", "[a-c]", "[]]", "[!]]", "[]-a]", "[a-]", "[-a]", "a", "b",
     ".", "[.]", "[[:alpha:]]", "[[:digit:]-]", "[![:punct:]]", "\\*", "\\[", "\\a", "[\\]]",
     "[a\\-c]", "[*?]", "[", "]", "!", "-"]
)  # fmt: skip
PATTERN = st.lists(PIECES, min_size=1, max_size=6).map("".join)


def posix(name: str, pattern: str) -> bool:
    flags = FNM_PATHNAME | FNM_PERIOD
    return bool(LIBC.fnmatch(os.fsencode(pattern), os.fsencode(name), flags) == 0)


@given(PATTERN, NAME)
@example("[]", "[]")
@example("[!]", "[!]")
@example("[b-a]", "b")
@example("[[:foo:]]", "f")
@example("*.", "..")
@example("\\.a*", ".a")
@example("[.]a", ".a")
@example("[[:alpha:]", "[[:alpha:]")
def test_a_pattern_matches_as_posix_says(pattern: str, name: str) -> None:
    assert fits(name, pattern) == posix(name, pattern)


SIMPLE = st.lists(st.sampled_from(["*", "?", "a", "b", "-", "[ab]", "[!a]", "[a-z]"])).map("".join)


@given(SIMPLE, st.text("abc-é", max_size=6))
def test_a_pattern_matches_as_pythons_fnmatch_says(pattern: str, name: str) -> None:
    assert fits(name, pattern) == fnmatch.fnmatchcase(name, pattern)


@given(st.text(ALPHABET + "/", max_size=12))
def test_what_the_server_takes_for_a_plain_path_is_none_here(path: str) -> None:
    if not is_pattern(path):
        assert not any(is_wild(name) for name in path.split("/"))


@given(st.text(st.characters(exclude_characters="/\\"), min_size=1, max_size=6))
def test_a_quoted_name_matches_itself_only(name: str) -> None:
    quoted = "".join(f"\\{char}" if char in "*?[\\" else char for char in name)
    assert fits(name, quoted)
    assert not fits(name + "x", quoted)
    assert literal(quoted) == name


def test_characters_are_not_bytes() -> None:
    assert fits("é", "?")
    assert fits("日本", "[日-本]?")
    assert fits(os.fsdecode(b"a\xff"), "a?")
    assert fits(os.fsdecode(b"\xff\xfe"), "*")


def test_many_stars_take_no_time() -> None:
    began = time.monotonic()
    assert not fits("a" * 250, "*a" * 100 + "b")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("pattern", "directory"),
    [
        ("/o/*.txt", "/o"),
        ("/o/a/b[1]/c", "/o/a"),
        ("/*", "/"),
        ("/a*/b", "/"),
        ("/a\\*/b*", "/a*"),
        ("/a/b/?", "/a/b"),
        ("/a/b/c", "/a/b"),
    ],
)
def test_the_directory_above_the_first_wildcard_is_the_base(pattern: str, directory: str) -> None:
    assert base(pattern) == directory


def tree(top: Path) -> Tree:
    (top / "o" / "sub" / "deep").mkdir(parents=True)
    for name in ("a.txt", "b.txt", ".hidden.txt", "a b.txt", "é.txt", "c.dat", "sub/d.txt",
                 "sub/deep/e.txt", "star*.txt"):  # fmt: skip
        (top / "o" / name).write_text("x")
    (top / "o" / os.fsdecode(b"\xff.txt")).write_text("x")
    (top / "o" / "link.txt").symlink_to("a.txt")
    (top / "o" / "inner").symlink_to("/o/sub")
    (top / "o" / "away").symlink_to("../../../../../../etc")
    (top / "o" / "nothing.txt").symlink_to("none")
    (top / "o" / "loop").symlink_to("loop")
    os.mkfifo(top / "o" / "fifo.txt")
    return Tree(str(top))


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("/o/[a-c].txt", ["/o/a.txt", "/o/b.txt"]),
        ("/o/.*.txt", ["/o/.hidden.txt"]),
        ("/o/*/?.txt", ["/o/inner/d.txt", "/o/sub/d.txt"]),
        ("/*/sub/d*", ["/o/sub/d.txt", "/o/sub/deep"]),
        ("/o/star\\*.txt", ["/o/star*.txt"]),
        ("/o/*/deep/*", ["/o/inner/deep/e.txt", "/o/sub/deep/e.txt"]),
        ("/o/a.txt/*", []),
        ("/none/*", []),
        ("/o/away/pass*", []),
        ("/o/*/nothing", []),
    ],
)
def test_matches_are_found_inside_the_tree_only(
    tmp_path: Path, pattern: str, found: list[str]
) -> None:
    assert [path for path, _ in matches(tree(tmp_path), pattern)] == found


def test_a_match_has_a_kind(tmp_path: Path) -> None:
    found = dict(matches(tree(tmp_path), "/o/*"))
    assert list(found) == sorted(found)
    assert "/o/.hidden.txt" not in found
    assert found["/o/" + os.fsdecode(b"\xff.txt")] == "FILE"
    assert (found["/o/sub"], found["/o/inner"], found["/o/link.txt"]) == (
        "DIRECTORY", "DIRECTORY", "FILE",
    )  # fmt: skip
    assert (found["/o/fifo.txt"], found["/o/loop"]) == ("other", "other")
    assert (found["/o/nothing.txt"], found["/o/away"]) == (None, None)


def test_a_file_that_was_only_expected_is_no_match(tmp_path: Path) -> None:
    made = Tree(str(tmp_path))
    made.expect("/o/expected.txt")
    assert matches(made, "/o/*") == []


@pytest.mark.parametrize(
    ("path", "prefix", "name"),
    [
        ("/o/x.txt", "/o", "x.txt"),
        ("/o/x.txt", "/o/", "x.txt"),
        ("/o/x.txt", "/o//", "x.txt"),
        ("/o/x.txt", "/o/.", "x.txt"),
        ("/o/x.txt", "//o/./", "x.txt"),
        ("/o/.hid", "/o/.", "hid"),
        ("/o/a1.txt", "/o/a", "1.txt"),
        ("/o/sub/x", "/o", "sub/x"),
        ("/o/x", "/", "o/x"),
        ("/o/x", "", "o/x"),
        ("/o/x", "/o/x", "x"),
        ("/o/a*/x", "/o/a\\*", "x"),
        ("/o/a*x", "/o/a\\", "a*x"),
        ("/o/x", "/else", "o/x"),
    ],
)
def test_the_prefix_is_cut_off_with_its_slash(path: str, prefix: str, name: str) -> None:
    assert below(path, prefix) == name


STEP = st.text("ab.é ?#%*", min_size=1, max_size=4).filter(lambda step: step not in {".", ".."})
STEPS = st.lists(STEP, min_size=1, max_size=5)
URLS = st.sampled_from(
    ["ftp://h/d", "s3://b/k", "http://h:1/a%20b?q=/", "file:///x", "/bare", "ftp://h"]
)


@given(STEPS, st.data(), URLS, st.integers(0, 3))
def test_url_and_rest_are_joined_by_exactly_one_slash(
    steps: list[str], data: st.DataObject, url: str, slashes: int
) -> None:
    path = "/" + "/".join(steps)
    prefix = path[: data.draw(st.integers(0, len(path) - 1))]
    assume(not prefix.endswith(("/.", "/..")))
    name = below(path, prefix)
    assert name
    assert not name.startswith("/")
    assert name == path[len(prefix) :].lstrip("/")
    head, mark, query = url.partition("?")
    joined = below_url(head + "/" * slashes + mark + query, name)
    assert joined.startswith(f"{head}/")
    rest = joined[len(head) + 1 :]
    assert rest
    assert not rest.startswith("/")
    assert joined == below_url(url, name)
