"""Reading a request's body: bounded, and only where its type says JSON or nothing."""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request


async def json_body(request: Request, limit: int) -> bytes:
    """Return the body. Raises HTTPException: 415 for other types, 413 for more than `limit`."""
    if not _may_be_json(request.headers.get("content-type", "")):
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "The body must be JSON (Content-Type: application/json).",
        )
    too_large = HTTPException(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"The body is larger than the {limit} bytes that this server takes.",
    )
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _may_be_json(content_type: str) -> bool:
    """Accept what clients send: no type at all, parameters of any kind, vendors' +json types."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in ("", "application/json") or media_type.endswith("+json")
