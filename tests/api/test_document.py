"""/openapi.json against the standard's own document, and against what the server does.

`task_execution_service.openapi.yaml` is the document of TES 1.1 (with the schemas of GA4GH
service-info 1.0 that it refers to), Apache License 2.0, by the GA4GH Cloud Work Stream.
"""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tesp_api.auth import BasicAuthentication
from tesp_api.domain.parsing import parse
from tesp_api.domain.rules import Policy
from tests.api.conftest import Client, MakeClient, create

STANDARD = yaml.safe_load(
    Path(__file__).with_name("task_execution_service.openapi.yaml").read_text()
)

Json = dict[str, Any]


@pytest.fixture
async def served(root: Client) -> Json:
    answer = await root.get("/openapi.json")
    assert answer.status_code == 200
    document: Json = answer.json()
    return document


class Document:
    """An OpenAPI document with its references followed."""

    def __init__(self, document: Json) -> None:
        self._document = document

    def follow(self, node: Json) -> Json:
        """Return what `node` is, with `allOf` merged and null taken away."""
        if "$ref" in node:
            target: Any = self._document
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step]
            return self.follow(target)
        if "allOf" in node:
            return self._merged([self.follow(part) for part in node["allOf"]])
        if "anyOf" in node:
            some = [part for part in node["anyOf"] if part.get("type") != "null"]
            return self.follow(some[0])
        if isinstance(node.get("type"), list):
            (kind,) = set(node["type"]) - {"null"}
            return node | {"type": kind}
        return node

    def _merged(self, parts: list[Json]) -> Json:
        merged: Json = {"type": "object", "properties": {}, "required": []}
        for part in parts:
            merged["properties"] |= part.get("properties", {})
            merged["required"] += part.get("required", [])
        return merged

    def operations(self) -> Iterator[tuple[str, Json]]:
        for path, item in self._document["paths"].items():
            for method in ("get", "post", "put", "delete", "patch"):
                if method in item:
                    yield f"{method} {path}", item[method]


def differences(where: str, theirs: Json, ours: Json, a: Document, b: Document) -> Iterator[str]:
    """Yield what the standard says of a schema and we do not, however deep."""
    theirs, ours = a.follow(theirs), b.follow(ours)
    for key in ("type", "format", "enum"):
        if key in theirs and theirs[key] != _constant(ours, key):
            yield f"{where}: {key} {theirs[key]} is {ours.get(key)}"
    if set(theirs.get("required", ())) != set(ours.get("required", ())):
        yield f"{where}: required {theirs.get('required')} is {ours.get('required')}"
    if "items" in theirs:
        yield from differences(f"{where}[]", theirs["items"], ours.get("items", {}), a, b)
    if "additionalProperties" in theirs:
        inner = ours.get("additionalProperties", {})
        yield from differences(f"{where}{{}}", theirs["additionalProperties"], inner, a, b)
    for name, schema in theirs.get("properties", {}).items():
        if name not in ours.get("properties", {}):
            yield f"{where}.{name}: missing"
        else:
            yield from differences(f"{where}.{name}", schema, ours["properties"][name], a, b)


def _constant(schema: Json, key: str) -> Any:
    return [schema["const"]] if key == "enum" and "const" in schema else schema.get(key)


def parameters(operation: Json, document: Document) -> Mapping[str, Json]:
    found = [document.follow(each) for each in operation.get("parameters", ())]
    return {f"{each['in']} {each['name']}": each for each in found}


def body_of(part: Json) -> Json:
    schema: Json = part["content"]["application/json"]["schema"]
    return schema


def test_every_component_is_the_standards_with_additions_only(served: Json) -> None:
    a, b = Document(STANDARD), Document(served)
    components = served["components"]["schemas"]
    found = []
    for name, schema in STANDARD["components"]["schemas"].items():
        if name in ("Service", "ServiceType"):  # parts of tesServiceInfo and tesServiceType
            continue
        found += differences(name, schema, components.get(name, {}), a, b)
    assert found == []


def test_every_operation_is_the_standards_with_additions_only(served: Json) -> None:
    a, b = Document(STANDARD), Document(served)
    ours = dict(b.operations())
    found = []
    for name, operation in a.operations():
        found += operation_differences(name, operation, ours.get(name, {}), a, b)
    assert found == []


def operation_differences(
    name: str, theirs: Json, ours: Json, a: Document, b: Document
) -> Iterator[str]:
    if theirs["operationId"] != ours.get("operationId") or theirs["tags"] != ours.get("tags"):
        yield f"{name}: another operation"
        return
    given = parameters(ours, b)
    for where, parameter in parameters(theirs, a).items():
        if where not in given:
            yield f"{name}: no parameter {where}"
            continue
        if parameter.get("required", False) != given[where].get("required", False):
            yield f"{name} {where}: required"
        yield from differences(f"{name} {where}", parameter["schema"], given[where]["schema"], a, b)
    if "requestBody" in theirs:
        yield from differences(
            f"{name} body", body_of(theirs["requestBody"]), body_of(ours["requestBody"]), a, b
        )
    yield from differences(
        f"{name} 200", body_of(theirs["responses"][200]), body_of(ours["responses"]["200"]), a, b
    )


def test_the_comparison_sees_what_is_missing_or_other() -> None:
    a = Document(STANDARD)
    for name, change in (
        ("tesInput", {"properties": {}}),
        ("tesInput", {"required": []}),
        ("tesState", {"enum": ["UNKNOWN"]}),
        ("tesFileType", {"type": "integer"}),
    ):
        changed = deepcopy(STANDARD)
        changed["components"]["schemas"][name] |= change
        schema = {"$ref": f"#/components/schemas/{name}"}
        assert list(differences(name, schema, schema, a, Document(changed)))


def test_the_servers_are_both_prefixes_the_standards_first(served: Json) -> None:
    assert [server["url"] for server in served["servers"]] == ["/ga4gh/tes/v1", "/v1"]


def test_the_document_speaks_of_nothing_that_is_not_in_it(served: Json) -> None:
    text = json.dumps(served)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(served["components"]["schemas"])


def test_every_property_of_a_task_is_described_and_nothing_is_of_python(served: Json) -> None:
    for name in ("tesTask", "tesExecutor", "tesInput", "tesOutput"):
        properties = served["components"]["schemas"][name]["properties"]
        free = {"name", "description", "type", "env", "resources", "state"}
        assert {key for key, each in properties.items() if "description" not in each} <= free
        assert not any("title" in each for each in properties.values())


async def test_an_open_server_asks_for_no_credentials(served: Json) -> None:
    assert "security" not in served
    assert "securitySchemes" not in served["components"]


async def test_the_document_tells_how_to_log_in(make_client: MakeClient) -> None:
    client = make_client(BasicAuthentication("u", "p"))
    served = (await client.get("/openapi.json")).json()
    assert served["security"] == [{"BasicAuth": []}]
    assert served["components"]["securitySchemes"] == {
        "BasicAuth": {"type": "http", "scheme": "basic"}
    }


async def test_the_examples_can_be_posted_as_they_are(tes: Client, served: Json) -> None:
    examples = body_of_post(served)["examples"]
    assert len(examples) >= 2
    for example in examples.values():
        parse(json.dumps(example["value"]).encode(), Policy())
        await create(tes, **example["value"])


def test_the_first_example_needs_nothing_from_elsewhere(served: Json) -> None:
    first = next(iter(body_of_post(served)["examples"].values()))["value"]
    assert all("url" not in item for item in first["inputs"])
    assert "outputs" not in first


def body_of_post(served: Json) -> Json:
    content = served["paths"]["/tasks"]["post"]["requestBody"]["content"]
    body: Json = content["application/json"]
    return body
