"""The README's example task: posted by `tesp-api run`, watched to its end, its result shown."""

import asyncio
import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

IMAGE: Final = "ubuntu:20.04"
POLL_S: Final = 0.2
PATIENCE_S: Final = 600.0
ENDS: Final = frozenset({"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED"})


def task(files: Path) -> Mapping[str, Any]:
    """Return the example: a checksum of a literal input, sent to a file below `files`."""
    return {
        "name": "sha1sum of a greeting",
        "inputs": [{"path": "/data/greeting.txt", "content": "Hello, Pulsar!\n"}],
        "outputs": [{"path": "/data/greeting.sha1", "url": (files / "greeting.sha1").as_uri()}],
        "executors": [
            {
                "image": IMAGE,
                "command": ["sha1sum", "greeting.txt"],
                "workdir": "/data",
                "stdout": "/data/greeting.sha1",
            }
        ],
    }


async def run(base: str, files: Path) -> Mapping[str, Any]:
    """Post the example to `base`, print each change of its state, return it as it ended."""
    answer = await _call(f"{base}/ga4gh/tes/v1/tasks", task(files))
    url = f"{base}/ga4gh/tes/v1/tasks/{answer['id']}"
    print(f"example      task {answer['id']}: ", end="", flush=True)
    shown = None
    async with asyncio.timeout(PATIENCE_S):
        while shown not in ENDS:
            state = (await _call(url))["state"]
            if state != shown:
                print(f"{' → ' if shown else ''}{state}", end="", flush=True)
                shown = state
            await asyncio.sleep(POLL_S)
    print()
    return await _call(f"{url}?view=FULL")


def show(ended: Mapping[str, Any]) -> None:
    """Print what came of it: exit code, output texts, files sent, the system's own words."""
    log = (ended.get("logs") or [{}])[-1]
    for executor in log.get("logs", ()):
        print(f"exit code    {executor['exit_code']}")
        for stream in ("stdout", "stderr"):
            if executor.get(stream):
                print(f"{stream:<12} {executor[stream].rstrip()}")
    for output in log.get("outputs", ()):
        print(f"output       {output['url']} ({output['size_bytes']} bytes)")
    for line in log.get("system_logs", ()):
        print(f"system       {line}")


async def _call(url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return await asyncio.to_thread(_call_now, url, body)


def _call_now(url: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own address
        document: dict[str, Any] = json.load(answer)
        return document
