"""What a token must claim to be good here and now, and whom it then names.

Checked by ourselves: the library takes a token without audience where one is demanded, takes times
that are texts, and falls over infinite ones.
"""

from dataclasses import dataclass
from typing import Final

from tesp_api.auth.token import Claims, InvalidToken
from tesp_api.service import Principal

LEEWAY_S: Final = 60.0
"""How far the issuer's clock may be from ours."""
LONGEST_SUBJECT: Final = 255
"""OpenID Connect's own limit."""
LAST_MOMENT: Final = 1e11
"""Some three thousand years: a time beyond is a mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The operator's terms: for whom tokens must be made, and who is an administrator.

    `admins` are owners as tasks have them (`issuer|subject`). Whoever has `admin_value` in the
    claim `admin_claim`, which is a text or a list of texts, is one too.
    """

    audience: str | None = None
    admins: frozenset[str] = frozenset()
    admin_claim: str | None = None
    admin_value: str | None = None


def end_of(claims: Claims, terms: Terms, now: float) -> float:
    """Return until when these claims are good, `now` and it in seconds since the epoch.

    Raises InvalidToken where they are not good now.
    """
    if terms.audience is not None and terms.audience not in _texts(claims.get("aud")):
        raise InvalidToken("The bearer token is not for this server.")
    begins = [_moment(claims[name]) for name in ("nbf", "iat") if name in claims]
    if any(moment > now + LEEWAY_S for moment in begins):
        raise InvalidToken
    end = _moment(claims.get("exp")) + LEEWAY_S
    if now >= end:
        raise InvalidToken("The bearer token has expired.")
    return end


def named(claims: Claims, issuer: str, terms: Terms) -> Principal:
    """Return whom the claims name. Raises InvalidToken."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 1 <= len(subject) <= LONGEST_SUBJECT:
        raise InvalidToken
    # Neither control characters nor halves of a character, which no store can keep.
    if not subject.isprintable():
        raise InvalidToken
    owner = f"{issuer}|{subject}"
    return Principal(owner=owner, sees_all=owner in terms.admins or _has_admin_claim(claims, terms))


def _has_admin_claim(claims: Claims, terms: Terms) -> bool:
    if terms.admin_claim is None or terms.admin_value is None:
        return False
    return terms.admin_value in _texts(claims.get(terms.admin_claim))


def _texts(value: object) -> tuple[object, ...]:
    """Return the members of a list, or a text as the only one."""
    return tuple(value) if isinstance(value, list) else (value,)


def _moment(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidToken
    # So written, infinity, "not a number" and integers too large for a float are out.
    if not -LAST_MOMENT < value < LAST_MOMENT:
        raise InvalidToken
    return float(value)
