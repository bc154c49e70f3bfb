"""The server's log: loguru as text or JSON, one line a record, without secrets.

Standard logging (uvicorn, motor, …) is routed into it. Masking happens where a line is written, so
that it covers message, fields and traceback alike, whoever logged them.
"""

import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TextIO

from loguru import logger

from tesp_api.domain.masking import mask, spellings

if TYPE_CHECKING:
    from loguru import Message, Record, RecordException

Mask = Callable[[str], str]

QUIET: Final[Mapping[str, int]] = MappingProxyType(
    {
        # httpx tells each URL at INFO, and Pulsar's token is in its query.
        "httpx": logging.WARNING,
        "httpcore": logging.WARNING,
        # Each of these tells every single step at DEBUG, pymongo with the documents.
        "pymongo": logging.INFO,
        "aiormq": logging.INFO,
        "aio_pika": logging.INFO,
        "asyncio": logging.INFO,
    }
)
"""Libraries that say too much, and the level from which they are heard."""

_LOGGER: Final = "_logger"

# A line break or an escape sequence in what a client sent must not forge a line or a colour.
_CONTROLS: Final[Mapping[int, str]] = MappingProxyType(
    {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
)


def configure(
    level: str,
    output_json: bool,
    secrets: Iterable[str] = (),
    access_log: bool = False,
    stream: TextIO | None = None,
) -> None:
    """Send all logging to `stream` (standard error), from `level` up, with `secrets` blotted out.

    May be called again: the last call counts.
    """
    known = spellings(secrets)
    render = json_line if output_json else text_line
    out = stream or sys.stderr

    def write(message: "Message") -> None:
        line = render(message.record, lambda text: mask(text, known)) + "\n"
        # A file name may hold bytes that are no UTF-8.
        out.write(line.encode(errors="backslashreplace").decode())
        out.flush()

    logger.remove()
    # Neither diagnose, which prints the values of variables, nor backtrace.
    logger.add(write, level=level, format="{message}", backtrace=False, diagnose=False)
    _route_standard_logging(level, access_log)


def text_line(record: "Record", masked: Mask) -> str:
    """Return the record for people: `moment level logger: message key=value …`, then the trace."""
    head = f"{_moment(record)} {record['level'].name:<8} {_origin(record)}: "
    fields = "".join(f" {key}={_plain(value)}" for key, value in _fields(record).items())
    line = head + masked(_plain(record["message"]) + fields)
    # Indented, so that no line of it can pass for a record.
    trace = masked(_trace(record["exception"])).splitlines()
    return "\n".join((line, *(f"    {_plain(part)}" for part in trace)))


def json_line(record: "Record", masked: Mask) -> str:
    """Return the record for machines: one JSON object, its fields beside the message."""
    line = {
        "time": _moment(record),
        "level": record["level"].name,
        "logger": _origin(record),
        "message": masked(record["message"]),
    }
    if trace := _trace(record["exception"]):
        line["exception"] = masked(trace)
    fields = {key: _for_json(value, masked) for key, value in _fields(record).items()}
    return json.dumps(line | {key: fields[key] for key in fields if key not in line})


def _origin(record: "Record") -> str:
    """Return the name of the logger, or of the module where loguru itself was called."""
    return str(record["extra"].get(_LOGGER) or record["name"])


def _fields(record: "Record") -> Mapping[str, object]:
    return {key: value for key, value in record["extra"].items() if key != _LOGGER}


def _moment(record: "Record") -> str:
    utc = record["time"].astimezone(UTC)
    return utc.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: object) -> str:
    return str(value).translate(_CONTROLS)


def _for_json(value: object, masked: Mask) -> object:
    return value if isinstance(value, bool | int | float | None) else masked(str(value))


def _trace(exception: "RecordException | None") -> str:
    if exception is None or exception.value is None:
        return ""
    return "".join(traceback.format_exception(exception.value)).rstrip()


class _Router(logging.Handler):
    """Hands records of standard logging over to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage().rstrip()
        except Exception:  # noqa: BLE001 - a record's mistake is not its author's to suffer
            self.handleError(record)
            return
        named = logger.bind(**{_LOGGER: record.name})
        named.opt(exception=record.exc_info).log(_level(record), message)


def _level(record: logging.LogRecord) -> str | int:
    try:
        return logger.level(record.levelname).name
    except ValueError:
        return record.levelno


def _route_standard_logging(level: str, access_log: bool) -> None:
    """Make the root's only handler ours; loggers that have their own (uvicorn's) lose them."""
    logging.basicConfig(handlers=[_Router()], level=logger.level(level).no, force=True)
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    # Without a handler in reach uvicorn does not even make the record.
    logging.getLogger("uvicorn.access").propagate = access_log
    for name, least in QUIET.items():
        logging.getLogger(name).setLevel(least)
    logging.captureWarnings(capture=True)
