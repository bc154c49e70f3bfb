"""Again, after growing pauses, while that may help."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from tesp_api.runner.transfer import Expired, Place, Refused, Stopped, Transient
from tesp_api.runner.trouble import DataTrouble, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

LONGEST_PAUSE_S = 30.0

MOST_LINES = 100  # of a log, from which on it is not said that something succeeded late

SHORTEST_SECRET = 4  # characters: anything shorter would be found in every sentence


class Outdated(DataTrouble):
    """The signature of a URL is over; who signed it can do so again."""


class Patience(NamedTuple):
    """How often an attempt is made, and how long is waited between two."""

    attempts: int
    backoff_s: float
    wanted: Callable[[], bool]
    log: list[str]

    def __call__(
        self, what: str, place: Place, once: Callable[[], T], moved: Callable[[], str] = str
    ) -> T:
        """Return what `once` does; in the end raises Trouble, one sentence without secrets."""
        reason = ""
        for attempt in range(1, self.attempts + 1):
            try:
                done = once()
            except Trouble as error:
                raise type(error)(without_secrets(f"{what}: {error}", place)) from error
            except Transient as error:
                reason, said = str(error), error.retry_after_s
            except Refused as error:
                text = f"{what} failed at attempt {attempt}: {error}{moved()}"
                kind = Outdated if isinstance(error, Expired) and place.signed else DataTrouble
                raise kind(without_secrets(text, place)) from error
            else:
                self._note(f"{what} needed {attempt} attempts: {reason}", attempt, place)
                return done
            if attempt < self.attempts:
                self._pause(attempt, said)
        text = f"{what} failed after {self.attempts} attempts: {reason}{moved()}"
        raise DataTrouble(without_secrets(text, place))

    def _note(self, line: str, attempt: int, place: Place) -> None:
        if attempt > 1 and len(self.log) < MOST_LINES:
            self.log.append(without_secrets(line, place))

    def _pause(self, attempt: int, said: float | None) -> None:
        """Wait twice as long as before, or as the other side said, if that is not too long."""
        pause = self.backoff_s * 2 ** (attempt - 1)
        pause = said if said is not None and pause < said <= LONGEST_PAUSE_S else pause
        end = time.monotonic() + min(LONGEST_PAUSE_S, pause)
        while True:
            if not self.wanted():
                raise Stopped
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(0.2, left))


def without_secrets(text: str, place: Place) -> str:
    """Return `text`, some of which another side wrote, without what only the URL may know."""
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(place.url) if "://" in place.url and place.scheme() != "file" else None
    secrets = [place.password or "", *place.headers.values()]
    secrets += [value.rpartition(" ")[2] for value in place.headers.values()]
    if parts:
        secret = parts.netloc.rpartition("@")[0].partition(":")[2]
        secrets += [secret, unquote(secret), parts.query]
        secrets += [value.partition("=")[2] for value in parts.query.split("&")]
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text
