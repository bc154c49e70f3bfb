"""Keys that sign anything, true tokens and forged ones, put together by hand."""

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS, PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Json = dict[str, Any]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

HASHES: Final[Mapping[str, hashes.HashAlgorithm]] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
CURVES: Final[Mapping[str, Callable[[], ec.EllipticCurve]]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}


def encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def part(document: Any) -> str:
    return encoded(document if isinstance(document, bytes) else json.dumps(document).encode())


def number(value: int) -> str:
    return encoded(value.to_bytes((value.bit_length() + 7) // 8))


@dataclass(frozen=True)
class Signer:
    """A private key under a name."""

    private: PrivateKey
    kid: str | None = "one"

    def jwk(self, **more: Any) -> Json:
        """Return the public half as a key set has it."""
        named = {"kid": self.kid} if self.kid is not None else {}
        return {**named, **public_members(self.private), **more}

    def token(self, claims: Any, algorithm: str = "RS256", **header: Any) -> str:
        """Return a signed token; `header` adds to its header, or changes it."""
        named = {"kid": self.kid} if self.kid is not None else {}
        head = {"alg": algorithm, "typ": "JWT", **named, **header}
        return self.seal(f"{part(head)}.{part(claims)}", algorithm)

    def seal(self, text: str, algorithm: str) -> str:
        return f"{text}.{encoded(signature(self.private, text.encode(), algorithm))}"

    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    def der(self) -> bytes:
        return self.private.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )


def signature(private: PrivateKey, text: bytes, algorithm: str) -> bytes:
    digest = HASHES[algorithm[2:]]
    if isinstance(private, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(private.sign(text, ec.ECDSA(digest)))
        size = (private.key_size + 7) // 8
        return r.to_bytes(size) + s.to_bytes(size)
    if algorithm.startswith("PS"):
        return private.sign(text, PSS(MGF1(digest), digest.digest_size), digest)
    return private.sign(text, PKCS1v15(), digest)


def shared_secret_token(
    claims: Json, secret: bytes, algorithm: str = "HS256", **header: Any
) -> str:
    """Return a token signed with a secret, as one signs who takes a public key for it."""
    text = f"{part({'alg': algorithm, 'typ': 'JWT', **header})}.{part(claims)}"
    digest = getattr(hashlib, f"sha{algorithm[2:]}")
    return f"{text}.{encoded(hmac.digest(secret, text.encode(), digest))}"


def public_members(private: PrivateKey) -> Json:
    if isinstance(private, rsa.RSAPrivateKey):
        numbers = private.public_key().public_numbers()
        return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
    point = private.public_key().public_numbers()
    size = (private.key_size + 7) // 8
    curve = {256: "P-256", 384: "P-384", 521: "P-521"}[private.key_size]
    x, y = (encoded(value.to_bytes(size)) for value in (point.x, point.y))
    return {"kty": "EC", "crv": curve, "x": x, "y": y}


@cache
def rsa_key(which: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return a key, for the same `which` the same: they take long to make."""
    return rsa.generate_private_key(65537, bits)


@cache
def ec_key(curve: str = "P-256", which: int = 0) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(CURVES[curve]())
