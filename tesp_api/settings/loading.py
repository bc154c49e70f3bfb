"""Reads the settings: the defaults, over them `[default]`, the profile, the environment.

dynaconf reads the file, and `.secrets.toml` beside it. Laying one part over the other is done here:
dynaconf would join an inherited list with its replacement, pass over a section whose name has a
typo, and not tell which section a value is from.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dynaconf import Dynaconf
from dynaconf.utils.parse_conf import DynaconfFormatError, DynaconfParseError
from pydantic import ValidationError

from tesp_api.domain.errors import Misconfigured
from tesp_api.settings import environment, mistakes
from tesp_api.settings.environment import Tree
from tesp_api.settings.keys import IGNORED
from tesp_api.settings.model import Keys, Settings
from tesp_api.settings.storage import Granted

FILE: Final = "settings.toml"
SECRETS_FILE: Final = ".secrets.toml"


@dataclass(frozen=True, slots=True)
class Layer:
    """Settings from one place; `origin` names it for people."""

    origin: str
    tree: Tree

    @property
    def stores(self) -> list[str]:
        """The keys by which this place names a store."""
        db = self.tree.get("db")
        wanted = ("mongodb_uri", "sqlite_path")
        return [key for key in wanted if isinstance(db, Mapping) and db.get(key)]


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Return the effective settings.

    Without `path` the file is TESP_SETTINGS_FILE, or `settings.toml` in the working directory if
    there is one. An empty variable counts as not set. Raises Misconfigured with one line for each
    mistake.
    """
    environ = {name: text for name, text in environ.items() if text}
    _refuse_options_of_dynaconf(environ)
    profile = (environ.get("FASTAPI_PROFILE", "default")).lower()
    layers = [*_file_layers(_files(path, environ), profile)]
    layers.append(Layer("the environment", environment.layer(environ)))
    tree = _merged(layers)
    without_effect = _without_effect(tree)
    found = environment.mistakes(environ) + _two_stores(layers)
    try:
        keys = Keys.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        found += mistakes.sentences(error, environ)
    if found:
        raise Misconfigured("\n".join(found))
    return Settings(**dict(keys), profile=profile, warnings=without_effect + _careless(keys))


def _refuse_options_of_dynaconf(environ: Mapping[str, str]) -> None:
    """Refuse what dynaconf would obey even against its caller."""
    given = sorted(name for name in environ if name.endswith("_FOR_DYNACONF"))
    if given:
        raise Misconfigured(f"{', '.join(given)} would change how the settings are read: unset it.")


def _files(path: Path | None, environ: Mapping[str, str]) -> Sequence[Path]:
    named = path or Path(environ.get("TESP_SETTINGS_FILE", FILE))
    if not named.is_file() and (path or "TESP_SETTINGS_FILE" in environ):
        raise Misconfigured(f"There is no settings file {named}.")
    return [file for file in (named, named.with_name(SECRETS_FILE)) if file.is_file()]


def _file_layers(files: Sequence[Path], profile: str) -> list[Layer]:
    read = [(file.name, _sections(file)) for file in files]
    names = {"default"}.union(*(sections for _, sections in read))
    if profile not in names:
        known = ", ".join(sorted(names))
        raise Misconfigured(
            f"FASTAPI_PROFILE is {profile!r}, but there is no section [{profile}], only {known}."
        )
    return [
        Layer(f"[{name}] of {file}", sections[name])
        for file, sections in read
        for name in dict.fromkeys(("default", profile))
        if name in sections
    ]


def _sections(file: Path) -> Mapping[str, Tree]:
    """Return the file's profiles by name, in lower case."""
    reader = Dynaconf(
        settings_files=[str(file.absolute())],
        environments=False,  # all sections as they stand
        envvar_prefix=None,
        loaders=[],
        core_loaders=["TOML"],
    )
    try:
        sections = {name.lower(): section for name, section in reader.as_dict().items()}
    except (OSError, ValueError, DynaconfFormatError, DynaconfParseError) as error:
        raise Misconfigured(f"{file} cannot be read: {error}.") from error
    for name, section in sections.items():
        if name in Keys.model_fields or not isinstance(section, dict):
            raise Misconfigured(f"`{name}` in {file} is in no profile: put it below [default].")
    return sections


def _two_stores(layers: Sequence[Layer]) -> list[str]:
    return [
        f"`db.mongodb_uri` and `db.sqlite_path` are both in {layer.origin}: there is one store."
        for layer in layers
        if len(layer.stores) > 1
    ]


def _merged(layers: Sequence[Layer]) -> Tree:
    """Lay the later layers over the earlier ones; whoever names a store last has chosen it."""
    tree: Tree = {}
    for layer in layers:
        if layer.stores:
            tree = _over(tree, {"db": {"mongodb_uri": None, "sqlite_path": None}})
        tree = _over(tree, layer.tree)
    return tree


def _over(below: Tree, above: Tree) -> Tree:
    """Join tables; replace everything else, lists too."""
    merged = below | above
    for key in below.keys() & above.keys():
        lower, upper = below[key], above[key]
        if isinstance(lower, dict) and isinstance(upper, dict):
            merged[key] = _over(lower, upper)
    return merged


def _without_effect(tree: Tree) -> tuple[str, ...]:
    """Take the keys out that are accepted without effect, and return a warning for each."""
    return tuple(
        f"`{name}` has no effect: {reason}."
        for name, reason in IGNORED.items()
        if _taken_out(tree, name)
    )


def _careless(keys: Keys) -> tuple[str, ...]:
    """Return a warning for what is allowed but hardly meant."""
    found = list(_idle_grants(keys))
    if keys.oauth.enable and keys.oauth.required_audience is None:
        found.append(
            "`oauth.required_audience` is not given: tokens that the issuers made for any other "
            "service are taken too."
        )
    return tuple(found)


def _idle_grants(keys: Keys) -> Iterator[str]:
    """Yield a warning for each credential or root that serves nobody."""
    storage = keys.storage
    owned = keys.basic_auth.enable or keys.oauth.enable
    granted: Mapping[str, Sequence[Granted]] = {
        "file.roots": storage.file.roots,
        "http": storage.http,
        "ftp": storage.ftp,
        "s3": storage.s3,
    }
    for name, entries in granted.items():
        for index, entry in enumerate(entries):
            if owned and entry.owners is None:
                yield (
                    f"`storage.{name}[{index}]` names no `owners`, so with authentication it "
                    "serves nobody."
                )
            elif not owned and "*" not in (entry.owners or "*"):
                yield (
                    f"`storage.{name}[{index}]` serves nobody: without authentication tasks have "
                    "no owner."
                )


def _taken_out(tree: Tree, name: str) -> bool:
    *sections, last = name.split(".")
    for section in sections:
        below = tree.get(section)
        if not isinstance(below, dict):
            return False
        tree = below
    return tree.pop(last, None) is not None
