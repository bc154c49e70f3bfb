"""Nobody, a password, a token, or either: what each asks for and what each ignores."""

from base64 import b64encode
from pathlib import Path

import pytest

from tesp_api import tesp_api
from tesp_api.auth import (
    BasicAuthentication,
    EitherAuthentication,
    NoAuthentication,
    Unauthorized,
)
from tesp_api.domain.errors import Misconfigured
from tesp_api.settings.model import BasicAuth, OAuth, Settings
from tests.auth.fakes import HERE, Desk, HandClock, claims
from tests.auth.keys import Signer, rsa_key

SIGNER = Signer(rsa_key(0))
BASIC = 'Basic realm="TES", charset="UTF-8"'
BEARER = 'Bearer realm="TES"'


def basic(text: str) -> str:
    return f"Basic {b64encode(text.encode()).decode()}"


@pytest.fixture
def desk() -> Desk:
    desk = Desk()
    desk.book.published[HERE] = [SIGNER.jwk()]
    return desk


@pytest.fixture
def either(desk: Desk) -> EitherAuthentication:
    return EitherAuthentication(BasicAuthentication("user", "pässword"), desk.bearer)


@pytest.mark.parametrize("given", [None, "", "Basic", basic("None:None"), "Bearer x.y.z", "odd"])
async def test_without_authentication_any_header_is_ignored(given: str | None) -> None:
    headers = {} if given is None else {"authorization": given}
    principal = await NoAuthentication().principal(headers)
    assert (principal.owner, principal.sees_all) == (None, True)


async def test_the_basic_user_is_an_owner_and_an_administrator_where_told() -> None:
    headers = {"authorization": basic("user:password")}
    plain = await BasicAuthentication("user", "password").principal(headers)
    admin = await BasicAuthentication("user", "password", sees_all=True).principal(headers)
    assert (plain.owner, plain.sees_all) == ("basic:user", False)
    assert (admin.owner, admin.sees_all) == ("basic:user", True)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic é",
        basic("None:None"),
        basic(":"),
        basic("user"),
        basic("user:"),
        basic("user:passwor"),
        basic("user:password "),
        basic("User:password"),
        basic("user:password").replace("Basic", "Bearer"),
        basic("user:password") + "=",
    ],
)
async def test_a_wrong_password_in_any_form_is_refused_in_the_same_words(given: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        await BasicAuthentication("user", "password").principal({"authorization": given})
    assert str(caught.value) == "This server wants a user name and a password."
    assert caught.value.challenge == BASIC


async def test_of_two_ways_either_lets_in(either: EitherAuthentication) -> None:
    by_password = await either.principal({"authorization": basic("user:pässword")})
    by_token = await either.principal({"authorization": f"Bearer {SIGNER.token(claims())}"})
    assert by_password.owner == "basic:user"
    assert by_token.owner == f"{HERE}|alice"
    assert set(either.schemes) == {"BasicAuth", "BearerAuth"}


@pytest.mark.parametrize(
    ("given", "message", "challenge"),
    [
        (
            "",
            "This server wants a user name and a password, or a bearer token.",
            f"{BASIC}, {BEARER}",
        ),
        (
            "Digest x",
            "This server wants a user name and a password, or a bearer token.",
            f"{BASIC}, {BEARER}",
        ),
        (
            basic("user:wrong"),
            "This server wants a user name and a password.",
            f"{BASIC}, {BEARER}",
        ),
        (
            "Bearer x.y.z",
            "The bearer token is not valid.",
            f'{BASIC}, {BEARER}, error="invalid_token"',
        ),
    ],
)
async def test_who_fails_one_way_is_told_of_both(
    either: EitherAuthentication, given: str, message: str, challenge: str
) -> None:
    with pytest.raises(Unauthorized) as caught:
        await either.principal({"authorization": given})
    assert str(caught.value) == message
    assert caught.value.challenge == challenge


# What the settings ask for


def settings(*, basic_auth: bool = False, **oauth: object) -> Settings:
    user = BasicAuth(enable=basic_auth, username="user", password="password")
    return Settings(basic_auth=user, oauth=OAuth.model_validate(oauth))


@pytest.mark.parametrize(
    ("given", "schemes"),
    [
        (settings(), set()),
        (settings(basic_auth=True), {"BasicAuth"}),
        (settings(enable=True, issuers=(HERE,)), {"BearerAuth"}),
        (
            settings(basic_auth=True, enable=True, issuers=(HERE,)),
            {"BasicAuth", "BearerAuth"},
        ),
        (settings(issuers=(HERE,)), set()),
    ],
)
def test_the_settings_choose_the_ways(given: Settings, schemes: set[str]) -> None:
    assert set(tesp_api.make_authenticator(given, HandClock()).schemes) == schemes


def test_certificates_that_cannot_be_read_stop_the_start(tmp_path: Path) -> None:
    nowhere = settings(enable=True, issuers=(HERE,), ca_file=tmp_path / "none.pem")
    (tmp_path / "odd.pem").write_text("odd")
    odd = settings(enable=True, issuers=(HERE,), ca_file=tmp_path / "odd.pem")
    for given in (nowhere, odd):
        with pytest.raises(Misconfigured, match=r"oauth\.ca_file"):
            tesp_api.make_authenticator(given, HandClock())


# The rule of one file


def test_python_jose_is_imported_in_one_file_only() -> None:
    package = Path(tesp_api.__file__).parent
    importing = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if any(
            line.split()[1].partition(".")[0] == "jose"
            for line in file.read_text(encoding="utf-8").splitlines()
            if line.lstrip().startswith(("import ", "from ")) and len(line.split()) > 1
        )
    }
    assert importing == {"auth/signature.py"}
