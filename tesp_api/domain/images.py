"""Names of images: which an engine may be given.

None that passes here can be read as an option, and none as a path except where paths are allowed.
"""

import re
from typing import Final

from tesp_api.domain.plan import normal

APPTAINER: Final = frozenset({"apptainer", "singularity"})
"""Engines that take images from several kinds of places, and from files."""

_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST: Final = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_TAG: Final = r"[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}"
_DIGEST: Final = r"[a-zA-Z][a-zA-Z0-9]*(?:[-_+.][a-zA-Z][a-zA-Z0-9]*)*:[0-9a-fA-F]{32,128}"
_REFERENCE: Final = re.compile(
    rf"(?P<name>(?:{_HOST}/)?{_PART}(?:/{_PART})*)(?::{_TAG})?(?:@{_DIGEST})?"
)
_LONGEST: Final = 512
_LONGEST_NAME: Final = 255
_CONTROL: Final = re.compile(r"[\0-\x1f\x7f]")


def is_reference(image: str) -> bool:
    """Return whether registries would know `image`: `host:port/name:tag@digest`, or less."""
    match = _REFERENCE.fullmatch(image) if len(image) <= _LONGEST else None
    return match is not None and len(match["name"]) <= _LONGEST_NAME


def refusal(
    image: str, engine: str, roots: tuple[str, ...] = (), schemes: tuple[str, ...] = ()
) -> str | None:
    """Return why that engine is not given the image, as a sentence, or None.

    `roots` are the directories of local images, `schemes` the places of remote ones; both are for
    apptainer and singularity only.
    """
    if not image.strip():
        return "is empty."
    if engine == "host":
        return None
    scheme, mark, reference = image.partition("://")
    if engine in APPTAINER and mark:
        return _remote_refusal(scheme, reference, schemes)
    if engine in APPTAINER and image.startswith("/"):
        return _local_refusal(image, roots)
    return None if is_reference(image) else _NO_REFERENCE


_NO_REFERENCE: Final = "is no image reference (such as ubuntu:20.04 or host:5000/team/tool:1.0)."


def _remote_refusal(scheme: str, reference: str, schemes: tuple[str, ...]) -> str | None:
    if scheme not in schemes:
        known = ", ".join(f"{name}://" for name in schemes) or "none"
        return f"has a scheme that is not allowed here; allowed: {known}."
    return None if is_reference(reference) else _NO_REFERENCE


def _local_refusal(image: str, roots: tuple[str, ...]) -> str | None:
    # Where links lead only the node can tell; the runner asks again.
    inside = any(normal(image).startswith(normal(root).rstrip("/") + "/") for root in roots)
    if inside and ".." not in image.split("/") and not _CONTROL.search(image):
        return None
    return "is not below a directory from which this server takes local images."
