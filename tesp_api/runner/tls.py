"""Whom a transfer trusts: the system's authorities, and those of the order."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from tesp_api.runner.trouble import NodeTrouble

if TYPE_CHECKING:
    import ssl


@lru_cache(maxsize=2)
def tls_context(ca: str | None) -> ssl.SSLContext:
    """Return what checks certificates; made once, for reading the system's takes time."""
    import ssl

    context = ssl.create_default_context()
    if ca:
        try:
            context.load_verify_locations(cadata=ca)
        except (ssl.SSLError, ValueError) as error:
            raise NodeTrouble(f"the server's ca_file holds no certificates: {error}") from error
    return context
