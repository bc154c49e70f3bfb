"""Which URLs may be asked for the keys of tokens.

A token's word sends nobody anywhere: an issuer is asked because the operator named it, and only
over TLS or within the machine.
"""

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, urlsplit

# Visible ASCII that a URL may hold. The bar is not among it, so that it can end the issuer in the
# name of an owner.
_URL: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]{1,500}")


def issuer_mistake(url: str) -> str | None:
    """Return why `url` cannot be an issuer, as the rest of "it should …", or None if it can."""
    parts = _split(url)
    if parts is None or parts.query or "?" in url:
        return "be a URL that begins with https:// and names a host, without user, query, fragment"
    if parts.scheme == "https" or is_loopback(url):
        return None
    return "begin with https://; http:// is for loopback addresses only"


def may_hold_keys(url: str, issuer: str) -> bool:
    """Tell whether `url` may be asked for the keys of `issuer`, which may be asked itself.

    An issuer elsewhere cannot make the server talk to what listens on its own loopback.
    """
    parts = _split(url)
    return parts is not None and (
        parts.scheme == "https" or (is_loopback(url) and is_loopback(issuer))
    )


def is_loopback(url: str) -> bool:
    """Tell whether `url` is http to this machine itself."""
    parts = _split(url)
    if parts is None or parts.scheme != "http":
        return False
    host = parts.hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _split(url: str) -> SplitResult | None:
    """Return the parts of an http(s) URL with a host, and without user and fragment."""
    if not _URL.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        usable = parts.port != 0
    except ValueError:
        return None
    plain = parts.hostname and "@" not in parts.netloc and "#" not in url
    return parts if usable and plain and parts.scheme in {"http", "https"} else None
