"""Buckets that are not granted: taken at creation, and the task ends saying so."""

import pytest

from tesp_api.domain.errors import OutOfReach
from tesp_api.domain.tes import Input, Output, State
from tesp_api.storage import FileScheme, HttpScheme, S3Scheme, UrlStorage
from tests.unit.fakes import world

WELL_FORMED = ["s3://my-object-store/file-1", "gs://bucket/a/b", "s3://bucket/a b?c#d%"]


@pytest.fixture
def storage() -> UrlStorage:
    return UrlStorage(HttpScheme(), FileScheme(), S3Scheme())


@pytest.mark.parametrize("url", WELL_FORMED)
async def test_they_are_not_refused_but_no_order_is_made_of_them(
    storage: UrlStorage, url: str
) -> None:
    source, target = Input(path="/in", url=url), Output(path="/out", url=url)
    assert storage.refusal(source, None) is None
    assert storage.refusal(target, None) is None
    for order in (storage.fetch_order(source, None), storage.send_order(target, None)):
        with pytest.raises(OutOfReach, match=r"no storage\.s3 of this server serves it"):
            await order


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3:///file", "names no bucket"),
        ("gs:bucket/file", "names no bucket"),
        ("s3://", "names no bucket"),
        ("s3://key:secret@bucket/x", "names no bucket"),
        ("s3://bucket:1/x", "names no bucket"),
        ("s3://../x", "names no bucket"),
        ("s3://bucket", "names no object"),
        ("s3://bucket/", "names no object"),
        ("s3://bucket/dir/", "names no object"),
        ("s3://bucket/a/../b", "'..' in an object's name"),
        ("s3://bucket/./b", "'..' in an object's name"),
        ("s3://bucket/" + "ü" * 513, "more than 1024 bytes"),
    ],
)
def test_what_no_bucket_can_hold_is_refused(storage: UrlStorage, url: str, why: str) -> None:
    refusal = storage.refusal(Input(path="/in", url=url), None)
    assert refusal is not None
    assert why in refusal


def test_a_pattern_goes_to_a_directory(storage: UrlStorage) -> None:
    output = Output(path="/out/*", path_prefix="/out", url="s3://bucket/dir/")
    assert storage.refusal(output, None) is None


async def test_content_beside_such_a_url_is_served(storage: UrlStorage) -> None:
    item = Input(path="/in", url="s3://bucket/key", content="text")
    assert (await storage.fetch_order(item, None))["content"] == "text"


def test_they_are_not_named_among_what_is_served(storage: UrlStorage) -> None:
    assert storage.served() == ["http://", "https://"]
    refusal = storage.refusal(Input(path="/in", url="gopher://host/"), None)
    assert refusal == "the scheme 'gopher' is not served here; served are: http, https"


async def test_a_task_with_such_a_url_ends_with_the_sentence_and_never_reaches_pulsar(
    storage: UrlStorage,
) -> None:
    async with world() as w:
        w.begin(storage=storage)
        task_id = await w.post(inputs=[{"path": "/in", "url": "s3://bucket/key"}])

        ended = await w.until_state(task_id, State.SYSTEM_ERROR)

        assert any("no storage.s3" in line for line in ended.attempts[-1].system_logs)
        await w.until_tidy(task_id)
        assert not w.pulsar.jobs
