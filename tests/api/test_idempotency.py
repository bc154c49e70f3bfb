"""POST /tasks with an Idempotency-Key: what a client may safely repeat."""

import json

import pytest

from tests.api.conftest import Client, minimal_task

BODY = json.dumps(minimal_task()).encode()


async def post(tes: Client, key: str, body: bytes = BODY) -> tuple[int, str | None]:
    headers = {"Content-Type": "application/json", "Idempotency-Key": key}
    answer = await tes.post("/tasks", content=body, headers=headers)
    return answer.status_code, answer.json().get("id")


async def test_a_repeated_request_is_answered_with_the_same_task(tes: Client) -> None:
    first = await post(tes, "a key")
    assert first[0] == 200
    assert await post(tes, "a key") == first


async def test_another_body_under_the_same_key_is_a_conflict(tes: Client) -> None:
    await post(tes, "a key")
    assert (await post(tes, "a key", BODY + b" "))[0] == 409


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "tab\there"])
async def test_a_strange_key_is_refused(tes: Client, key: str) -> None:
    assert (await post(tes, key))[0] == 400
