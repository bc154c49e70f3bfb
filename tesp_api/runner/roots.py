"""Paths of the node itself, only below the roots that the operator opened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tesp_api.runner.trouble import Trouble

if TYPE_CHECKING:
    from tesp_api.runner.transfer import Place


def file_path(url: str) -> str:
    """Return the path that a file URL or a bare path names."""
    if url.startswith("/"):
        return url
    from urllib.parse import unquote

    host, slash, path = url[len("file://") :].partition("/")
    if host.lower() not in {"", "localhost"} or not slash:
        raise Trouble(f"{url} names another host")
    path = unquote(path, errors="surrogateescape")
    if "\0" in path:
        raise Trouble(f"{url} holds a NUL character")
    return "/" + path


def resolved(place: Place) -> str:
    """Return the path of a file URL with links resolved; raises Trouble if not below its root."""
    path = file_path(place.url)
    real = os.path.realpath(path)
    check_below(real, place, path)
    return real


def check_below(real: str, place: Place, shown: str | None = None) -> None:
    """Raise Trouble if the path `real`, without links, is not below the root of `place`."""
    root = place.root
    if root is None or not (real == root or real.startswith(root.rstrip("/") + "/")):
        shown = shown or file_path(place.url)
        raise Trouble(f"{shown} is not below a directory that this node opens to tasks")


def opened_path(file: int) -> str:
    """Return where the open `file` lies: the truth after links, whoever changes them meanwhile."""
    return os.readlink(f"/proc/self/fd/{file}")
