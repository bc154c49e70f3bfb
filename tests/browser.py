"""A real browser, driven by its own debugging protocol: one page, and JavaScript on it."""

import contextlib
import itertools
import json
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PATIENCE_S = 30.0
STILL_FRAMES = 20


class Page:
    """One page. Expressions are JavaScript; what they return must be JSON."""

    def __init__(self, connection: ClientConnection) -> None:
        self.violations: list[str] = []
        """What the page was forbidden, or logged as an error."""
        self._connection = connection
        self._numbers = itertools.count()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """Return what the expression says as soon as that is something."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"{expression} stays {value!r}"
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        """Press what has stood still for some frames: a page may put another in its place."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.until(f"!!{found} && !{found}.disabled")
        self.evaluate(
            "new Promise(done => { let seen = null, frames = 0; const look = () => {"
            f"const now = {found}; frames = now === seen ? frames + 1 : 0; seen = now;"
            f"if (frames > {STILL_FRAMES} && now) {{ now.click(); done(); }}"
            "else requestAnimationFrame(look); }; look(); })"
        )

    def send(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(PATIENCE_S))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._hear(message)

    def _hear(self, message: Any) -> None:
        if message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.violations.append(message["params"]["entry"]["text"])


@contextlib.contextmanager
def chromium(directory: Path) -> Iterator[Page]:
    """Start Chromium with a profile of its own in `directory`, and give its page."""
    argv = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    argv += ["--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync"]
    argv += ["--remote-debugging-port=0", f"--user-data-dir={directory}", "about:blank"]
    with (directory / "log").open("wb") as log:
        browser = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        with connect(_page_of(directory, browser), max_size=2**26) as connection:
            yield Page(connection)
    finally:
        browser.send_signal(signal.SIGTERM)
        browser.wait(20)


def _page_of(directory: Path, browser: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := re.search(r"ws://([\d.:]+)/", (directory / "log").read_text())):
        assert browser.poll() is None, (directory / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with urllib.request.urlopen(f"http://{found[1]}/json") as answer:
        pages = [one for one in json.load(answer) if one["type"] == "page"]
    return str(pages[0]["webSocketDebuggerUrl"])
