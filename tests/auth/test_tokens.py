"""True tokens are believed; forged, stale and foreign ones never are, and tell nothing."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tesp_api.auth import Terms, Unauthorized
from tesp_api.auth.token import LONGEST
from tests.auth.fakes import BEGINNING, HERE, THERE, Desk, claims
from tests.auth.keys import (
    Signer,
    ec_key,
    encoded,
    part,
    rsa_key,
    shared_secret_token,
)

NOW = int(BEGINNING.timestamp())
TRUE = Signer(rsa_key(0))
FOREIGN = Signer(rsa_key(1))
"""Another issuer's key, under the same name."""
STOLEN = Signer(rsa_key(2))
"""The attacker's own key, under the same name."""
CURVED = Signer(ec_key("P-384"), "curved")
WEAK = Signer(rsa_key(3, bits=1024), "weak")
FOR_SECRETS = Signer(rsa_key(4), "for secrets")
LONG_HASH = Signer(rsa_key(5), "long hash")
SECRET = b"a secret that somebody put into the key set"

INVALID = "The bearer token is not valid."
EXPIRED = "The bearer token has expired."
ELSEWHERE = "The bearer token is not for this server."


@pytest.fixture
def desk() -> Desk:
    return ready_desk()


def ready_desk() -> Desk:
    desk = Desk()
    desk.book.published[HERE] = [
        TRUE.jwk(use="sig"),
        CURVED.jwk(),
        WEAK.jwk(),
        FOR_SECRETS.jwk(use="enc"),
        LONG_HASH.jwk(alg="RS512"),
        {"kty": "oct", "kid": "secret", "k": encoded(SECRET)},
        {"kty": "OKP", "kid": "edwards", "crv": "Ed25519", "x": "AAAA"},
    ]
    desk.book.published[THERE] = [FOREIGN.jwk()]
    return desk


async def refused(desk: Desk, token: str) -> str:
    with pytest.raises(Unauthorized) as caught:
        await desk.who(token)
    assert caught.value.challenge == 'Bearer realm="TES", error="invalid_token"'
    assert token not in str(caught.value)
    return str(caught.value)


# True ones


async def test_a_true_token_names_its_issuer_and_subject(desk: Desk) -> None:
    principal = await desk.who(TRUE.token(claims()))
    assert principal.owner == f"{HERE}|alice"
    assert not principal.sees_all


async def test_the_same_subject_of_two_issuers_is_two_owners(desk: Desk) -> None:
    here = await desk.who(TRUE.token(claims()))
    there = await desk.who(FOREIGN.token(claims(iss=THERE)))
    assert (here.owner, there.owner) == (f"{HERE}|alice", f"{THERE}|alice")


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"])
async def test_every_rsa_algorithm_of_the_list_is_taken(desk: Desk, algorithm: str) -> None:
    assert (await desk.who(TRUE.token(claims(), algorithm))).owner == f"{HERE}|alice"


@pytest.mark.parametrize(
    ("algorithm", "curve"), [("ES256", "P-256"), ("ES384", "P-384"), ("ES512", "P-521")]
)
async def test_every_curve_is_taken_with_its_own_algorithm(algorithm: str, curve: str) -> None:
    desk, signer = Desk(), Signer(ec_key(curve))
    desk.book.published[HERE] = [signer.jwk()]
    assert (await desk.who(signer.token(claims(), algorithm))).owner == f"{HERE}|alice"


@pytest.mark.parametrize("kind", ["JWT", "jwt", "at+jwt", "application/at+jwt"])
async def test_both_names_of_an_access_token_are_taken(desk: Desk, kind: str) -> None:
    assert (await desk.who(TRUE.token(claims(), typ=kind))).owner == f"{HERE}|alice"


async def test_a_token_that_names_no_key_is_tried_with_all_that_fit(desk: Desk) -> None:
    nameless = Signer(TRUE.private, kid=None)
    assert (await desk.who(nameless.token(claims()))).owner == f"{HERE}|alice"
    await refused(desk, Signer(STOLEN.private, kid=None).token(claims()))


async def test_of_two_keys_under_one_name_either_may_have_signed(desk: Desk) -> None:
    desk.book.published[HERE] = [TRUE.jwk(), Signer(rsa_key(6)).jwk(), Signer(ec_key()).jwk()]
    assert (await desk.who(Signer(rsa_key(6)).token(claims()))).owner == f"{HERE}|alice"
    assert (await desk.who(TRUE.token(claims()))).owner == f"{HERE}|alice"
    assert (await desk.who(Signer(ec_key()).token(claims(), "ES256"))).owner == f"{HERE}|alice"
    await refused(desk, STOLEN.token(claims()))


@pytest.mark.parametrize(
    "change",
    [
        {"exp": NOW - 59},
        {"exp": NOW + 0.5},
        {"nbf": NOW + 59},
        {"iat": NOW + 59},
        {"nbf": None, "iat": None},
        {"aud": ["other", "tes"]},
        {"sub": "Žofie Nováková"},
        {"sub": "a|b"},
    ],
)
async def test_clocks_may_differ_a_little_and_claims_may_look_otherwise(
    desk: Desk, change: dict[str, Any]
) -> None:
    principal = await desk.who(TRUE.token(claims(**change)))
    assert principal.owner == f"{HERE}|{change.get('sub', 'alice')}"


async def test_without_an_audience_in_the_terms_any_is_taken() -> None:
    desk = Desk(Terms())
    desk.book.published[HERE] = [TRUE.jwk()]
    assert (await desk.who(TRUE.token(claims(aud="other")))).owner == f"{HERE}|alice"
    assert (await desk.who(TRUE.token(claims(aud=None)))).owner == f"{HERE}|alice"


# Administrators


@pytest.mark.parametrize(
    ("change", "sees_all"),
    [
        ({}, False),
        ({"sub": "root"}, True),
        ({"groups": "tes-admins"}, True),
        ({"groups": ["users", "tes-admins"]}, True),
        ({"groups": "no tes-admins"}, False),
        ({"groups": {"tes-admins": True}}, False),
        ({"groups": [["tes-admins"]]}, False),
        ({"roles": ["tes-admins"]}, False),
    ],
)
async def test_an_administrator_is_listed_or_has_the_claim(
    change: dict[str, Any], sees_all: bool
) -> None:
    terms = Terms(
        admins=frozenset({f"{HERE}|root"}), admin_claim="groups", admin_value="tes-admins"
    )
    desk = Desk(terms)
    desk.book.published[HERE] = [TRUE.jwk()]
    assert (await desk.who(TRUE.token(claims(**change)))).sees_all is sees_all


async def test_an_administrators_name_at_another_issuer_is_nobody() -> None:
    desk = Desk(Terms(admins=frozenset({f"{HERE}|root"})))
    desk.book.published[THERE] = [FOREIGN.jwk()]
    assert not (await desk.who(FOREIGN.token(claims(iss=THERE, sub="root")))).sees_all


# Forged: by whom it says it is


@pytest.mark.parametrize(
    "issuer",
    [
        "https://evil.example",
        HERE + "/",
        HERE.upper(),
        HERE.replace("https", "http"),
        HERE + "#",
        "https://issuer.example@evil.example/realms/tes",
        "",
        [HERE],
        {HERE: HERE},
        7,
        True,
        None,
    ],
)
async def test_an_issuer_that_is_not_listed_is_refused_and_nobody_is_asked(
    desk: Desk, issuer: object
) -> None:
    assert await refused(desk, STOLEN.token(claims(iss=issuer))) == INVALID
    assert await refused(desk, TRUE.token(claims(iss=issuer))) == INVALID
    assert desk.book.asked == []


async def test_another_listed_issuers_key_of_the_same_name_does_not_fit(desk: Desk) -> None:
    assert await refused(desk, FOREIGN.token(claims())) == INVALID
    assert await refused(desk, TRUE.token(claims(iss=THERE))) == INVALID


@pytest.mark.parametrize(
    "header",
    [
        {"kid": "unknown"},
        {"kid": ""},
        {"kid": "../../../../dev/null"},
        {"kid": "' OR 1=1 --"},
        {"kid": 1},
        {"kid": ["one"]},
        {"kid": {"one": 1}},
        {"kid": None},
        {},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/chain"},
        {"jwk": STOLEN.jwk()},
        {"jwk": STOLEN.jwk(), "kid": "unknown"},
        {"x5c": [encoded(STOLEN.der())]},
    ],
)
async def test_a_foreign_key_is_refused_however_the_header_offers_it(
    desk: Desk, header: dict[str, Any]
) -> None:
    assert await refused(desk, STOLEN.token(claims(), **header)) == INVALID
    assert set(desk.book.asked) <= {HERE}


# Forged: by the algorithm


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "HS256", "EdDSA", "dir"])
async def test_an_algorithm_that_is_not_listed_is_refused_and_nobody_is_asked(
    desk: Desk, name: str
) -> None:
    unsigned = f"{part({'alg': name, 'kid': 'one'})}.{part(claims())}"
    for token in (f"{unsigned}.", f"{unsigned}.AAAA", f"{unsigned}.{encoded(bytes(256))}"):
        assert await refused(desk, token) == INVALID
    assert desk.book.asked == []


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize(
    "secret",
    [
        TRUE.pem(),
        TRUE.pem().strip(),
        TRUE.der(),
        json.dumps(TRUE.jwk()).encode(),
        TRUE.jwk()["n"].encode(),
        SECRET,
        b"",
    ],
)
async def test_a_public_key_is_never_taken_for_a_shared_secret(
    desk: Desk, algorithm: str, secret: bytes
) -> None:
    for kid in ("one", "secret"):
        token = shared_secret_token(claims(), secret, algorithm, kid=kid)
        assert await refused(desk, token) == INVALID


@pytest.mark.parametrize("named", ["RS384", "PS256", "ES256", "HS256", "none", None, 5, ["RS256"]])
async def test_the_named_algorithm_must_be_the_one_that_signed(desk: Desk, named: object) -> None:
    assert await refused(desk, TRUE.token(claims(), "RS256", alg=named)) == INVALID


@pytest.mark.parametrize("algorithm", ["ES256", "ES512"])
async def test_a_curve_goes_with_its_own_algorithm_only(desk: Desk, algorithm: str) -> None:
    digest_fits = Signer(CURVED.private, "curved").token(claims(), algorithm)
    assert await refused(desk, digest_fits) == INVALID


async def test_keys_that_are_weak_or_for_something_else_do_not_count(desk: Desk) -> None:
    for token in (
        WEAK.token(claims()),
        FOR_SECRETS.token(claims()),
        LONG_HASH.token(claims(), "RS256"),
    ):
        assert await refused(desk, token) == INVALID
    assert (await desk.who(LONG_HASH.token(claims(), "RS512"))).owner == f"{HERE}|alice"


# Forged: by its claims


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exp": NOW - 60}, EXPIRED),
        ({"exp": 0}, EXPIRED),
        ({"exp": None}, INVALID),
        ({"exp": str(NOW + 600)}, INVALID),
        ({"exp": True}, INVALID),
        ({"exp": [NOW + 600]}, INVALID),
        ({"exp": 10**400}, INVALID),
        ({"exp": 1e300}, INVALID),
        ({"nbf": NOW + 61}, INVALID),
        ({"nbf": "soon"}, INVALID),
        ({"iat": NOW + 61}, INVALID),
        ({"iat": {}}, INVALID),
        ({"aud": None}, ELSEWHERE),
        ({"aud": "other"}, ELSEWHERE),
        ({"aud": "tes tes"}, ELSEWHERE),
        ({"aud": ["other", "TES"]}, ELSEWHERE),
        ({"aud": [["tes"]]}, ELSEWHERE),
        ({"aud": {"tes": 1}}, ELSEWHERE),
        ({"aud": True}, ELSEWHERE),
        ({"sub": None}, INVALID),
        ({"sub": ""}, INVALID),
        ({"sub": 5}, INVALID),
        ({"sub": ["alice"]}, INVALID),
        ({"sub": "a" * 256}, INVALID),
        ({"sub": "a\nb"}, INVALID),
        ({"sub": "a\0"}, INVALID),
        ({"sub": "\ud800"}, INVALID),
        ({"sub": "admin\u202eecila"}, INVALID),
    ],
)
async def test_a_token_that_is_not_good_here_and_now_is_refused(
    desk: Desk, change: dict[str, Any], message: str
) -> None:
    assert await refused(desk, TRUE.token(claims(**change))) == message


async def test_of_a_token_that_nobody_signed_not_even_its_age_is_told(desk: Desk) -> None:
    assert await refused(desk, STOLEN.token(claims(exp=1))) == INVALID
    assert await refused(desk, STOLEN.token(claims(aud="other"))) == INVALID


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
async def test_times_that_are_no_times_are_refused(desk: Desk, number: str) -> None:
    text = json.dumps(claims(exp="@")).replace('"@"', number).encode()
    assert await refused(desk, TRUE.token(text)) == INVALID


# Forged: by its form


def _tampered(token: str) -> str:
    header, _, seal = token.split(".")
    return f"{header}.{part(claims(sub='bob'))}.{seal}"


FORMS: dict[str, Callable[[str], str]] = {
    "other claims under the signature": _tampered,
    "a signature cut short": lambda token: token[:-8],
    "a signature with more": lambda token: token + "AAAA",
    "no signature": lambda token: token.rpartition(".")[0],
    "an empty signature": lambda token: token.rpartition(".")[0] + ".",
    "a signature of zeros": lambda token: f"{token.rpartition('.')[0]}.{encoded(bytes(256))}",
    "four parts": lambda token: token + ".AAAA",
    "five parts, encrypted": lambda _: ".".join(
        (part({"alg": "dir", "enc": "A128CBC-HS256", "zip": "DEF"}), "", *["AAAA"] * 3)
    ),
    "five parts of a good token": lambda token: f"{token}.AAAA.AAAA",
    "padding": lambda token: token + "=",
    "letters of the other base64": lambda token: token[:-4] + "+/+/",
    "a blank within": lambda token: token.replace(".", ". ", 1),
    "a line end": lambda token: token + "\n",
    "a nul": lambda token: token + "\0",
    "a letter of no ASCII": lambda token: token + "é",
    "two tokens": lambda token: f"{token},{token}",
    "JSON serialization": lambda token: json.dumps(
        dict(zip(("protected", "payload", "signature"), token.split("."), strict=True))
    ),
    "too long": lambda token: token + "A" * LONGEST,
    "one letter too long": lambda token: token + "A" * (LONGEST + 1 - len(token)),
    "a quoted one": lambda token: f'"{token}"',
}


@pytest.mark.parametrize("form", FORMS)
async def test_what_is_no_signed_token_in_compact_form_is_refused(desk: Desk, form: str) -> None:
    assert await refused(desk, FORMS[form](TRUE.token(claims()))) == INVALID


async def test_a_true_token_may_be_long_but_not_endless(desk: Desk) -> None:
    long, longer = (TRUE.token(claims(x="x" * number)) for number in (11_000, 12_000))
    assert len(long) < LONGEST < len(longer)
    assert (await desk.who(long)).owner == f"{HERE}|alice"
    assert await refused(desk, longer) == INVALID


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"RS256"',
        b'{"alg":"RS256","alg":"none"}',
        b'{"alg":"none","alg":"RS256"}',
        b'{"alg":"RS256","kid":"two","kid":"one"}',
        b'{"alg":"RS256","kid":"one","x":NaN}',
        b'{"alg":"RS256","kid":"one","x":' + b"[" * 5000 + b"]" * 5000 + b"}",
        '{"alg":"RS256","kid":"one"}'.encode("utf-16"),
        '{"alg":"RS256","kid":"one"}'.encode("utf-32-le"),
        b'\xff{"alg":"RS256"}',
        b'{"alg":"RS256","kid":"one","crit":["b64"],"b64":false}',
        b'{"alg":"RS256","kid":"one","crit":[]}',
        b'{"alg":"RS256","kid":"one","typ":"logout+jwt"}',
        b'{"alg":"RS256","kid":"one","typ":["JWT"]}',
        b'{"kid":"one"}',
    ],
)
async def test_a_header_with_two_readings_or_none_is_refused(desk: Desk, header: bytes) -> None:
    token = TRUE.seal(f"{encoded(header)}.{part(claims())}", "RS256")
    assert await refused(desk, token) == INVALID


@pytest.mark.parametrize("body", [b"[]", b"7", b"{", b'{"sub":"alice","sub":"bob"}', b"\xff\xfe"])
async def test_claims_with_two_readings_or_none_are_refused(desk: Desk, body: bytes) -> None:
    assert await refused(desk, TRUE.token(body)) == INVALID
    doubled = json.dumps(claims())[:-1].encode() + b',"sub":"root"}'
    assert await refused(desk, TRUE.token(doubled)) == INVALID


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "Bearer "}],
)
async def test_who_brings_no_token_is_told_to_bring_one(
    desk: Desk, headers: dict[str, str]
) -> None:
    with pytest.raises(Unauthorized) as caught:
        await desk.bearer.principal(headers)
    assert str(caught.value) == "This server wants a bearer token."
    assert caught.value.challenge == 'Bearer realm="TES"'


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_may_be_spelt_in_any_case(desk: Desk, scheme: str) -> None:
    token = TRUE.token(claims())
    principal = await desk.bearer.principal({"authorization": f"{scheme} {token}"})
    assert principal.owner == f"{HERE}|alice"


# Anything at all

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_HEADERS = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "jwk", "jku", "zip", "enc"]),
    st.sampled_from(["RS256", "ES384", "PS512", "HS256", "none", "one", "JWT"]) | _JSON,
)
_ONE_TOKEN = TRUE.token(claims())
_CLAIMS = st.dictionaries(st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "x"]), _JSON)


def told(token: str) -> str:
    """Return the refusal of a token, or its owner; any other exception goes through."""
    try:
        return str(asyncio.run(ready_desk().who(token)).owner)
    except Unauthorized as error:
        return str(error)


@given(st.text() | st.from_regex(r"[A-Za-z0-9_\-.=]*"))
def test_garbage_is_only_ever_unauthorized(garbage: str) -> None:
    assert told(garbage) in {INVALID, "This server wants a bearer token."}


@given(st.lists(st.binary(max_size=40), min_size=3, max_size=3))
def test_parts_of_anything_are_only_ever_unauthorized(parts: list[bytes]) -> None:
    assert told(".".join(map(encoded, parts))) == INVALID


@given(_HEADERS, _CLAIMS, st.binary(max_size=300))
def test_any_header_and_claims_nobody_signed_are_only_ever_unauthorized(
    header: dict[str, Any], body: dict[str, Any], seal: bytes
) -> None:
    token = f"{part(header)}.{part(claims() | body)}.{encoded(seal or b'x')}"
    assert told(token) == INVALID


@given(_CLAIMS)
def test_odd_claims_that_the_issuer_did_sign_name_their_subject_or_nobody(
    body: dict[str, Any],
) -> None:
    whole = claims() | body
    answer = told(TRUE.token(whole))
    assert answer in {INVALID, EXPIRED, ELSEWHERE, f"{HERE}|{whole['sub']}"}


@given(st.integers(0), st.characters(codec="ascii"))
def test_a_true_token_with_one_letter_changed_does_not_name_anybody_else(
    where: int, letter: str
) -> None:
    token = _ONE_TOKEN
    where %= len(token)
    # The last letter of a part has bits that mean nothing.
    assert told(token[:where] + letter + token[where + 1 :]) in {INVALID, f"{HERE}|alice"}
