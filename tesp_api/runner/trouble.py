"""What goes wrong, and how it is put to a person."""

from __future__ import annotations

import errno
import os

USER = "It is the user's turn: the task itself has to be another one."
IMAGE = "It is the user's turn to look at the image's name, or that of who keeps the image."
PROGRAM = "It is the user's turn: stdout and stderr of the executor may say more."
DATA = "It is the turn of who keeps the data, or of the user who named it."


class Trouble(Exception):
    """The task cannot go on and its program is not to blame; the text is for the user."""

    def turn(self) -> str:
        """Return who can do something about it, as a sentence."""
        return USER


class DataTrouble(Trouble):
    """The other side of a transfer does not do what it should."""

    def turn(self) -> str:
        """Return who can do something about it."""
        return DATA


class ImageTrouble(Trouble):
    """The image cannot be had."""

    def turn(self) -> str:
        """Return who can do something about it."""
        return IMAGE


class NodeTrouble(Trouble):
    """The node does not do what it should."""

    def turn(self) -> str:
        """Return who can do something about it."""
        return operators_turn()


def operators_turn() -> str:
    """Return that sentence for whoever looks after this node."""
    return f"It is the turn of the operator of node {os.uname().nodename}."


def readable(text: str) -> str:
    """Return `text` as valid Unicode, with what the file system could not decode replaced."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def disk_is_full(error: OSError) -> bool:
    """Tell whether `error` says that there is no room left."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}
