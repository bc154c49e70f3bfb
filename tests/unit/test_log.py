import io
import json
import logging
import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest
from loguru import logger

from tesp_api import log

SECRET = "hunter2-hunter2"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Somewhere to log to; afterwards logging is as it was."""
    root, handlers = logging.root.level, logging.root.handlers[:]
    yield io.StringIO()
    logger.remove()
    logging.captureWarnings(capture=False)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(root)


def text_to(stream: io.StringIO, level: str = "DEBUG") -> None:
    log.configure(level, output_json=False, secrets=[SECRET], stream=stream)


def json_to(stream: io.StringIO) -> None:
    log.configure("DEBUG", output_json=True, secrets=[SECRET], stream=stream)


def objects(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail_with(text: str) -> None:
    raise ValueError(text)


def fail_with_a_secret() -> None:
    password = SECRET
    raise ValueError(f"no entry with {password}")


def test_a_text_line_has_moment_level_logger_message_and_fields(stream: io.StringIO) -> None:
    text_to(stream)
    logger.bind(task="t1", state="RUNNING").info("task moved")
    moment, rest = stream.getvalue().split(" ", 1)
    assert moment.endswith("Z")
    assert rest == f"INFO     {__name__}: task moved task=t1 state=RUNNING\n"


def test_a_json_line_is_one_object_with_its_fields_beside_the_message(stream: io.StringIO) -> None:
    json_to(stream)
    logger.bind(task="t1", tries=2, level="mine", nothing=None).info("line one\nline two")
    (line,) = objects(stream)
    assert line["level"] == "INFO"
    assert line["logger"] == __name__
    assert line["message"] == "line one\nline two"
    assert (line["task"], line["tries"], line["nothing"]) == ("t1", 2, None)


def test_context_of_a_request_is_in_every_line(stream: io.StringIO) -> None:
    json_to(stream)
    with logger.contextualize(request="r1"):
        logger.info("inside")
        logging.getLogger("motor").warning("from a library")
    assert [line["request"] for line in objects(stream)] == ["r1", "r1"]


def test_the_level_is_kept_for_both_kinds_of_logging(stream: io.StringIO) -> None:
    text_to(stream, level="WARNING")
    logger.info("no")
    logging.getLogger("some").info("no")
    logging.getLogger("some").warning("yes %s", "indeed")
    assert stream.getvalue().endswith("WARNING  some: yes indeed\n")
    assert len(stream.getvalue().splitlines()) == 1


def test_loggers_with_handlers_of_their_own_lose_them(stream: io.StringIO) -> None:
    own = io.StringIO()
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.addHandler(logging.StreamHandler(own))
    uvicorn.propagate = False
    text_to(stream)
    uvicorn.warning("started {braces}")
    assert own.getvalue() == ""
    assert "uvicorn.error: started {braces}" in stream.getvalue()


@pytest.mark.parametrize("wanted", [False, True])
def test_the_access_log_is_made_only_on_demand(stream: io.StringIO, wanted: bool) -> None:
    log.configure("INFO", output_json=False, access_log=wanted, stream=stream)
    # This is what uvicorn asks before it makes a record.
    assert logging.getLogger("uvicorn.access").hasHandlers() is wanted


def test_a_level_of_a_library_that_loguru_does_not_know_is_kept(stream: io.StringIO) -> None:
    json_to(stream)
    logging.getLogger("some").log(35, "between")
    assert objects(stream)[0]["level"] == "Level 35"


def test_warnings_of_python_are_logged(stream: io.StringIO) -> None:
    text_to(stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        log.configure("DEBUG", output_json=False, stream=stream)
        warnings.warn("old", UserWarning, stacklevel=1)
    assert "py.warnings: " in stream.getvalue()


async def test_httpx_does_not_tell_the_urls_it_calls(stream: io.StringIO) -> None:
    text_to(stream)
    answer = httpx.MockTransport(lambda _: httpx.Response(200))
    async with httpx.AsyncClient(transport=answer) as client:
        await client.get(f"http://pulsar/jobs?private_token={SECRET}")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("as_json", [False, True])
def test_no_secret_gets_into_message_fields_or_traceback(
    stream: io.StringIO, as_json: bool
) -> None:
    log.configure("DEBUG", output_json=as_json, secrets=[SECRET], stream=stream)
    logger.bind(
        url="mongodb://me:other@db/",
        headers={"Authorization": "Bearer abc"},
        odd=SimpleNamespace(x=SECRET),
    ).info("GET /jobs?private_token=abcdef by " + SECRET)
    logging.getLogger("some").info("to %s", f"amqp://me:{SECRET}@mq")
    try:
        fail_with_a_secret()
    except ValueError:
        logger.exception("failed")
        logging.getLogger("some").exception("failed")
    written = stream.getvalue()
    assert written.count("Traceback") == 2
    assert "fail_with_a_secret" in written
    for secret in (SECRET, "other", "abcdef", "Bearer abc"):
        assert secret not in written


def test_a_quoted_secret_is_masked_before_json_spells_it_otherwise(stream: io.StringIO) -> None:
    log.configure("DEBUG", output_json=True, secrets=['say "ä" twice'], stream=stream)
    logger.bind(field='say "ä" twice').info('say "ä" twice')
    (line,) = objects(stream)
    assert (line["message"], line["field"]) == ("***", "***")


@pytest.mark.parametrize("end", ["\n", "\r", "\x1b[2J", "\x85", "\u2028"])
def test_what_a_client_sent_cannot_forge_a_line_of_text(stream: io.StringIO, end: str) -> None:
    text_to(stream)
    logger.bind(name_prefix=f"x{end}forged").info(f"a{end}forged")
    assert end not in stream.getvalue()[:-1]
    assert len(stream.getvalue().splitlines()) == 1


def test_what_is_in_a_traceback_cannot_pass_for_a_record(stream: io.StringIO) -> None:
    text_to(stream)
    try:
        fail_with("bad\n2026-01-01T00:00:00.000Z INFO     root: all is well\x1b[2J")
    except ValueError:
        logger.exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("failed")
    assert rest
    assert all(line.startswith("    ") and "\x1b" not in line for line in rest)


def test_a_library_that_logs_wrongly_is_not_hurt(
    stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    text_to(stream)
    logging.getLogger("some").warning("%d", "no number")
    assert stream.getvalue() == ""
    assert "Logging error" in capsys.readouterr().err


def test_json_has_one_line_a_record_whatever_is_in_it(stream: io.StringIO) -> None:
    json_to(stream)
    logger.bind(x="\u2028\n\udc80").info("a\r\n\x85b")
    assert len(stream.getvalue().splitlines()) == 1


def test_a_file_name_that_is_no_text_is_written_all_the_same(stream: io.StringIO) -> None:
    raw = io.BytesIO()
    log.configure("DEBUG", output_json=False, stream=io.TextIOWrapper(raw, encoding="utf-8"))
    logger.info("file \udc80")
    assert raw.getvalue().endswith(b"file \\udc80\n")


def test_configuring_again_replaces_what_was(stream: io.StringIO) -> None:
    first = io.StringIO()
    text_to(first)
    text_to(stream)
    logger.info("once")
    logging.getLogger("some").warning("twice")
    assert first.getvalue() == ""
    assert len(stream.getvalue().splitlines()) == 2


def test_times_are_utc(stream: io.StringIO) -> None:
    json_to(stream)
    logger.patch(lambda record: record.update(time=record["time"].replace(year=2020))).info("x")
    moment = str(objects(stream)[0]["time"])
    assert moment.startswith("2020-")
    assert len(moment) == len("2020-01-01T00:00:00.000Z")
