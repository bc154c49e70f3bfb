"""The named points around what the server itself asks of an object store."""

from typing import Any, Final

from tests.faults.points import Points

CALLS: Final = {
    "open_uploads": "list uploads",
    "begin_upload": "begin upload",
    "complete_upload": "complete upload",
    "abort_upload": "abort upload",
}


class PointedStorage:
    """A Storage whose calls about uploads in parts are points."""

    def __init__(self, real: Any, points: Points) -> None:
        self._real, self._points = real, points

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._real, name)
        if name not in CALLS:
            return call

        async def pointed(*what: Any) -> Any:
            return await self._points.around(CALLS[name], lambda: call(*what))

        return pointed
