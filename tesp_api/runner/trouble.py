"""What goes wrong, and how it is put to a person."""

from __future__ import annotations

import errno


class Trouble(Exception):
    """The task cannot go on and its program is not to blame; the text is for the user."""


def readable(text: str) -> str:
    """Return `text` as valid Unicode, with what the file system could not decode replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def disk_is_full(error: OSError) -> bool:
    """Tell whether `error` says that there is no room left."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}
