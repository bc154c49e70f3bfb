"""Several transfers at a time: threads that do errands until none is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tesp_api.runner.transfer import Stopped, Terms, Way, scheme

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping


class Hand:
    """One worker: its ways, each made when first needed, keep their connections."""

    def __init__(self, ways: Mapping[str, Callable[[Terms], Way]], terms: Terms) -> None:
        self._kinds = ways
        self._terms = terms
        self._ways: dict[Callable[[Terms], Way], Way] = {}

    def way(self, url: str) -> Way:
        """Return the way for the scheme of `url`."""
        kind = self._kinds[scheme(url)]
        if kind not in self._ways:
            self._ways[kind] = kind(self._terms)
        return self._ways[kind]

    def close(self) -> None:
        """End all connections."""
        for way in self._ways.values():
            way.close()


if TYPE_CHECKING:
    # Something to do; what it yields is to be done too.
    Errand = Callable[[Hand], "Iterable[Errand] | None"]


class Crew:
    """Does errands, `size` at a time; the first that fails stops all others.

    No thread is left when `work` returns, so that engines may fork afterwards.
    """

    def __init__(self, size: int, hire: Callable[[], Hand]) -> None:
        self.size = size
        self.stopped = False
        self._hire = hire
        self._todo: list[Iterator[Errand]] = []
        self._busy = 0
        self._failure: BaseException | None = None

    def wanted(self) -> bool:
        """Tell whether what is under way is still wanted."""
        return not self.stopped

    def work(self, errands: Iterable[Errand]) -> None:
        """Do all errands, and all they lead to; raises what the first that failed raised."""
        import threading

        self._todo.append(iter(errands))
        turn = threading.Condition()
        threads = [
            threading.Thread(target=self._serve, args=(turn,), name=f"transfer-{number}")
            for number in range(self.size)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failure:
            raise self._failure

    def _serve(self, turn: threading.Condition) -> None:
        hand = self._hire()
        try:
            while True:
                errand = self._next(turn)
                if errand is None:
                    return
                self._do(errand, hand, turn)
        finally:
            hand.close()

    def _next(self, turn: threading.Condition) -> Errand | None:
        """Return the next errand, or None when there is none and none can come."""
        with turn:
            while not self.stopped:
                try:
                    errand = self._taken()
                except Exception as error:  # noqa: BLE001 - raised again by `work`
                    self._fail(error, turn)
                    return None
                if errand:
                    self._busy += 1
                    return errand
                if not self._busy:
                    break
                turn.wait()
            turn.notify_all()
        return None

    def _taken(self) -> Errand | None:
        while self._todo:
            errand = next(self._todo[-1], None)
            if errand:
                return errand
            self._todo.pop()
        return None

    def _do(self, errand: Errand, hand: Hand, turn: threading.Condition) -> None:
        more, failure = None, None
        try:
            more = errand(hand)
        except BaseException as error:  # noqa: BLE001 - raised again by `work`
            failure = error
        with turn:
            self._busy -= 1
            if failure and not isinstance(failure, Stopped):
                self._fail(failure, turn)
            if more:
                self._todo.append(iter(more))
            turn.notify_all()

    def _fail(self, error: BaseException, turn: threading.Condition) -> None:
        self._failure = self._failure or error
        self.stopped = True
        turn.notify_all()
