"""What the server knows of URLs: which it serves, and the order by which the node gets at each.

One class, `UrlStorage`, over one small class per scheme; a new scheme is a new class in a module of
its own and a line in the composition root.
"""

from tesp_api.storage.schemes import FileScheme, HttpScheme, Scheme, UrlStorage
from tesp_api.storage.unconfigured import UnconfiguredScheme

__all__ = ["FileScheme", "HttpScheme", "Scheme", "UnconfiguredScheme", "UrlStorage"]
