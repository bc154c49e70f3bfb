"""Swagger UI at /, without anybody else's help."""

import re

import pytest

from tesp_api.api.browser import ASSETS, FILES
from tesp_api.auth import BasicAuthentication
from tests.api.conftest import Client, MakeClient


async def test_the_page_is_swagger_ui(root: Client) -> None:
    answer = await root.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Example &lt;TES&gt;</title>" in answer.text


async def test_everything_the_page_loads_is_here(root: Client) -> None:
    page = (await root.get("/")).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) == 4
    for link in links:
        assert not re.match(r"(\w+:)?//", link)
        assert (await root.get(f"/{link}")).status_code == 200


async def test_the_start_script_loads_nothing_from_elsewhere(root: Client) -> None:
    script = (await root.get("/swagger-ui/start.js")).text
    assert '"openapi.json"' in script
    assert "validatorUrl: null" in script
    assert "//" not in script


async def test_the_policy_lets_only_the_servers_own_scripts_run(root: Client) -> None:
    answer = await root.get("/")
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy["script-src"]
    inline = re.findall(r"<script>|<style|style=|\son\w+=", answer.text)
    assert inline == []


@pytest.mark.parametrize("name", FILES)
async def test_assets_have_their_types(root: Client, name: str) -> None:
    answer = await root.get(f"/swagger-ui/{name}")
    kinds = {"css": "text/css", "js": "text/javascript", "png": "image/png"}
    assert answer.headers["content-type"].startswith(kinds[name.rsplit(".", 1)[1]])
    assert answer.content == (ASSETS / name).read_bytes()


def test_the_vendored_files_come_with_their_licence() -> None:
    for name in ("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"):
        assert (ASSETS / name).read_text()


async def test_the_page_needs_no_credentials(make_client: MakeClient) -> None:
    client = make_client(BasicAuthentication("u", "p"))
    for path in ("/", "/openapi.json", "/swagger-ui/start.js"):
        assert (await client.get(path)).status_code == 200
