"""Which paths there are, what else they refuse, and service-info."""

from datetime import UTC, datetime
from typing import Any

import pytest
from tes.models import ServiceInfo as TesServiceInfo

from tesp_api.api.service_info import ServiceInfo
from tesp_api.auth import BasicAuthentication
from tests.api.conftest import INFO, PREFIXES, Client, MakeClient

UNKNOWN = (
    "/nope",
    "/v2/tasks",
    "/tasks",
    "/ga4gh",
    "/ga4gh/tes/v1",
    "/ga4gh/tes/v1/",
    "/ga4gh/tes/v1/tasks/",
    "/ga4gh/tes/v1/ga4gh/tes/v1/tasks",
    "//v1/tasks",
    "/v1/tasks/x/y",
    "/v1/tasks/x/",
    "/v1/service-info/",
    "/docs",
    "/redoc",
    "/swagger-ui/",
    "/swagger-ui/../app.py",
    "/swagger-ui/LICENSE",
)


@pytest.mark.parametrize("path", UNKNOWN)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_10_1_an_unknown_path_is_404_before_authentication(
    make_client: MakeClient, path: str, method: str
) -> None:
    answer = await make_client(BasicAuthentication("u", "p")).request(method, path)
    assert answer.status_code == 404
    assert answer.json() == {
        "status": 404, "error": "Not Found", "message": "There is nothing at this path.",
    }  # fmt: skip


async def test_10_1_the_same_operations_are_under_both_prefixes(root: Client) -> None:
    for prefix in PREFIXES:
        for path in ("/tasks", "/service-info"):
            assert (await root.get(prefix + path)).status_code == 200


ALLOWED = (
    ("/tasks", "GET, HEAD, POST"),
    ("/tasks/x", "GET, HEAD"),
    ("/tasks/x:cancel", "POST"),
    ("/service-info", "GET, HEAD"),
)


@pytest.mark.parametrize(("path", "allow"), ALLOWED)
async def test_405_names_every_method_that_is_possible(tes: Client, path: str, allow: str) -> None:
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "MAKE"):
        answer = await tes.request(method, path)
        assert (answer.status_code == 405) == (method not in allow.split(", ")), method
        if answer.status_code == 405:
            assert answer.headers["allow"] == allow
            assert method == "HEAD" or answer.json()["status"] == 405


async def test_10_10_nothing_redirects(root: Client) -> None:
    for path in (*UNKNOWN, "/v1/tasks", "/v1/tasks/x", "/", "/v1", "/openapi.json/", "/healthz/"):
        for method in ("GET", "POST"):
            assert not (await root.request(method, path)).is_redirect


async def test_10_2_service_info_under_tasks_is_the_legacy_document_and_no_more(
    root: Client,
) -> None:
    answer = await root.get("/v1/tasks/service-info")
    assert answer.json() == {
        "name": "Example <TES>", "doc": "", "storage": ["http://", "https://"],
    }  # fmt: skip
    assert (await root.get("/ga4gh/tes/v1/tasks/service-info")).status_code == 404


async def test_10_2_service_info_is_the_1_1_document(tes: Client) -> None:
    assert (await tes.get("/service-info")).json() == {
        "id": "org.example.tes",
        "name": "Example <TES>",
        "type": {"group": "org.ga4gh", "artifact": "tes", "version": "1.1.0"},
        "organization": {"name": "Example", "url": "https://example.org"},
        "version": "1.2.3",
        "storage": ["http://", "https://"],
        "tesResources_backend_parameters": [],
    }


async def test_service_info_tells_all_that_is_set(make_client: MakeClient, prefix: str) -> None:
    since = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    info = ServiceInfo(
        id="i", name="n", version="1", organization_name="o", organization_url="https://o.example",
        description="d", contact_url="mailto:a@example.org", documentation_url="https://d.example",
        environment="test", created_at=since, updated_at=since, backend_parameters=("VmSize",),
    )  # fmt: skip
    given = (await make_client(info=info).get(f"{prefix}/service-info")).json()
    assert given["contactUrl"] == "mailto:a@example.org"
    assert given["createdAt"] == given["updatedAt"] == "2026-01-02T03:04:05Z"
    assert given["tesResources_backend_parameters"] == ["VmSize"]
    assert given["environment"] == "test"
    assert "" not in given.values()


async def test_service_info_satisfies_py_tes(tes: Client) -> None:
    given: dict[str, Any] = (await tes.get("/service-info")).json()
    parsed = TesServiceInfo(**{_snake(key): value for key, value in given.items()})
    assert parsed.id == INFO.id


def _snake(name: str) -> str:
    return "tes_resources_backend_parameters" if name.startswith("tesResources") else name


async def test_health_and_readiness_are_open_to_all(make_client: MakeClient) -> None:
    client = make_client(BasicAuthentication("u", "p"))
    assert (await client.get("/healthz")).json() == {"status": "alive"}
    assert (await client.get("/readyz")).json() == {"status": "ready"}
