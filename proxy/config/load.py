"""From a file to settings, or to everything that is wrong with it."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from proxy.config.document import MAX_DOCUMENT_BYTES, Document, Plain, read
from proxy.config.faults import MAX_FAULTS, ConfigError, Fault, Path, Wrong, in_order, shown
from proxy.config.model import Settings, repeated_names

_SENTENCES = {
    "missing": "is missing",
    "model_type": "is not a mapping; expected keys and values, e.g. {port: 8080}",
    "string_unicode": "holds half a character (a lone surrogate); expected text",
}

Found = tuple[Path, str, bool]  # path, message, whether the key itself is wrong


def load(path: FilePath, environ: Mapping[str, str]) -> Settings:
    """Read a configuration file. Raises ConfigError with all its faults."""
    name = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_DOCUMENT_BYTES + 1)
    except IsADirectoryError:
        raise ConfigError([Fault(name, None, None, "", "is a directory; expected a file, e.g. config.yaml")]) from None
    except ValueError:
        raise ConfigError([Fault(name, None, None, "", "cannot be read: no file has such a name")]) from None
    except OSError as error:
        raise ConfigError([Fault(name, None, None, "", f"cannot be read: {error.strerror or error}")]) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace")
        place = (before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise ConfigError([Fault(name, *place, "", "is not UTF-8 here; save the file as UTF-8")]) from None
    return parse(text, name, environ)


def parse(text: str, name: str, environ: Mapping[str, str]) -> Settings:
    """Read a configuration; `name` is what positions call it. Raises ConfigError with all its faults.

    After MAX_FAULTS the rest is only counted.
    """
    document = read(text, name, environ)
    try:
        settings = Settings.model_validate(document.plain)
    except ValidationError as error:
        raise ConfigError(_in_order(document, _found(error, document.plain))) from None
    if document.faults:
        raise ConfigError(_in_order(document, []))
    return settings


def _in_order(document: Document, found: Sequence[Found]) -> list[Fault]:
    """All faults in the order of the document, once each."""
    # What stands at or below a value that could not be read is a consequence.
    fresh = [each for each in found if not _follows(each[0], document)]
    faults = list(document.faults.values())[:MAX_FAULTS]
    faults += [
        document.fault(path, message or _unknown_key(path), at_key=at_key)
        for path, message, at_key in fresh[:MAX_FAULTS]
    ]
    faults = in_order(faults)
    more = len(document.faults) + len(fresh) - MAX_FAULTS
    if more <= 0:
        return faults
    return [*faults[:MAX_FAULTS], Fault(document.name, None, None, "", f"and {more} more faults")]


def _follows(path: Path, document: Document) -> bool:
    return any(path[:end] in document.faults for end in range(len(path) + 1))


def _found(error: ValidationError, plain: Plain) -> list[Found]:
    found: list[Found] = []
    for item in error.errors(include_url=False):
        path, cause = item["loc"], item.get("ctx", {}).get("error")
        if isinstance(cause, Wrong):
            found += [((*path, *below), message, False) for below, message in cause.faults]
        elif isinstance(cause, ValueError):
            found.append((path, str(cause), False))
        elif item["type"] == "extra_forbidden":
            found.append((path, "", True))
        else:
            found.append((path, _SENTENCES.get(item["type"], "is not valid here"), False))
    policies = plain.get("policies") if isinstance(plain, dict) else None
    if isinstance(policies, list):
        # The model compares names only once every policy is right; a person wants to hear of it at once.
        names = [policy.get("name") if isinstance(policy, dict) else None for policy in policies]
        repeated = [(("policies", *below), message, False) for below, message in repeated_names(names)]
        found += [each for each in repeated if each not in found]
    return found


def _unknown_key(path: Path) -> str:
    key, known = str(path[-1]), sorted(_known_keys(path[:-1]))
    close = get_close_matches(key[:64].lower(), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
    return f"unknown key {shown(key)}, {hint}"


def _known_keys(path: Path) -> Iterator[str]:
    model: Any = Settings
    for step in path:
        if isinstance(step, str):
            fields = {field.alias or name: field for name, field in model.model_fields.items()}
            model = _model_in(fields[step].annotation) if step in fields else None
        if model is None:
            return
    for name, field in model.model_fields.items():
        yield field.alias or name


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
