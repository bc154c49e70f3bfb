"""Orders: paths in one spelling, and a form that the runner itself accepts."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesp_api.domain.plan import normal, reap_order, run_order, stage_out_order
from tesp_api.domain.task import JobId
from tesp_api.runner.order import read_order
from tests.unit.fakes import SITE, new_task

JOB = JobId("tes-a-0")
IMAGE = {"image": "ubuntu", "command": ["true"]}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a", "/a"),
        ("/a/", "/a"),
        ("//a", "/a"),
        ("///a//b/./c/", "/a/b/c"),
        ("/", "/"),
        ("/a b/ü", "/a b/ü"),
        ("/a/.b", "/a/.b"),
        ("/../a", "/a"),
    ],
)
def test_a_path_has_one_spelling(path: str, expected: str) -> None:
    assert normal(path) == expected


@given(st.text(alphabet="ab./ ", max_size=12))
def test_a_normal_path_is_absolute_inside_and_stays(path: str) -> None:
    once = normal(path)
    assert once.startswith("/")
    assert not once.startswith("//")
    assert ".." not in once.split("/")
    assert normal(once) == once


def order(**request: Any) -> Any:
    inputs = [{"path": "/in//x/", "type": "FILE", "content": "c"}]
    outputs = [{"path": "/out/./y", "type": "FILE", "url": "http://h/y"}]
    return run_order(new_task(**request), JOB, SITE, inputs, outputs)


def test_an_order_holds_what_was_asked_in_normal_paths() -> None:
    one = order(
        volumes=["/v/"],
        resources={"cpu_cores": 0, "ram_gb": 1.5},
        executors=[{**IMAGE, "workdir": "/w/", "stdin": "/i//n", "env": {"A": ""}}],
    )
    assert one["inputs"][0]["path"] == "/in/x"
    assert one["outputs"][0]["path"] == "/out/y"
    assert one["volumes"] == ["/v"]
    assert one["limits"] == {"cpu_cores": None, "ram_gb": 1.5, "disk_gb": None}
    assert one["executors"][0] == {
        "image": "ubuntu",
        "command": ["true"],
        "env": {"A": ""},
        "ignore_error": False,
        "workdir": "/w",
        "stdin": "/i/n",
        "stdout": None,
        "stderr": None,
    }


def test_the_runner_accepts_our_orders() -> None:
    read = read_order(order(executors=[IMAGE, {**IMAGE, "ignore_error": True}]))
    assert read.job == JOB
    assert len(read.executors) == 2
    two = replace(new_task(), request=new_task(executors=[IMAGE, IMAGE]).request)
    reap = read_order(reap_order(two, JobId("tes-a-1"), JOB, SITE))
    assert (reap.mode, reap.of) == ("reap", JOB)
    assert len(reap.executors) == 2
    files = [
        {"path": "/out/a", "size_bytes": 1, "name": "s3://b/a", "url": "http://s3/a?X"},
        {
            "path": "/out/b",
            "size_bytes": 9,
            "name": "s3://b/b",
            "parts": ["u", "v"],
            "part_bytes": 5,
        },
    ]
    send = read_order(stage_out_order(two, JobId("tes-a-2"), JOB, SITE, files))
    assert (send.mode, send.of, len(send.sendings)) == ("send", JOB, 2)
