"""Reads a configuration file into settings, or into the list of all its faults."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path as FilePath
from typing import NamedTuple

from pydantic import ValidationError

from sidegate.config.document import MAX_DOCUMENT_BYTES, Document, Plain, read
from sidegate.config.faults import MAX_FAULTS, ConfigError, ConfigFault, Path, Wrong, in_order
from sidegate.config.lint import advice
from sidegate.config.model import Settings, repeated_names
from sidegate.config.suggestions import sentence, unknown_key


class Finding(NamedTuple):
    """A fault before its place in the document is known. `at_key`: the key itself is wrong, not its value."""

    path: Path
    message: str
    at_key: bool = False


class Examined(NamedTuple):
    """A valid configuration, and its lint warnings in the order of the document."""

    settings: Settings
    warnings: tuple[ConfigFault, ...]


def load(path: FilePath, environ: Mapping[str, str]) -> Settings:
    """Read a configuration file. Raises ConfigError with all its faults."""
    return parse(_content(path), str(path), environ)


def examine(path: FilePath, environ: Mapping[str, str]) -> Examined:
    """Read a configuration file as `load` does, and lint it. Raises ConfigError."""
    document, settings = _parsed(_content(path), str(path), environ)
    found = islice(advice(settings), MAX_FAULTS)
    return Examined(settings, tuple(in_order(document.fault(where, message) for where, message in found)))


def parse(text: str, name: str, environ: Mapping[str, str]) -> Settings:
    """Read a configuration; `name` is the file name in messages. Raises ConfigError with all its faults.

    After MAX_FAULTS the rest is only counted.
    """
    return _parsed(text, name, environ)[1]


def _parsed(text: str, name: str, environ: Mapping[str, str]) -> tuple[Document, Settings]:
    document = read(text, name, environ)
    try:
        settings = Settings.model_validate(document.plain)
    except ValidationError as error:
        raise ConfigError(_in_order(document, _found(error, document.plain))) from None
    if document.faults:
        raise ConfigError(_in_order(document, []))
    return document, settings


def _content(path: FilePath) -> str:
    name = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_DOCUMENT_BYTES + 1)
    except IsADirectoryError:
        raise ConfigError(
            [ConfigFault(name, None, None, "", "is a directory; expected a file, e.g. config.yaml")]
        ) from None
    except ValueError:
        raise ConfigError([ConfigFault(name, None, None, "", "cannot be read: no file has such a name")]) from None
    except OSError as error:
        raise ConfigError([ConfigFault(name, None, None, "", f"cannot be read: {error.strerror or error}")]) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace")
        place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise ConfigError([ConfigFault(name, *place, "", "is not UTF-8 here; save the file as UTF-8")]) from None


def _in_order(document: Document, found: Sequence[Finding]) -> list[ConfigFault]:
    """All faults in the order of the document, once each."""
    # A fault at or below a value that could not be read is a consequence of that.
    fresh = [each for each in found if not _follows(each.path, document)]
    faults = list(document.faults.values())[:MAX_FAULTS]
    faults += [
        document.fault(path, message or unknown_key(path), at_key=at_key)
        for path, message, at_key in fresh[:MAX_FAULTS]
    ]
    faults = in_order(faults)
    more = len(document.faults) + len(fresh) - MAX_FAULTS
    if more <= 0:
        return faults
    return [*faults[:MAX_FAULTS], ConfigFault(document.name, None, None, "", f"and {more} more faults")]


def _follows(path: Path, document: Document) -> bool:
    return any(path[:end] in document.faults for end in range(len(path) + 1))


def _found(error: ValidationError, plain: Plain) -> list[Finding]:
    found: list[Finding] = []
    for item in error.errors(include_url=False):
        path, cause = item["loc"], item.get("ctx", {}).get("error")
        if isinstance(cause, Wrong):
            found += [Finding((*path, *below), message) for below, message in cause.faults]
        elif isinstance(cause, ValueError):
            found.append(Finding(path, str(cause)))
        elif item["type"] == "extra_forbidden":
            found.append(Finding(path, "", at_key=True))
        else:
            found.append(Finding(path, sentence(path, item["type"])))
    policies = plain.get("policies") if isinstance(plain, dict) else None
    if isinstance(policies, list):
        # The model compares names only when every policy is valid; all faults are reported at once.
        names = [policy.get("name") if isinstance(policy, dict) else None for policy in policies]
        repeated = [Finding(("policies", *below), message) for below, message in repeated_names(names)]
        found += [each for each in repeated if each not in found]
    return found
