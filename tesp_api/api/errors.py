"""Every answer that is not what the client wanted: `{status, error, message, details?}`."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tesp_api.api.schema import Complaint, Problem
from tesp_api.auth import Unauthorized
from tesp_api.domain.errors import (
    InvalidRequest,
    KeyTaken,
    Mistake,
    NoSuchTask,
    Overloaded,
    Refused,
    TooManyTasks,
    Unreachable,
)

RETRY_AFTER_S: Final = 5
_COME_AGAIN: Final[Mapping[str, str]] = {"Retry-After": str(RETRY_AFTER_S)}
_SENTENCES: Final[Mapping[int, str]] = {
    HTTPStatus.NOT_FOUND: "There is nothing at this path.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This method is not possible here; Allow names those that are.",
}


def refusal(
    status: int,
    message: str,
    *,
    headers: Mapping[str, str] | None = None,
    details: Sequence[Mistake] = (),
) -> Response:
    """Return the answer for an error, in the one shape that all errors have."""
    problem = Problem(
        status=status,
        error=HTTPStatus(status).phrase,
        message=message,
        details=[Complaint(path=each.path, message=each.message) for each in details] or None,
    )
    return Response(problem.model_dump_json(exclude_none=True), status, headers, "application/json")


def unready(reasons: Sequence[str]) -> Response:
    """Return the answer for a server that cannot do its work now: an error, with `reasons`."""
    status = HTTPStatus.SERVICE_UNAVAILABLE
    problem = Problem(status=status, error=status.phrase, message="This server is not ready.")
    body = {**problem.model_dump(exclude_none=True), "reasons": reasons}
    return Response(to_json(body), status, _COME_AGAIN, "application/json")


def answer(error: Exception) -> Response:
    """Return what the client is told of an exception: of a bug, no more than that it was one."""
    match error:
        case InvalidRequest():
            return refusal(HTTPStatus.BAD_REQUEST, str(error), details=error.mistakes)
        case NoSuchTask() | KeyTaken() | TooManyTasks() | Overloaded():
            headers = _COME_AGAIN if isinstance(error, TooManyTasks | Overloaded) else None
            return refusal(_REFUSALS[type(error)], str(error), headers=headers)
        case Unreachable():
            return refusal(HTTPStatus.SERVICE_UNAVAILABLE, _AN_OUTAGE, headers=_COME_AGAIN)
        case Unauthorized():
            challenge = {"WWW-Authenticate": error.challenge}
            return refusal(HTTPStatus.UNAUTHORIZED, str(error), headers=challenge)
        case HTTPException():
            message = _SENTENCES.get(error.status_code, error.detail)
            return refusal(error.status_code, message, headers=error.headers)
        case _:
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, _A_BUG)


_AN_OUTAGE: Final = "Something that this server needs does not answer; try again later."
_REFUSALS: Final[Mapping[type[Refused], HTTPStatus]] = {
    NoSuchTask: HTTPStatus.NOT_FOUND,
    KeyTaken: HTTPStatus.CONFLICT,
    TooManyTasks: HTTPStatus.TOO_MANY_REQUESTS,
    Overloaded: HTTPStatus.SERVICE_UNAVAILABLE,
}
_A_BUG: Final = "Something is wrong in the server; its log tells it under this X-Request-ID."
