"""Reads a configuration file into settings, or into the list of all its faults."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path as FilePath
from types import MappingProxyType
from typing import NamedTuple

from pydantic import ValidationError

from sidegate.config.document import MAX_DOCUMENT_BYTES, MERGE_KEY, Document, Plain, read
from sidegate.config.faults import MAX_FAULTS, ConfigError, ConfigFault, Path, Wrong, in_order, written
from sidegate.config.file_signature import NamedFiles
from sidegate.config.lint import advice
from sidegate.config.model import Settings, repeated_names
from sidegate.config.origins import ConfigSource, origins, overlaid
from sidegate.config.page_files import FileContext
from sidegate.config.suggestions import sentence, unknown_key

_WITHOUT_POLICIES = (
    "has no policies, while policies are active: the file may be emptied or cut off. The active configuration stays; "
    "write policies: [] to remove all policies"
)
_EMPTY = "is empty; expected settings, at least policies: [] for a sidecar that limits nothing"
_CUT = (
    "the file ends inside a value, without a line end, as a file does that was copied in part; end it with a line end. "
    "A reload refuses it"
)

_NO_FLAGS: Mapping[str, str] = MappingProxyType({})


class Finding(NamedTuple):
    """A fault before its place in the document is known. `at_key`: the key itself is wrong, not its value."""

    path: Path
    message: str
    at_key: bool = False


class Examined(NamedTuple):
    """A valid configuration, and its lint warnings in the order of the document."""

    settings: Settings
    warnings: tuple[ConfigFault, ...]


def load(path: FilePath, environ: Mapping[str, str], flags: Mapping[str, str] = _NO_FLAGS) -> Settings:
    """Read a configuration file. Raises ConfigError with all its faults."""
    return parse(_content(path), str(path), environ, flags)


def load_edit(source: ConfigSource, before: Settings, named: NamedFiles) -> Settings:
    """Read an edit of a configuration that is active as `before`. Raises ConfigError as `load` does.

    Adds the files that it names to `named`, also where it has faults.

    Also raises it where the file was probably emptied or cut off. `policies: []`, written out, removes all policies.
    """
    text = _content(source.path)
    document, settings = _parsed(text, str(source.path), source.environ, source.flags, named)
    if before.policies and not settings.policies and "policies" not in settings.model_fields_set:
        raise ConfigError([document.fault((), _WITHOUT_POLICIES)])
    if document.is_cut:
        raise ConfigError([_cut_fault(document, text)])
    return settings


def examine(path: FilePath, environ: Mapping[str, str], flags: Mapping[str, str] = _NO_FLAGS) -> Examined:
    """Read a configuration file as `load` does, and lint it. Raises ConfigError."""
    text = _content(path)
    document, settings = _parsed(text, str(path), environ, flags)
    warnings = [document.fault(where, message) for where, message in islice(advice(settings), MAX_FAULTS)]
    if document.is_cut:
        warnings.append(_cut_fault(document, text))
    return Examined(settings, tuple(in_order(warnings)))


def parse(text: str, name: str, environ: Mapping[str, str], flags: Mapping[str, str] = _NO_FLAGS) -> Settings:
    """Read a configuration; `name` is the file name in messages. Raises ConfigError with all its faults.

    An empty document is a fault: it is more often an accident than a wish to limit nothing.

    After MAX_FAULTS the rest is only counted.
    """
    return _parsed(text, name, environ, flags)[1]


def _parsed(
    text: str, name: str, environ: Mapping[str, str], flags: Mapping[str, str], named: NamedFiles | None = None
) -> tuple[Document, Settings]:
    document = read(text, name, environ)
    if document.is_empty:
        raise ConfigError([document.fault((), _EMPTY)])
    content = overlaid(document.plain, environ, flags)
    for path in content.given:
        document.faults.pop(path, None)  # of a value that a flag replaces
    try:
        settings = Settings.model_validate(
            content.plain, context=FileContext(FilePath(name).parent, {} if named is None else named)
        )
    except ValidationError as error:
        raise ConfigError(_in_order(document, _found(error, document.plain), content.given)) from None
    if document.faults:
        raise ConfigError(_in_order(document, [], {}))
    settings.set_origins(origins(Settings, content))
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
    except FileNotFoundError:
        message = "does not exist; sidegate init writes a configuration"
        raise ConfigError([ConfigFault(name, None, None, "", message)]) from None
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


def _cut_fault(document: Document, text: str) -> ConfigFault:
    return ConfigFault(document.name, text.count("\n") + 1, len(text) - text.rfind("\n"), "", _CUT)


def _in_order(document: Document, found: Sequence[Finding], given: Mapping[Path, str]) -> list[ConfigFault]:
    """All faults in the order of the document, once each; before them those of variables and flags (`given`)."""
    fresh = [each for each in found if not _follows(each, document)]
    faults = list(document.faults.values())[:MAX_FAULTS]
    faults += [
        ConfigFault(given[path], None, None, written(path), message)
        if path in given
        else document.fault(path, message or unknown_key(path, anchored=path in document.anchored), at_key=at_key)
        for path, message, at_key in fresh[:MAX_FAULTS]
    ]
    faults = in_order(faults)
    more = len(document.faults) + len(fresh) - MAX_FAULTS
    if more <= 0:
        return faults
    return [*faults[:MAX_FAULTS], ConfigFault(document.name, None, None, "", f"and {more} more faults")]


def _follows(found: Finding, document: Document) -> bool:
    """Whether a fault is a consequence of one in the document: below a value that could not be read, or of a merge."""
    path = found.path
    if (*path[:-1], MERGE_KEY) in document.faults and not document.holds(path):
        return True
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
