"""The clauses of a policy that have a small language of their own: costs, header conditions, keys of overrides."""

from typing import Any, NamedTuple

from sidegate.config import globs
from sidegate.config.environment import Substituted
from sidegate.config.faults import Path, Wrong, shown
from sidegate.config.fields import flag_of, listed, text_of, whole
from sidegate.config.keys import TOKEN
from sidegate.decision.bucket import MAX_BURST

# What JSON Schema can say of them, for editors.
_TEXTS: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
CONDITIONS: dict[str, Any] = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": f"^{TOKEN.pattern}$"},
    "additionalProperties": {"anyOf": [{"const": True}, *_TEXTS["anyOf"]]},
    "examples": [{"X-Plan": "free"}, {"X-Plan": True}],
}
_COST = {"type": "integer", "minimum": 1, "maximum": MAX_BURST}
COSTS: dict[str, Any] = {
    "anyOf": [
        _COST,
        {"type": "object", "propertyNames": {"pattern": f"^{TOKEN.pattern}$"}, "additionalProperties": _COST},
    ],
    "examples": [1, {"POST": 5, "default": 1}],
}
OVERRIDE_KEYS: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": _TEXTS, "minItems": 1}],
    "examples": ["alice", ["alice", "bob"], [["tenant-1", "GET"]]],
}


class FieldCondition(NamedTuple):
    """A header field that must be present or, where there are `values`, have one that fits one of these patterns."""

    name: str
    values: tuple[str, ...]


class Costs(NamedTuple):
    """What a request costs, in tokens: by method, and all others."""

    other: int
    by_method: dict[str, int]

    @property
    def highest(self) -> int:
        return max(self.other, *self.by_method.values()) if self.by_method else self.other


def method(value: object) -> str:
    """A method, in upper case as requests carry it."""
    if not isinstance(value, str) or not TOKEN.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a method; expected e.g. GET")
    return value.upper()


def conditions(value: object) -> tuple[FieldCondition, ...]:
    """Header conditions: field names, each with a value, a list of values, or true for any."""
    if isinstance(value, tuple):
        return value
    if not isinstance(value, dict) or not value:
        raise ValueError(
            f"{shown(value)} is not a header condition; expected e.g. {{X-Plan: free}} or {{X-Plan: true}}"
        )
    read: list[FieldCondition] = []
    faults: list[tuple[Path, str]] = []
    for name, wanted in value.items():
        if not TOKEN.fullmatch(name):
            faults.append(((name,), f"{shown(name)} is not the name of a header field; expected e.g. X-Plan"))
            continue
        try:
            read.append(FieldCondition(name, _patterns(wanted)))
        except ValueError as error:
            faults.append(((name,), str(error)))
    if faults:
        raise Wrong(faults)
    return tuple(read)


def _patterns(wanted: object) -> tuple[str, ...]:
    if isinstance(wanted, bool) or (isinstance(wanted, Substituted) and wanted in {"true", "false"}):
        if flag_of(wanted):
            return ()
        raise ValueError("false cannot be matched; expected a value, or true for any value")
    values = listed(wanted)
    patterns = [globs.checked_value(text_of(value)) for value in values] if isinstance(values, tuple) else []
    return () if "*" in patterns else tuple(patterns)


def costs(value: object) -> Costs:
    """One cost, or costs by method with `default` for all others."""
    if isinstance(value, Costs):
        return value
    cost = whole(1, MAX_BURST)
    if not isinstance(value, dict):
        return Costs(cost(value), {})
    by_method: dict[str, int] = {}
    other = 1
    faults: list[tuple[Path, str]] = []
    for key, wanted in value.items():
        try:
            if key == "default":
                other = cost(wanted)
            elif method(key) in by_method:
                faults.append(((key,), f"the cost of {key.upper()} stands here twice"))
            else:
                by_method[method(key)] = cost(wanted)
        except ValueError as error:
            faults.append(((key,), str(error)))
    if faults:
        raise Wrong(faults)
    return Costs(other, by_method)


def override_keys(value: object) -> tuple[tuple[str, ...], ...]:
    """Keys of an override, each as its parts: one value, a list of them, or a list of lists for composite keys."""
    if isinstance(value, tuple):
        return value
    keys: list[tuple[str, ...]] = []
    faults: list[tuple[Path, str]] = []
    for index, key in enumerate(value if isinstance(value, list) else [value]):
        at: Path = (index,) if isinstance(value, list) else ()
        try:
            parts = tuple(text_of(part) for part in key) if isinstance(key, list) else (text_of(key),)
        except ValueError as error:
            faults.append((at, str(error)))
            continue
        if not all(parts) or not parts:
            faults.append((at, "is empty; expected a value that a request shows, e.g. alice"))
        keys.append(parts)
    if faults or not keys:
        raise Wrong(faults or [((), "names no key; expected e.g. alice or [alice, bob]")])
    return tuple(keys)


def cost_text(written: Costs) -> object:
    """Costs as they would be written."""
    return {**written.by_method, "default": written.other} if written.by_method else written.other


def conditions_text(written: tuple[FieldCondition, ...]) -> object:
    """Header conditions as they would be written."""
    return {name: list(values) or True for name, values in written}
