"""Keys of a bucket as a tree of files, or why they are none."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesp_api.domain.errors import OutOfReach
from tesp_api.storage.listing import Found, tree


def objects(*keys: str) -> list[Found]:
    return [Found(key, 0 if key.endswith("/") else 1) for key in keys]


def test_markers_are_directories_and_the_rest_files() -> None:
    found = tree("s3://b/d", "d/", objects("d/", "d/a", "d/e/", "d/f/g", "d/f/"))
    assert [name for name, _ in found.files] == ["a", "f/g"]
    assert found.directories == ["e", "f"]


def test_a_directory_that_is_only_its_own_marker_is_empty() -> None:
    found = tree("s3://b/d", "d/", objects("d/"))
    assert (found.files, found.directories) == ([], [])


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ((), "no objects below it"),
        (("d/../x",), "'..' in its name"),
        (("d/a/..",), "'..' in its name"),
        (("d/./x",), "'..' in its name"),
        (("d//x",), "an empty part"),
        (("d/a//",), "an empty part"),
        (("d//",), "an empty part"),
        (("d/a\0b",), "a NUL character"),
        (("d/a", "d/a/b"), "'a' is an object, and others are below it"),
        (("d/a/b", "d/a/b/c/d"), "'a/b' is an object"),
        (("d/a", "d/a/"), "'a' is an object"),
        (("d/a", "d/a/b/"), "'a' is an object"),
    ],
)
def test_what_no_file_system_can_hold_is_refused(keys: tuple[str, ...], why: str) -> None:
    with pytest.raises(OutOfReach) as caught:
        tree("s3://b/d", "d/", objects(*keys))
    assert str(caught.value).startswith("s3://b/d: ")
    assert why in str(caught.value)


def test_a_directory_with_a_content_is_refused() -> None:
    with pytest.raises(OutOfReach, match="directory's name, and is not empty"):
        tree("s3://b/d", "d/", [Found("d/x/", 3)])


NAMES = st.lists(st.text("ab./", max_size=8).map("d/".__add__), max_size=6, unique=True)


@given(NAMES)
def test_no_name_leads_out_or_is_both(keys: list[str]) -> None:
    try:
        found = tree("s3://b/d", "d/", objects(*keys))
    except OutOfReach:
        return
    files = {name for name, _ in found.files}
    for name in (*files, *found.directories):
        assert {"", ".", ".."}.isdisjoint(name.split("/"))
        parents = {name[:at] for at, letter in enumerate(name) if letter == "/"}
        assert not files & (parents - {name})
    assert not files & set(found.directories)


def test_botocore_is_not_loaded_for_a_server_without_buckets() -> None:
    code = (
        "import sys; from tesp_api import tesp_api, settings; "
        "tesp_api.build(settings.Settings()); sys.exit('botocore' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
