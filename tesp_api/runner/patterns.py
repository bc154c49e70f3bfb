"""The wildcards of POSIX in the paths of outputs: `* ? [..] [!..]`, one name at a time.

Neither a slash nor a dot at the start of a name is ever matched by a wildcard; a backslash takes
its meaning from what follows. What is a pattern at all says `domain/rules.is_pattern`.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tesp_api.runner.tree import Tree

# A backslash with what it quotes, a bracket expression, or any other character.
TOKEN = re.compile(
    r"\\(?P<quoted>.)|\[(?P<not>[!^]?)(?P<set>(?:\](?!\])|)(?:\[:[a-z]+:\]|\\.|[^\]\\])*)\]|(?P<one>.)",
    re.DOTALL,
)
ELEMENT = re.compile(
    r"\[:(?P<kind>[a-z]+):\]|(?P<low>\\.|[^\\])(?:-(?P<high>\\.|[^\\]))?", re.DOTALL
)


class Every:
    """The star: any number of characters."""


EVERY = Every()
