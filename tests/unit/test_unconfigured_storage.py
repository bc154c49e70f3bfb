"""URLs of storage that this server has not: taken at creation, and the task ends saying so."""

import pytest

from tesp_api.domain.errors import OutOfReach
from tesp_api.domain.tes import Input, Output, State
from tesp_api.storage import FileScheme, HttpScheme, UnconfiguredScheme, UrlStorage
from tests.unit.fakes import world


@pytest.fixture
def storage() -> UrlStorage:
    return UrlStorage(HttpScheme(), FileScheme([]), UnconfiguredScheme("s3", "gs", "ftp", "ftps"))


WELL_FORMED = [
    "s3://my-object-store/file-1",
    "gs://bucket/a/b",
    "ftp://user:secret@host:2121/file",
    "ftps://host/file",
]


@pytest.mark.parametrize("url", WELL_FORMED)
def test_well_formed_urls_are_not_refused(storage: UrlStorage, url: str) -> None:
    assert storage.refusal(Input(path="/in", url=url)) is None
    assert storage.refusal(Output(path="/out", url=url)) is None


@pytest.mark.parametrize("url", ["s3:///file", "gs:bucket/file", "ftp:", "s3://"])
def test_urls_without_a_bucket_or_host_are_refused(storage: UrlStorage, url: str) -> None:
    refusal = storage.refusal(Input(path="/in", url=url))

    assert refusal == "the URL names no bucket or host"


@pytest.mark.parametrize("url", WELL_FORMED)
def test_no_order_is_made_of_them_but_a_sentence_without_credentials(
    storage: UrlStorage, url: str
) -> None:
    scheme = url.partition(":")[0]

    for order in (
        lambda: storage.fetch_order(Input(path="/in", url=url)),
        lambda: storage.send_order(Output(path="/out", url=url)),
    ):
        with pytest.raises(OutOfReach, match=f"no {scheme} storage configured") as caught:
            order()
        assert "secret" not in str(caught.value)


def test_content_beside_such_a_url_is_served(storage: UrlStorage) -> None:
    item = Input(path="/in", url="s3://bucket/key", content="text")

    assert storage.fetch_order(item)["content"] == "text"


def test_they_are_not_named_among_what_is_served(storage: UrlStorage) -> None:
    assert storage.served() == ["http://", "https://"]
    refusal = storage.refusal(Input(path="/in", url="gopher://host/"))
    assert refusal == "the scheme 'gopher' is not served here; served are: http, https"


async def test_a_task_with_such_a_url_ends_with_the_sentence_and_never_reaches_pulsar(
    storage: UrlStorage,
) -> None:
    async with world() as w:
        w.begin(storage=storage)
        task_id = await w.post(inputs=[{"path": "/in", "url": "s3://bucket/key"}])

        ended = await w.until_state(task_id, State.SYSTEM_ERROR)

        assert any("no s3 storage configured" in line for line in ended.attempts[-1].system_logs)
        await w.until_tidy(task_id)
        assert not w.pulsar.jobs
