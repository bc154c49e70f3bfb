"""What a request must obey beside the schema, applied to a random one that obeys the schema.

JSON Schema cannot say it: that paths differ, that a prefix is one, that a token was issued here.
All else of the request stays as it was drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tesp_api.api.pages import PageTokens

Json = dict[str, Any]


def lawful_query(query: Mapping[str, Any], tokens: PageTokens) -> Json:
    """Bring a token that was issued, and no more values of tags than keys."""
    changed = dict(query)
    if changed.get("page_token"):
        changed["page_token"] = tokens.issue(7)
    if "tag_value" in changed:
        changed["tag_value"] = changed["tag_value"][: len(changed.get("tag_key") or ())]
    return changed


def lawful_task(task: Mapping[str, Any]) -> Json:
    changed = dict(task)
    for name, change in _CHANGES.items():
        if changed.get(name):
            changed[name] = change(changed[name])
    return changed


def _executors(executors: Sequence[Json]) -> list[Json]:
    return [_executor(executor) for executor in executors]


def _executor(executor: Json) -> Json:
    paths = {
        name: _path(executor[name])
        for name in ("workdir", "stdin", "stdout", "stderr")
        if executor.get(name)
    }
    command = ["true", *(argument.replace("\0", "") for argument in executor["command"])]
    changed = {**executor, **paths, "image": "ubuntu:20.04", "command": command}
    if executor.get("env"):
        changed["env"] = {_name(name): _clean(value) for name, value in executor["env"].items()}
    return changed


def _inputs(inputs: Sequence[Json]) -> list[Json]:
    return [
        {**item, "path": f"/in/{index}/{_word(item['path'])}", **_source(item)}
        for index, item in enumerate(inputs)
    ]


def _source(item: Json) -> Json:
    literal = item.get("content") and item.get("type") != "DIRECTORY"
    return {} if literal else {"url": "file:///shared/x", "content": None}


def _outputs(outputs: Sequence[Json]) -> list[Json]:
    return [{**item, "path": _path(item["path"]), "url": "/shared/out"} for item in outputs]


def _resources(resources: Json) -> Json:
    return {**resources, "backend_parameters_strict": False}


def _tags(tags: Json) -> Json:
    return {key or "key": value for key, value in tags.items()}


_CHANGES = {
    "executors": _executors,
    "inputs": _inputs,
    "outputs": _outputs,
    "resources": _resources,
    "volumes": lambda volumes: [_path(volume) for volume in volumes],
    "tags": _tags,
}


def _path(drawn: str) -> str:
    return f"/work/{_word(drawn)}"


def _word(drawn: str) -> str:
    """Return something of what was drawn that can be a file's name."""
    return "_" + "".join(letter for letter in drawn if letter.isalnum())[:40]


def _name(drawn: str) -> str:
    return drawn.replace("=", "").replace("\0", "") or "NAME"


def _clean(drawn: str | None) -> str | None:
    return drawn and drawn.replace("\0", "")
