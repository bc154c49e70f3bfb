"""What a client is shown: views, lists, the old dialect; service information."""

from tests.e2e.stack import Stack, shell


def finished(quick: Stack, name: str) -> str:
    task = shell(
        "echo shown; echo err >&2",
        name=name,
        tags={"batch": name},
        inputs=[{"path": "/in/secret", "content": "s3cret"}],
    )
    return str(quick.api.run(task)["id"])


def test_each_view_shows_what_the_standard_says(quick: Stack) -> None:
    task_id = finished(quick, "views")

    minimal, basic, full = (quick.api.get(task_id, view) for view in ("MINIMAL", "BASIC", "FULL"))

    assert minimal == {"id": task_id, "state": "COMPLETE"}
    assert "content" not in basic["inputs"][0]
    assert not {"stdout", "stderr"} & basic["logs"][0]["logs"][0].keys()
    assert "system_logs" not in basic["logs"][0]
    assert full["inputs"][0]["content"] == "s3cret"
    assert full["logs"][0]["logs"][0]["stdout"] == "shown\n"
    assert full["logs"][0]["logs"][0]["stderr"] == "err\n"


def test_a_list_shows_the_newest_first_page_by_page(quick: Stack) -> None:
    ids = [finished(quick, f"listed-{number}") for number in range(3)]

    first = quick.api.list(name_prefix="listed-", page_size="2")
    second = quick.api.list(
        name_prefix="listed-", page_size="2", page_token=first["next_page_token"]
    )

    assert [task["id"] for task in (*first["tasks"], *second["tasks"])] == ids[::-1]
    assert "next_page_token" not in second
    found = quick.api.list(tag_key="batch", tag_value="listed-1", view="BASIC")
    assert [task["id"] for task in found["tasks"]] == [ids[1]]
