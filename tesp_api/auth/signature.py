"""Public keys and what they have signed. The only file that knows python-jose.

Its known weaknesses are kept out: it never chooses an algorithm by what a token or a key says, gets
no token to read (nor unpack: JWE), and only public RSA and EC keys, each with the algorithms that
belong to its type and curve. PS256 and its kin, which it does not have, are checked beside it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jose import jwk
from jose.exceptions import JOSEError

MOST_KEYS: Final = 64
RSA_BITS: Final = range(2_048, 16_385)

Kind = str
"""`RSA`, or the name of a curve."""

ALGORITHMS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        **{f"{family}{bits}": "RSA" for family in ("RS", "PS") for bits in (256, 384, 512)},
        "ES256": "P-256",
        "ES384": "P-384",
        "ES512": "P-521",
    }
)
"""The algorithms that are accepted, and the kind of key for each: no `none`, no shared secrets."""

_PSS: Final[Mapping[str, hashes.HashAlgorithm]] = MappingProxyType(
    {"PS256": hashes.SHA256(), "PS384": hashes.SHA384(), "PS512": hashes.SHA512()}
)
_READ_AS: Final[Mapping[Kind, str]] = MappingProxyType(
    {"RSA": "RS256", "P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
)
_MEMBERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"RSA": ("n", "e"), "EC": ("x", "y")}
)
_NUMBER: Final = re.compile(r"[A-Za-z0-9_-]{2,2731}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A key of an issuer; `algorithm` is the only one it is for, where the issuer says so."""

    id: str | None
    kind: Kind
    algorithm: str | None
    material: RSAPublicKey | EllipticCurvePublicKey

    def fits(self, algorithm: str, key_id: str | None) -> bool:
        """Tell whether a token of that algorithm, that names that key or none, can be its."""
        return (
            ALGORITHMS.get(algorithm) == self.kind
            and self.algorithm in (None, algorithm)
            and key_id in (None, self.id)
        )

    def has_signed(self, text: bytes, signature: bytes, algorithm: str) -> bool:
        """Tell whether `signature` is this key's over `text`; the algorithm must fit the key."""
        if ALGORITHMS.get(algorithm) != self.kind:
            return False
        if algorithm in _PSS:
            return self._has_signed_pss(text, signature, _PSS[algorithm])
        return bool(jwk.construct(self.material, algorithm).verify(text, signature))

    def _has_signed_pss(self, text: bytes, signature: bytes, digest: hashes.HashAlgorithm) -> bool:
        assert isinstance(self.material, RSAPublicKey)
        padding = PSS(MGF1(digest), digest.digest_size)
        try:
            self.material.verify(signature, text, padding, digest)
        except InvalidSignature:
            return False
        return True


def read_keys(entries: Sequence[object]) -> tuple[PublicKey, ...]:
    """Return those of a key set's entries that can sign tokens; others are passed over."""
    found = (_read(entry) for entry in entries[:MOST_KEYS] if isinstance(entry, dict))
    return tuple(key for key in found if key is not None)


def _read(entry: Mapping[str, object]) -> PublicKey | None:
    key_id, algorithm = entry.get("kid"), entry.get("alg")
    if not isinstance(key_id, str | None) or not isinstance(algorithm, str | None):
        return None
    material = _material(entry) if _is_for_signatures(entry) else None
    if material is None:
        return None
    return PublicKey(id=key_id, kind=_kind(entry), algorithm=algorithm, material=material)


def _is_for_signatures(entry: Mapping[str, object]) -> bool:
    operations = entry.get("key_ops", ["verify"])
    return (
        entry.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    )


def _kind(entry: Mapping[str, object]) -> Kind:
    return str(entry.get("crv") if entry.get("kty") == "EC" else entry.get("kty"))


def _material(entry: Mapping[str, object]) -> RSAPublicKey | EllipticCurvePublicKey | None:
    numbers = {name: str(entry.get(name, "")) for name in _MEMBERS.get(str(entry.get("kty")), ())}
    if not numbers or not all(map(_NUMBER.fullmatch, numbers.values())):
        return None
    # Only what makes a public key is passed on.
    public = {"kty": entry["kty"], "crv": entry.get("crv"), **numbers}
    try:
        key = jwk.construct(public, _READ_AS[_kind(entry)]).prepared_key
    except (JOSEError, KeyError, ValueError):
        return None
    if isinstance(key, RSAPublicKey):
        return key if key.key_size in RSA_BITS else None
    return key if isinstance(key, EllipticCurvePublicKey) else None
