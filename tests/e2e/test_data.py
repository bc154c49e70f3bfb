"""Files in and out through the whole stack: what the other side really holds, by checksum."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pytest

from tests.e2e.data_sides import NAMES, Side, Site, sha
from tests.e2e.stack import Stack, shell

ODD: Final = "o n+%41#&?;.bin"
"""How the FILE is called at the other side."""
ONE: Final = random.Random(4).randbytes(3 << 20)
TREE: Final = {
    "a.txt": b"alpha\n",
    "b c.txt": b"a blank in the name\n",
    "empty": b"",
    "deep/er/\N{LATIN SMALL LETTER U WITH DIAERESIS}.bin": bytes(range(256)) * 300,
    "deep/50%41+#?&.txt": b"letters that URLs give a meaning to\n",
}
SCRIPT: Final = """
set -eu
cd /out/{name}
cp /in/{name}/one.bin one.bin
mkdir -p tree wild dirs/run1 dirs/run2/in dirs/other tree/hollow
cp -R /in/{name}/tree/. tree
cp tree/a.txt wild/x1.txt
cp "tree/b c.txt" wild/x2.txt
cp tree/a.txt wild/y.txt
cp tree/a.txt wild/.x3.txt
cp tree/a.txt dirs/run1/a
cp tree/empty dirs/run2/in/b
cp tree/a.txt dirs/other/c
"""
SENT: Final = {
    "one.bin": ONE,
    **{f"tree/{name}": content for name, content in TREE.items()},
    "wild/x1.txt": TREE["a.txt"],
    "wild/x2.txt": TREE["b c.txt"],
    "dirs/run1/a": TREE["a.txt"],
    "dirs/run2/in/b": b"",
}
"""What a task sends, by the names below its directory."""


def offer(side: Side, top: str) -> None:
    side.put(f"{top}/{ODD}", ONE)
    for name, content in TREE.items():
        side.put(f"{top}/tree/{name}", content)


def inputs(side: Side, name: str, slash: str = "") -> list[Mapping[str, Any]]:
    tree = {"url": side.url("in/tree") + slash, "path": f"/in/{name}/tree", "type": "DIRECTORY"}
    return [{"url": side.url(f"in/{ODD}"), "path": f"/in/{name}/one.bin"}, tree]


def outputs(side: Side, name: str, top: str = "out", slash: str = "") -> list[Mapping[str, Any]]:
    here = f"/out/{name}"
    wild = {"path": f"{here}/wild/[!yz]?.tx*", "path_prefix": f"{here}/wild"}
    directories = {"path": f"{here}/dirs/run*", "path_prefix": f"{here}/dirs", "type": "DIRECTORY"}
    return [
        {"path": f"{here}/one.bin", "url": side.url(f"{top}/{ODD}")},
        {"path": f"{here}/tree", "url": side.url(f"{top}/tree") + slash, "type": "DIRECTORY"},
        {**wild, "url": side.url(f"{top}/wild") + slash},
        {**directories, "url": side.url(f"{top}/dirs") + slash},
    ]


def remote(name: str) -> str:
    return ODD if name == "one.bin" else name


def logged(side: Side, name: str, top: str = "out") -> list[dict[str, str]]:
    """Return what `logs.outputs` has to say of it."""
    return [
        {
            "url": side.url(f"{top}/{remote(one)}"),
            "path": f"/out/{name}/{one}",
            "size_bytes": str(len(was)),
        }
        for one, was in SENT.items()
    ]


def there(side: Side, top: str = "out") -> dict[str, str]:
    return {name: sha(side.get(f"{top}/{name}")) for name in side.names(top)}


def by_path(found: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    return sorted(found, key=lambda one: one["path"])


WANTED: Final = {remote(name): sha(content) for name, content in SENT.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("slash", ["", "/"], ids=["plain", "slash"])
def test_files_directories_and_wildcards_come_and_go(
    data: Stack, site: Site, name: str, slash: str
) -> None:
    side = site.sides[name]
    offer(side, "in")
    top = f"out{len(slash)}"
    ended = data.api.run(
        shell(
            SCRIPT.format(name=name),
            inputs=inputs(side, name, slash),
            outputs=outputs(side, name, top, slash),
            volumes=[f"/out/{name}"],
        )
    )
    assert ended["state"] == "COMPLETE", ended["logs"]
    assert there(side, top) == WANTED
    assert by_path(ended["logs"][0]["outputs"]) == by_path(logged(side, name, top))
    data.wait_until_nothing_is_left(ended["id"])


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "state"), [("shared", "COMPLETE"), ("bound", "EXECUTOR_ERROR")])
def test_a_bound_directory_is_written_in_place_only_where_the_operator_says_so(
    data: Stack, site: Site, mode: str, state: str
) -> None:
    top = site.directory / mode / "place"
    top.mkdir()
    top.chmod(0o777)  # whoever the programs are on the node
    (top / "there").write_bytes(ONE)
    line = "cmp /in/there /in/there && echo new > /in/made && rm /in/there"
    item = {"url": top.as_uri(), "path": "/in", "type": "DIRECTORY"}
    ended = data.api.run(shell(line, inputs=[item]))
    assert ended["state"] == state, ended["logs"]
    left = {"made": b"new\n"} if mode == "shared" else {"there": ONE}
    assert {file.name: file.read_bytes() for file in top.iterdir()} == left
    data.wait_until_nothing_is_left(ended["id"])
    assert {file.name for file in top.iterdir()} == set(left), "the clean-up goes around it"


@pytest.mark.slow
@pytest.mark.parametrize("stack_of", ["data_docker", "data_amqp"])
def test_one_task_may_have_all_of_them(
    request: pytest.FixtureRequest, site: Site, stack_of: str
) -> None:
    stack: Stack = request.getfixturevalue(stack_of)
    sides = site.sides
    for side in sides.values():
        offer(side, "in")
    ended = stack.api.run(
        shell(
            "\n".join(f"({SCRIPT.format(name=name)})" for name in sides),
            inputs=[one for name, side in sides.items() for one in inputs(side, name)],
            outputs=[one for name, side in sides.items() for one in outputs(side, name, stack_of)],
            volumes=[f"/out/{name}" for name in sides],
        ),
        patience_s=180,
    )
    assert ended["state"] == "COMPLETE", ended["logs"]
    for name, side in sides.items():
        assert (name, there(side, stack_of)) == (name, WANTED)
    wanted = [one for name, side in sides.items() for one in logged(side, name, stack_of)]
    assert by_path(ended["logs"][0]["outputs"]) == by_path(wanted)
    stack.wait_until_nothing_is_left(ended["id"])
