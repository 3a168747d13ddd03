"""From a file to settings, or to everything that is wrong with it."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from proxy.config.document import MAX_DOCUMENT_BYTES, Document, read
from proxy.config.faults import ConfigError, Fault, Path, Wrong, shown
from proxy.config.model import Settings

_SENTENCES = {
    "missing": "is missing, but needed",
    "model_type": "is not a mapping; expected keys and values, e.g. {port: 8080}",
    "model_attributes_type": "is not a mapping; expected keys and values, e.g. {port: 8080}",
    "dict_type": "is not a mapping; expected keys and values",
    "tuple_type": "is not a list; expected one, e.g. [...] or lines that begin with a dash",
    "recursion_loop": "contains itself",
}


def load(path: FilePath, environ: Mapping[str, str]) -> Settings:
    """Read a configuration file. Raises ConfigError with all its faults."""
    name = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_DOCUMENT_BYTES + 1)
    except IsADirectoryError:
        raise ConfigError([Fault(name, None, None, "", "is a directory; expected a file, e.g. config.yaml")]) from None
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
    """Read a configuration; `name` is what positions call it. Raises ConfigError with all its faults."""
    document = read(text, name, environ)
    faults = dict(document.faults)
    settings = None
    try:
        settings = Settings.model_validate(document.plain)
    except ValidationError as error:
        for path, fault in _faults(error, document):
            if not any(known == path[: len(known)] for known in document.faults):
                faults.setdefault(path, fault)
    if faults or settings is None:
        raise ConfigError(sorted(faults.values(), key=lambda fault: (fault.line or 0, fault.column or 0)))
    return settings


def _faults(error: ValidationError, document: Document) -> Iterator[tuple[Path, Fault]]:
    for item in error.errors(include_url=False):
        path = tuple(step for step in item["loc"] if not (isinstance(step, str) and step.startswith("function-")))
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, Wrong):
            for below, message in cause.faults:
                place = _resolved((*path, *below))
                yield place, document.fault(place, message)
        elif item["type"] == "extra_forbidden":
            yield path, document.fault(path, _unknown_key(path), at_key=True)
        elif isinstance(cause, ValueError):
            yield path, document.fault(path, str(cause))
        else:
            yield path, document.fault(path, _SENTENCES.get(item["type"], f"{shown(item['input'])} is not valid here"))


def _resolved(path: Path) -> Path:
    steps: list[str | int] = []
    for step in path:
        if step == "..":
            steps.pop()
        else:
            steps.append(step)
    return tuple(steps)


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
