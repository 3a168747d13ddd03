"""Settings that an environment variable or a flag of `sidegate run` gives, and the origin of every setting.

The first of these counts: the flag, the file, the environment variable, the built-in default. An empty variable counts
as unset. Where the file has a reference such as `${PORT:-8080}` and the variable is set, the origin is the environment.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import NamedTuple

from sidegate.adjustable import ADJUSTABLE
from sidegate.config.document import Plain
from sidegate.config.environment import Substituted
from sidegate.config.faults import Path
from sidegate.config.section import Section
from sidegate.config.store_url import split_credentials

DEFAULT, FILE = "default", "file"


class ConfigSource(NamedTuple):
    """Where a sidecar's settings come from. `flags` maps flags of ADJUSTABLE to their values."""

    path: FilePath
    environ: Mapping[str, str]
    flags: Mapping[str, str]


class Overlaid(NamedTuple):
    """A document's content, completed by variables and flags; `given` has the paths of these and their origins."""

    plain: Plain
    given: Mapping[Path, str]


def overlaid(plain: Plain, environ: Mapping[str, str], flags: Mapping[str, str]) -> Overlaid:
    """The content with flags in place of its values, and with variables where it has none."""
    if not isinstance(plain, dict):
        return Overlaid(plain, {})
    whole, given = dict(plain), dict[Path, str]()

    def put(path: tuple[str, str], text: str, origin: str) -> None:
        section = whole.get(path[0], {})
        if isinstance(section, dict):  # else the section has a fault of its own
            whole[path[0]] = {**section, path[1]: Substituted(text)}
            given[path] = origin

    for path, variable, _ in ADJUSTABLE:
        text = environ.get(variable, "")
        if text and not _holds(whole, path) and not (path == ("store", "password") and _has_password(whole)):
            put(path, text, f"environment {variable}")
    for path, _, flag in ADJUSTABLE:
        if flag in flags:
            put(path, flags[flag], f"flag {flag}")
            if flag == "--redis":
                credentials = split_credentials(flags[flag])
                for key in ("username", "password"):
                    if text := getattr(credentials, key):
                        put(("store", key), text, f"flag {flag}")
    return Overlaid(whole, given)


def origins(model: type[Section], content: Overlaid) -> dict[str, str]:
    """The origin of every setting, by its path such as `listen.port`: `default`, `file`, `environment PORT`, …"""
    found: dict[str, str] = {}
    whole = content.plain if isinstance(content.plain, dict) else {}
    for section, field in model.model_fields.items():
        annotation = field.annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            found[section] = FILE if section in whole else DEFAULT
            continue
        for name, setting in annotation.model_fields.items():
            path = (section, setting.alias or name)
            found[".".join(path)] = content.given.get(path) or _in_file(_value(whole, path))
    return {**found, **dict(_from_store_url(whole, found))}


def _from_store_url(whole: dict[str, Plain], found: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Credentials in the store's URL have its origin, unless they are given apart."""
    url = _value(whole, ("store", "url"))
    if isinstance(url, str):
        credentials = split_credentials(url)
        for key in ("username", "password"):
            if getattr(credentials, key) and not _value(whole, ("store", key)):
                yield f"store.{key}", found["store.url"]


def _in_file(value: Plain) -> str:
    if value is None:
        return DEFAULT
    variables = getattr(value, "variables", ())
    return f"environment {', '.join(variables)}" if variables else FILE


def _value(whole: dict[str, Plain], path: tuple[str, str]) -> Plain:
    section = whole.get(path[0])
    return section.get(path[1]) if isinstance(section, dict) else None


def _holds(whole: dict[str, Plain], path: tuple[str, str]) -> bool:
    section = whole.get(path[0])
    return isinstance(section, dict) and path[1] in section


def _has_password(whole: dict[str, Plain]) -> bool:
    url = _value(whole, ("store", "url"))
    return isinstance(url, str) and bool(split_credentials(url).password)
