"""Against an OpenID Connect server that knows nothing of us: discovery, keys, tokens."""

import json
import os
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

import pytest

from tesp_api.auth import BearerAuthentication, Discovery, Issuer, Terms, Unauthorized
from tesp_api.clock import SystemClock
from tesp_api.domain.errors import IssuerUnreachable
from tests.needs import OIDC_ISSUER, need


@dataclass
class Server:
    """The issuer's process; it ends with its standard input."""

    process: subprocess.Popen[str]
    url: str

    def token(self, **asked: str) -> str:
        form = {"grant_type": "client_credentials", "client_id": "client", **asked}
        with urllib.request.urlopen(f"{self.url}/token", urlencode(form).encode()) as answer:
            return str(json.load(answer)["access_token"])

    def add_key(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("another\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "another\n"

    def end(self) -> None:
        self.process.communicate()


def start() -> Server:
    process = subprocess.Popen(
        ["node", str(OIDC_ISSUER), os.environ["TESP_TEST_OIDC_DIR"]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return Server(process, process.stdout.readline().strip())


@pytest.fixture
def server() -> Iterator[Server]:
    need("oidc")
    server = start()
    yield server
    server.end()


class SkippingClock(SystemClock):
    """The machine's time, with waits of ours left out."""

    def __init__(self) -> None:
        self.skipped_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped_s


@pytest.fixture
def clock() -> SkippingClock:
    return SkippingClock()


@pytest.fixture
def bearer(server: Server, clock: SkippingClock) -> BearerAuthentication:
    terms = Terms(audience="tes", admin_claim="groups", admin_value="operators")
    discovery = Discovery(ssl.create_default_context())
    return BearerAuthentication(
        [Issuer(server.url, discovery, clock, 300)], terms, clock, ttl_s=300
    )


def headers(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_a_token_of_a_client_and_one_of_a_user_are_believed(
    server: Server, bearer: BearerAuthentication
) -> None:
    client = await bearer.principal(headers(server.token()))
    user = await bearer.principal(
        headers(server.token(grant_type="password", username="alice", password="x"))
    )
    assert (client.owner, client.sees_all) == (f"{server.url}|client", False)
    assert (user.owner, user.sees_all) == (f"{server.url}|alice", False)


async def test_the_issuers_groups_make_an_administrator(
    server: Server, bearer: BearerAuthentication
) -> None:
    users = await bearer.principal(headers(server.token(groups="users")))
    both = await bearer.principal(headers(server.token(groups="users,operators")))
    assert not users.sees_all
    assert both.sees_all


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"audience": "another"}, "The bearer token is not for this server."),
        ({"expires_in": "-3600"}, "The bearer token has expired."),
    ],
)
async def test_tokens_for_others_and_of_yesterday_are_refused(
    server: Server, bearer: BearerAuthentication, asked: dict[str, str], message: str
) -> None:
    with pytest.raises(Unauthorized) as caught:
        await bearer.principal(headers(server.token(**asked)))
    assert str(caught.value) == message


async def test_tokens_by_a_key_that_came_later_are_believed(
    server: Server, bearer: BearerAuthentication, clock: SkippingClock
) -> None:
    await bearer.principal(headers(server.token()))
    server.add_key()
    clock.skipped_s += 10
    for name in ("a", "b", "c", "d"):
        principal = await bearer.principal(headers(server.token(client_id=name)))
        assert principal.owner == f"{server.url}|{name}"


async def test_when_the_issuer_is_gone_its_tokens_are_good_by_the_keys_that_are_known(
    server: Server, bearer: BearerAuthentication, clock: SkippingClock
) -> None:
    known, unseen, late = (server.token(client_id=name) for name in ("a", "b", "c"))
    await bearer.principal(headers(known))
    server.end()
    for token in (known, unseen):
        await bearer.principal(headers(token))
    clock.skipped_s += 300 + 3600
    with pytest.raises(IssuerUnreachable):
        await bearer.principal(headers(late))
