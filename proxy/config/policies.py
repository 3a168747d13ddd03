"""The language of policies: what each may say, and which of it goes together.

Checks that need several settings of a policy stand with the last of them (`info.data` holds the earlier ones that were
right), so that one broken setting does not hide what is wrong with the others.
"""

import re
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema, field_validator

from proxy.config import globs, units
from proxy.config.faults import Path, Wrong, shown
from proxy.config.fields import (
    Flag,
    Many,
    Network,
    OneOrMore,
    Section,
    listed,
    milliseconds,
    one_of,
    text_of,
    whole,
)
from proxy.config.keys import TOKEN, key_of, key_text
from proxy.config.units import Quota
from proxy.decision.bucket import MAX_BURST, MAX_PERIOD_US, Rate
from proxy.decision.identity import Key

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_EXEMPT_KEYS = "an exempt policy takes only name, match and exempt"


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


def _name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a name; expected 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    return str(value)


def _method(value: object) -> str:
    if not isinstance(value, str) or not TOKEN.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a method; expected e.g. GET")
    return value.upper()


def _conditions(value: object) -> tuple[FieldCondition, ...]:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, dict) or not value:
        raise ValueError(
            f"{shown(value)} is not a header condition; expected e.g. {{X-Plan: free}} or {{X-Plan: true}}"
        )
    conditions: list[FieldCondition] = []
    faults: list[tuple[Path, str]] = []
    for name, wanted in value.items():
        if not TOKEN.fullmatch(name):
            faults.append(((name,), f"{shown(name)} is not the name of a header field; expected e.g. X-Plan"))
            continue
        try:
            conditions.append(FieldCondition(name, _patterns(wanted)))
        except ValueError as error:
            faults.append(((name,), str(error)))
    if faults:
        raise Wrong(faults)
    return tuple(conditions)


def _patterns(wanted: object) -> tuple[str, ...]:
    if isinstance(wanted, bool):
        if wanted:
            return ()
        raise ValueError("false cannot be matched; expected a value, or true for any value")
    values = listed(wanted)
    patterns = [globs.checked_value(text_of(value)) for value in values] if isinstance(values, tuple) else []
    return () if "*" in patterns else tuple(patterns)


def _costs(value: object) -> Costs:
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
            elif _method(key) in by_method:
                faults.append(((key,), f"the method {key.upper()} stands here twice"))
            else:
                by_method[_method(key)] = cost(wanted)
        except ValueError as error:
            faults.append(((key,), str(error)))
    if faults:
        raise Wrong(faults)
    return Costs(other, by_method)


def _override_keys(value: object) -> tuple[tuple[str, ...], ...]:
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
            faults.append((at, "is empty; an override names the value that a request shows"))
        keys.append(parts)
    if faults or not keys:
        raise Wrong(faults or [((), "names no key; expected e.g. alice or [alice, bob]")])
    return tuple(keys)


def _cost_text(costs: Costs) -> object:
    return {**costs.by_method, "default": costs.other} if costs.by_method else costs.other


def _conditions_text(conditions: tuple[FieldCondition, ...]) -> object:
    return {name: list(values) or True for name, values in conditions}


Name = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})]
Method = Annotated[str, BeforeValidator(_method)]
PathPattern = Annotated[str, BeforeValidator(lambda value: globs.checked_path(text_of(value)))]
HostPattern = Annotated[str, BeforeValidator(lambda value: globs.checked_host(text_of(value)))]
Burst = Annotated[int, BeforeValidator(whole(1, MAX_BURST))]
Initial = Annotated[int, BeforeValidator(whole(0, MAX_BURST))]
Limit = Annotated[
    Quota, BeforeValidator(lambda value: value if isinstance(value, Quota) else units.quota(value)),
    PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string", "examples": ["10/minute", "1/2.5s"]}),
]  # fmt: skip
OnStoreFailure = Annotated[str, BeforeValidator(one_of("deny", "allow", later="local"))]


class MatchSettings(Section):
    """Conditions that must all hold; absent ones always do."""

    path: OneOrMore[PathPattern] = ()
    method: OneOrMore[Method] = ()
    header: Annotated[
        tuple[FieldCondition, ...], BeforeValidator(_conditions), PlainSerializer(_conditions_text),
        WithJsonSchema({"type": "object", "examples": [{"X-Plan": "free"}, {"X-Plan": True}]}),
    ] = ()  # fmt: skip
    host: OneOrMore[HostPattern] = ()
    client_ip: OneOrMore[Network] = ()
    ignore_case: Flag = False


class OverrideSettings(Section):
    """Another limit, a block or an exemption for some keys of a policy."""

    key: Annotated[tuple[tuple[str, ...], ...], BeforeValidator(_override_keys)]
    burst: Burst | None = None
    initial: Initial | None = None
    limit: Limit | None = Field(None, validate_default=True)
    blocked: Flag = False
    exempt: Flag = Field(False, validate_default=True)

    @property
    def capacity(self) -> int:
        """The burst, or the count in the limit; only where there is a limit."""
        assert self.limit is not None  # noqa: S101  (promised above)
        return self.burst or self.limit.count

    @field_validator("limit")
    @classmethod
    def _fits(cls, limit: Quota | None, info: ValidationInfo) -> Quota | None:
        return _fitting(limit, info)

    @field_validator("exempt")
    @classmethod
    def _one_rule(cls, exempt: bool, info: ValidationInfo) -> bool:
        if "limit" not in info.data or "blocked" not in info.data:
            return exempt
        limited, blocked = info.data["limit"] is not None, info.data["blocked"]
        if limited + blocked + exempt != 1:
            raise Wrong([(("..",), "an override is exactly one of limit, blocked: true and exempt: true")])
        if not limited and (info.data.get("burst") is not None or info.data.get("initial") is not None):
            raise Wrong([(("..",), "burst and initial go with a limit; this override has none")])
        return exempt


class PolicySettings(Section):
    """One policy, as it is written."""

    name: Name
    match: MatchSettings = MatchSettings()
    exempt: Flag = False
    key: Annotated[
        Key | None, BeforeValidator(lambda value: value if value is None else key_of(value)),
        PlainSerializer(lambda key: key and key_text(key)), WithJsonSchema({"type": ["string", "array"]}),
    ] = Field(None, validate_default=True)  # fmt: skip
    burst: Burst | None = None
    initial: Initial | None = None
    limit: Limit | None = Field(None, validate_default=True)
    cost: Annotated[
        Costs, BeforeValidator(_costs), PlainSerializer(_cost_text), WithJsonSchema({"type": ["integer", "object"]})
    ] = Costs(1, {})
    idle_ttl_ms: Annotated[
        int, BeforeValidator(milliseconds(1_000_000, MAX_PERIOD_US)), WithJsonSchema({"type": "string"}),
        PlainSerializer(lambda ms: units.duration_text(ms * 1000), return_type=str, when_used="json"),
    ] = Field(3_600_000, alias="idle_ttl")  # fmt: skip
    shadow: Flag = False
    on_store_failure: OnStoreFailure | None = None
    overrides: Many[OverrideSettings] = Field((), validate_default=True)

    @property
    def capacity(self) -> int:
        """The burst, or the count in the limit; only of policies that are not exempt."""
        assert self.limit is not None  # noqa: S101  (promised above)
        return self.burst or self.limit.count

    @field_validator("key")
    @classmethod
    def _names_buckets(cls, key: Key | None, info: ValidationInfo) -> Key | None:
        if "exempt" in info.data and key is None and not info.data["exempt"]:
            raise Wrong([((), "a policy needs a key; expected e.g. key: header:X-User-ID | client_ip")])
        return key

    @field_validator("limit")
    @classmethod
    def _fits(cls, limit: Quota | None, info: ValidationInfo) -> Quota | None:
        if "exempt" in info.data and limit is None and not info.data["exempt"]:
            raise Wrong([((), "a policy needs a limit; expected e.g. limit: 10/minute")])
        return _fitting(limit, info)

    @field_validator("overrides")
    @classmethod
    def _reachable(cls, overrides: tuple[OverrideSettings, ...], info: ValidationInfo) -> tuple[OverrideSettings, ...]:
        faults = _exempt_faults(info) + _cost_faults(overrides, info) + _key_faults(overrides, info)
        if faults:
            raise Wrong(faults)
        return overrides


def _fitting(limit: Quota | None, info: ValidationInfo) -> Quota | None:
    if limit is None:
        return None
    burst = info.data.get("burst") or limit.count
    try:
        Rate.fitting(limit.count, limit.period_us, burst)
    except ValueError:
        raise Wrong([((), f"{limit} is too slow to fill a bucket of {burst}; expected a smaller burst")]) from None
    return limit


def _exempt_faults(info: ValidationInfo) -> list[tuple[Path, str]]:
    if not info.data.get("exempt"):
        return []
    taken = ("key", "limit", "burst", "initial", "on_store_failure", "shadow")
    given = [name for name in taken if info.data.get(name)]
    return [(("..",), f"{_EXEMPT_KEYS}; {', '.join(given)} would do nothing")] if given else []


def _cost_faults(overrides: tuple[OverrideSettings, ...], info: ValidationInfo) -> list[tuple[Path, str]]:
    costs, limit = info.data.get("cost"), info.data.get("limit")
    if costs is None:
        return []
    capacities: list[tuple[Path, int]] = []
    if limit is not None:
        capacities.append((("..", "cost"), info.data.get("burst") or limit.count))
    capacities += [((index,), each.capacity) for index, each in enumerate(overrides) if each.limit is not None]
    return [
        (path, f"a cost of {costs.highest} can never pass a burst of {capacity}; expected a cost up to the burst")
        for path, capacity in capacities
        if costs.highest > capacity
    ]


def _key_faults(overrides: tuple[OverrideSettings, ...], info: ValidationInfo) -> list[tuple[Path, str]]:
    key: Key | None = info.data.get("key")
    faults: list[tuple[Path, str]] = []
    seen: set[tuple[str, ...]] = set()
    for index, override in enumerate(overrides):
        for values in override.key:
            if key is not None and len(values) != len(key.parts):
                wanted = f"a list of {len(key.parts)} values" if len(key.parts) > 1 else "a single value"
                faults.append(((index, "key"), f"does not fit the policy's key; expected {wanted} for each key"))
            if values in seen:
                faults.append(((index, "key"), f"{shown(', '.join(values))} stands in an override already"))
            seen.add(values)
    return faults
