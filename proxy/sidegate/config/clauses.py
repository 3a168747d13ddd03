"""Clauses of a policy that have a small language of their own: costs, header conditions, override keys."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from sidegate.config import globs
from sidegate.config.environment import Substituted
from sidegate.config.faults import Path, Wrong, quote
from sidegate.config.keys import TOKEN
from sidegate.config.lists import OneOrListOf
from sidegate.config.scalars import FLAG_TYPES
from sidegate.config.values import ValueKind, WholeNumber, read_flag, read_text
from sidegate.decision.bucket import MAX_BURST

_TEXTS: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
_NAMES = {"pattern": f"^{TOKEN.pattern}$"}
_COST = WholeNumber(1, MAX_BURST)

Read = TypeVar("Read")


class FieldCondition(NamedTuple):
    """A header field that must be present; where there are `values`, one of its values must match one of them."""

    name: str
    values: tuple[str, ...]


class Costs(NamedTuple):
    """The cost of a request in tokens: by method, and of all other methods."""

    other: int
    by_method: dict[str, int]

    @property
    def highest(self) -> int:
        return max(self.other, *self.by_method.values()) if self.by_method else self.other


class HeaderConditions(ValueKind):
    """Field names, each with a value, a list of values, or true for any value."""

    def __init__(self) -> None:
        super().__init__(
            {
                "type": "object",
                "minProperties": 1,
                "propertyNames": _NAMES,
                "additionalProperties": {"anyOf": [{"const": True}, *_TEXTS["anyOf"]]},
                "examples": [{"X-Plan": "free"}, {"X-Plan": True}],
            }
        )

    def read(self, value: object) -> tuple[FieldCondition, ...]:
        if not isinstance(value, dict) or not value:
            expected = "expected e.g. {X-Plan: free} or {X-Plan: true}"
            raise ValueError(f"{quote(value)} is not a header condition; {expected}")
        return _read_each((((name,), (name, wanted)) for name, wanted in value.items()), _condition)

    def write(self, value: tuple[FieldCondition, ...]) -> object:
        return {condition.name: list(condition.values) or True for condition in value}


class CostTable(ValueKind):
    """One cost, or costs by method with `default` for all others."""

    def __init__(self) -> None:
        super().__init__(
            {
                "anyOf": [
                    _COST.schema,
                    {
                        "type": "object",
                        "propertyNames": _NAMES,
                        "additionalProperties": _COST.schema,
                    },
                ],
                "examples": [1, {"POST": 5, "default": 1}],
            }
        )

    def read(self, value: object) -> Costs:
        if not isinstance(value, dict):
            return Costs(_COST.read(value), {})
        by_method: dict[str, int] = {}

        def read_entry(entry: tuple[str, object]) -> None:
            name, wanted = entry
            method = name if name == "default" else read_method(name)
            if method in by_method:
                raise ValueError(f"the cost of {method} occurs twice")
            by_method[method] = _COST.read(wanted)

        _read_each((((name,), (name, wanted)) for name, wanted in value.items()), read_entry)
        return Costs(by_method.pop("default", 1), by_method)

    def write(self, value: Costs) -> object:
        return {**value.by_method, "default": value.other} if value.by_method else value.other


class OverrideKeys(ValueKind):
    """Keys of an override, each as its parts: one value, a list of values, or a list of lists for composite keys."""

    def __init__(self) -> None:
        super().__init__(
            {
                "anyOf": [{"type": "string"}, {"type": "array", "items": _TEXTS, "minItems": 1}],
                "examples": ["alice", ["alice", "bob"], [["tenant-1", "GET"]]],
            }
        )

    def read(self, value: object) -> tuple[tuple[str, ...], ...]:
        if not isinstance(value, list):
            return _read_each([((), value)], _override_key)
        if not value:
            raise ValueError("names no key; expected e.g. alice or [alice, bob]")
        return _read_each((((index,), key) for index, key in enumerate(value)), _override_key)


def read_method(value: object) -> str:
    """A method, in upper case as requests carry it."""
    if not isinstance(value, str) or not TOKEN.fullmatch(value):
        raise ValueError(f"{quote(value)} is not a method; expected e.g. GET")
    return value.upper()


def _read_each(entries: Iterable[tuple[Path, Any]], read: Callable[[Any], Read]) -> tuple[Read, ...]:
    """All entries as read. Raises Wrong with the faults of all that cannot be read."""
    values: list[Read] = []
    faults: list[tuple[Path, str]] = []
    for path, entry in entries:
        try:
            values.append(read(entry))
        except ValueError as error:
            faults.append((path, str(error)))
    if faults:
        raise Wrong(faults)
    return tuple(values)


def _condition(entry: tuple[str, object]) -> FieldCondition:
    name, wanted = entry
    if not TOKEN.fullmatch(name):
        raise ValueError(f"{quote(name)} is not the name of a header field; expected e.g. X-Plan")
    if isinstance(wanted, FLAG_TYPES) or (isinstance(wanted, Substituted) and wanted in {"true", "false"}):
        if read_flag(wanted):
            return FieldCondition(name, ())
        raise ValueError("false cannot be matched; expected a value, or true for any value")
    patterns = [globs.checked_value(read_text(value)) for value in OneOrListOf().entries(wanted)]
    return FieldCondition(name, () if "*" in patterns else tuple(patterns))


def _override_key(key: object) -> tuple[str, ...]:
    parts = tuple(map(read_text, key)) if isinstance(key, list) else (read_text(key),)
    if not all(parts) or not parts:
        raise ValueError("is empty; expected a value that a request shows, e.g. alice")
    return parts
