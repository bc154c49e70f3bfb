"""Bob may neither read nor write what is Alice's, however he spells it; each has their own."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from tests.auth.test_real_issuer import Server, start
from tests.e2e.data_sides import Disk, Objects, Side, Site, data_stack, entry
from tests.e2e.stack import ENDS, Json, Stack, fastest, shell
from tests.needs import need

SECRET: Final = b"what only Alice knows\n"
pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A server for both, and the files of each on the other sides, by a name of the side."""

    stack: Stack
    issuer: Server
    site: Site
    files: Path
    alice: str
    bob: str

    def own(self, name: str) -> str:
        """Return the name that stands for an owner in a prefix."""
        return quote(f"{self.issuer.url}|{name}", safe="")

    def sides(self, name: str) -> Mapping[str, Side]:
        """Return what is an owner's: by name, and granted to that owner alone."""
        web, own = self.site.web, self.own(name)
        bucket = self.site.minio.bucket("shared")
        return {
            "s3": Below(Objects("s3", bucket), own),
            "s3 granted": Objects("s3", self.site.minio.bucket(f"{name}s")),
            "http": Below(Disk(f"{web.base}/private/homes", web.files / "homes"), own),
            "http granted": Disk(f"{web.base}/private/{name}", web.files / name),
            "file": Below(Disk((self.files / "homes").as_uri(), self.files / "homes"), own),
            "file granted": Disk((self.files / name).as_uri(), self.files / name),
        }

    def ends(self, name: str, requests: Sequence[Json]) -> Sequence[Json | None]:
        """Return how the tasks of one of them end; None for what is refused at once."""
        self.stack.api.speak_as({"alice": self.alice, "bob": self.bob}[name])
        answers = [self.stack.api.answer(request) for request in requests]
        assert {answer.status_code for answer in answers} <= {200, 400}, answers
        ids = [answer.json().get("id") for answer in answers]
        api = self.stack.api
        for one in filter(None, ids):
            api.wait(one, ENDS, patience_s=120)
        return [one and api.get(one) for one in ids]


@dataclass(frozen=True)
class Below:
    """A directory of a side."""

    side: Disk | Objects
    top: str

    def url(self, path: str) -> str:
        return self.side.url(f"{self.top}/{path}")

    def put(self, path: str, content: bytes) -> None:
        self.side.put(f"{self.top}/{path}", content)

    def get(self, path: str) -> bytes:
        return self.side.get(f"{self.top}/{path}")

    def names(self, below: str) -> Sequence[str]:
        return self.side.names(f"{self.top}/{below}")


@pytest.fixture(scope="module")
def shared(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    need("pulsar")
    need("oidc")
    directory = tmp_path_factory.mktemp("shared")
    files = directory / "files"
    with ExitStack() as running:
        issuer = start()
        running.callback(issuer.end)
        alice, bob = (f"{issuer.url}|{name}" for name in ("alice", "bob"))
        settings = _settings(files, alice, bob)
        settings |= {
            "TESP_OAUTH__ENABLE": "true",
            "TESP_OAUTH__ISSUERS": json.dumps([issuer.url]),
            "TESP_OAUTH__REQUIRED_AUDIENCE": "tes",
            "TESP_STORAGE__ATTEMPTS": "2",
        }
        entries = _entries(site, alice, bob)
        stack = running.enter_context(data_stack(directory / "run", fastest(), entries, **settings))
        tokens = {name: issuer.token(username=name) for name in ("alice", "bob")}
        made = Shared(stack=stack, issuer=issuer, site=site, files=files, **tokens)
        for name in ("alice", "bob"):
            for side in made.sides(name).values():
                side.put("d/secret", SECRET if name == "alice" else b"Bob's\n")
        (files / "homes" / made.own("bob") / "link").symlink_to(files / "alice")
        (files / "bob" / "link").symlink_to(files / "homes" / made.own("alice"))
        yield made


def _settings(files: Path, alice: str, bob: str) -> dict[str, str]:
    homes = {"path": str(files / "homes" / "{owner}"), "owners": ["*"]}
    granted = [
        {"path": str(files / name), "owners": [owner], "mode": mode}
        for name, owner, mode in (("alice", alice, "copy"), ("bob", bob, "bind"))
    ]
    return {"TESP_STORAGE__FILE__ROOTS": json.dumps([homes, *granted])}


def _entries(site: Site, alice: str, bob: str) -> dict[str, list[dict[str, Any]]]:
    private = f"{site.web.base}/private"
    user = {"username": site.web.username, "password": site.web.password}
    owners = (("alice", [alice]), ("bob", [bob]))
    return {
        "http": [
            {"prefixes": [f"{private}/homes/{{owner}}/"], "owners": ["*"], **user},
            *({"prefixes": [f"{private}/{name}/"], "owners": who, **user} for name, who in owners),
            {"prefixes": [f"{site.web.base}/elsewhere/"], "owners": ["*"], **user},
        ],
        "s3": [
            entry(site.minio, "s3://shared/{owner}/", owners=["*"]),
            *(entry(site.minio, f"s3://{name}s/", owners=who) for name, who in owners),
            entry(site.minio, "s3://nobodys/"),
        ],
    }


def reading(url: str, **more: str) -> Json:
    return shell("cat $(find -L /in -type f)", inputs=[{"path": "/in/x", "url": url, **more}])


def writing(url: str, **more: str) -> Json:
    return shell(
        "mkdir -p /out/x; echo forged > /out/x/secret",
        outputs=[{"path": "/out/x/secret", "url": url, **more}],
        volumes=["/out"],
    )


def spellings(shared: Shared, kind: str, name: str) -> Sequence[str]:
    """Return URLs that might lead to what is Alice's."""
    alice, bob = shared.own("alice"), shared.own("bob")
    web, files = shared.site.web, shared.files
    private = f"{web.base}/private"
    twice = [quote(own) for own in (alice, bob)]
    return {
        "s3": [
            f"s3://shared/{alice}/{name}",
            f"s3://shared//{alice}/{name}",
            f"S3://shared/{alice}/{name}",
            f"gs://shared/{alice}/{name}",
            f"s3://shared/{bob}/../{alice}/{name}",
            f"s3://shared/{bob}/%2e%2e/{alice}/{name}",
            f"s3://shared/{bob}/..%2f{alice}/{name}",
            f"s3://shared/{bob}/..\\{alice}\\{name}",
            f"s3://shared/{bob}//../../{alice}/{name}",
            f"s3://alices/{name}",
            f"s3://alices//{name}",
            f"s3://ALICES/{name}",
            f"s3://bobs/../alices/{name}",
            f"s3://bobs/%2e%2e/alices/{name}",
            f"s3://bobs/..%2falices%2f{name}",
            f"s3://bobs//alices/{name}",
            f"s3://nobodys/{name}",
        ],
        "http": [
            f"{private}/alice/{name}",
            f"{private}//alice/{name}",
            f"{web.base}//private/alice/{name}",
            f"{private}/%61lice/{name}",
            f"{private}/bob/../alice/{name}",
            f"{private}/bob/%2e%2e/alice/{name}",
            f"{private}/bob/..%2falice/{name}",
            f"{private}/bob/.%2e/alice/{name}",
            f"{private}/bob/%252e%252e/alice/{name}",
            f"{private}/bob//../alice/{name}",
            f"{private}/bob/..;/alice/{name}",
            f"{private}/homes/{twice[0]}/{name}",
            f"{private}/homes/{twice[1]}/../{twice[0]}/{name}",
            f"{private}/homes/{twice[1]}/%2E%2E/{twice[0]}/{name}",
            f"{web.base}/moved/private/alice/{name}",
            f"{web.base}/elsewhere/private/alice/{name}",
        ],
        "file": [
            f"{files}/alice/{name}",
            f"file://{files}/alice/{name}",
            f"file://localhost{files}/alice/{name}",
            f"file:///{files}/alice/{name}",
            f"file://{files}/%61lice/{name}",
            f"file://{files}/bob/../alice/{name}",
            f"file://{files}/bob/%2e%2e/alice/{name}",
            f"file://{files}/bob/..%2falice/{name}",
            f"{files}/bob/%2e%2e/alice/{name}",
            f"{files}/bob//../alice/{name}",
            f"{files}/bob/link/{name}",
            f"file://{files}/homes/{twice[1]}/link/{name}",
            f"file://{files}/homes/{twice[1]}/../{twice[0]}/{name}",
            f"file://{files}/homes/{twice[0]}/{name}",
            f"{files}/homes/{alice}/{name}",
        ],
    }[kind]


def held(shared: Shared) -> dict[str, bytes]:
    """Return all that is Alice's."""
    return {
        f"{where}: {name}": side.get(f"d/{name}")
        for where, side in shared.sides("alice").items()
        for name in side.names("d")
    }


def test_each_reads_and_writes_what_is_their_own(shared: Shared) -> None:
    for name in ("alice", "bob"):
        sides = shared.sides(name)
        content = sides["s3"].get("d/secret").decode()
        reads = shared.ends(name, [reading(side.url("d/secret")) for side in sides.values()])
        assert [one and one["logs"][0]["logs"][0].get("stdout") for one in reads] == [content] * 6
        writes = shared.ends(name, [writing(side.url("new")) for side in sides.values()])
        assert [one and one["state"] for one in writes] == ["COMPLETE"] * 6
        assert {side.get("new") for side in sides.values()} == {b"forged\n"}


@pytest.mark.parametrize("kind", ["s3", "http", "file"])
def test_nobody_reads_what_is_another_s(shared: Shared, kind: str) -> None:
    urls = spellings(shared, kind, "d/secret")
    directories = [url.removesuffix("/secret") + end for url in urls for end in ("", "/")]
    requests = [reading(url) for url in urls]
    requests += [reading(url, type="DIRECTORY") for url in directories]
    ended = shared.ends("bob", requests)
    for url, end in zip([*urls, *directories], ended, strict=True):
        if end is not None:
            assert (url, end["state"]) != (url, "COMPLETE")
            assert SECRET.decode().strip() not in json.dumps(end)


@pytest.mark.parametrize("kind", ["s3", "http", "file"])
def test_nobody_writes_where_it_is_another_s(shared: Shared, kind: str) -> None:
    before = held(shared)
    requests = [
        *(writing(url) for url in spellings(shared, kind, "d/secret")),
        *(writing(url) for url in spellings(shared, kind, "d/new")),
        *(
            writing(url, path="/out/x/*", path_prefix="/out/x")
            for url in spellings(shared, kind, "d")
        ),
    ]
    shared.ends("bob", requests)
    assert held(shared) == before


def test_a_link_in_one_s_own_directory_does_not_lead_to_another_s(shared: Shared) -> None:
    sides = shared.sides("bob")
    own = [sides[name].url("").rstrip("/") for name in ("file", "file granted")]
    for url, end in zip(
        own, shared.ends("bob", [reading(url, type="DIRECTORY") for url in own]), strict=True
    ):
        assert end is not None
        assert SECRET.decode().strip() not in json.dumps(end), url


def test_a_redirect_takes_no_credentials_to_another_origin(shared: Shared) -> None:
    """Everybody's may be used to ask the first; the second is asked without, and says no."""
    url = f"{shared.site.web.base}/elsewhere/private/alice/d/secret"
    (ended,) = shared.ends("alice", [reading(url)])
    assert ended is not None
    assert ended["state"] == "SYSTEM_ERROR"
    assert "401" in str(ended["logs"])


def test_what_nobody_is_granted_serves_nobody(shared: Shared) -> None:
    for name in ("alice", "bob"):
        (ended,) = shared.ends(name, [reading("s3://nobodys/x")])
        assert ended is not None
        assert ended["state"] == "SYSTEM_ERROR"
        assert "no storage.s3 of this server serves it" in str(ended["logs"])
