"""The language of policies: what each may say, and which of it goes together.

Checks that need several settings of a policy stand with the last of them (`info.data` holds the earlier ones that were
right), so that one broken setting does not hide what is wrong with the others.
"""

import re
from ipaddress import ip_network
from typing import Annotated, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from sidegate.config import globs, units
from sidegate.config.clauses import (
    CONDITIONS,
    COSTS,
    OVERRIDE_KEYS,
    Costs,
    FieldCondition,
    conditions,
    conditions_text,
    cost_text,
    costs,
    method,
    override_keys,
)
from sidegate.config.faults import Path, Wrong, shown
from sidegate.config.fields import (
    A_RATE,
    Flag,
    Network,
    OneOrMore,
    Section,
    every_one,
    milliseconds,
    one_of,
    text_of,
    whole,
)
from sidegate.config.keys import KEY, key_of, key_text
from sidegate.config.units import Quota
from sidegate.decision.bucket import MAX_BURST, MAX_PERIOD_US, Rate
from sidegate.decision.identity import Key, SourceKind

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_EXEMPT = "an exempt policy takes only name, match and exempt"
_EXPECTED = {
    "key": "expected e.g. key: header:X-User-ID | client_ip",
    "limit": "expected e.g. limit: 10/minute",
}
# What only a policy that limits can say.
_LIMITED = ("key", "burst", "initial", "limit", "cost", "idle_ttl_ms", "shadow", "on_store_failure", "overrides")


def _name(value: object) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a name; expected 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    return str(value)


Name = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$"})]
Method = Annotated[str, BeforeValidator(method)]
PathPattern = Annotated[
    str, BeforeValidator(lambda value: globs.checked_path(text_of(value))),
    WithJsonSchema({"type": "string", "pattern": "^/", "examples": ["/api/**", "/users/*/orders"]}),
]  # fmt: skip
HostPattern = Annotated[
    str, BeforeValidator(lambda value: globs.checked_host(text_of(value))),
    WithJsonSchema({"type": "string", "examples": ["api.example.com", "*.example.com"]}),
]  # fmt: skip
Burst = Annotated[int, BeforeValidator(whole(1, MAX_BURST))]
Initial = Annotated[int, BeforeValidator(whole(0, MAX_BURST))]
Limit = Annotated[
    Quota, BeforeValidator(lambda value: value if isinstance(value, Quota) else units.quota(value)),
    PlainSerializer(str, return_type=str), WithJsonSchema(A_RATE),
]  # fmt: skip
OnStoreFailure = Annotated[str, BeforeValidator(one_of("deny", "allow", "local"))]


class MatchSettings(Section):
    """Conditions that must all hold; absent ones always do."""

    path: OneOrMore[PathPattern] = ()
    method: OneOrMore[Method] = ()
    header: Annotated[
        tuple[FieldCondition, ...], BeforeValidator(conditions), PlainSerializer(conditions_text),
        WithJsonSchema(CONDITIONS),
    ] = ()  # fmt: skip
    host: OneOrMore[HostPattern] = ()
    client_ip: OneOrMore[Network] = ()
    ignore_case: Flag = False


class OverrideSettings(Section):
    """Another limit, a block or an exemption for some keys of a policy."""

    key: Annotated[tuple[tuple[str, ...], ...], BeforeValidator(override_keys), WithJsonSchema(OVERRIDE_KEYS)]
    burst: Burst | None = None
    initial: Initial | None = None
    limit: Limit | None = Field(None, validate_default=True)
    blocked: Flag = False
    exempt: Flag = False

    @property
    def capacity(self) -> int:
        """The burst, or the count in the limit; only where there is a limit."""
        assert self.limit is not None  # noqa: S101  (promised above)
        return self.burst or self.limit.count

    @field_validator("limit")
    @classmethod
    def _fits(cls, limit: Quota | None, info: ValidationInfo) -> Quota | None:
        return _fitting(limit, info)

    @model_validator(mode="after")
    def _is_one_rule(self) -> Self:
        if (self.limit is not None) + self.blocked + self.exempt != 1:
            raise ValueError("an override is exactly one of limit, blocked: true and exempt: true")
        if self.limit is None and (self.burst is not None or self.initial is not None):
            raise ValueError("burst and initial go with a limit; this override has none")
        return self


class PolicySettings(Section):
    """One policy, as it is written."""

    name: Name
    match: MatchSettings = MatchSettings()
    exempt: Flag = False
    key: Annotated[
        Key | None, BeforeValidator(lambda value: value if value is None else key_of(value)),
        PlainSerializer(lambda key: key and key_text(key)), WithJsonSchema(KEY),
    ] = Field(None, validate_default=True)  # fmt: skip
    burst: Burst | None = None
    initial: Initial | None = None
    limit: Limit | None = Field(None, validate_default=True)
    cost: Annotated[Costs, BeforeValidator(costs), PlainSerializer(cost_text), WithJsonSchema(COSTS)] = Costs(1, {})
    idle_ttl_ms: Annotated[
        int, BeforeValidator(milliseconds(1_000_000, MAX_PERIOD_US)),
        PlainSerializer(lambda ms: units.duration_text(ms * 1000), return_type=str, when_used="json"),
    ] = Field(3_600_000, alias="idle_ttl")  # fmt: skip
    shadow: Flag = False
    on_store_failure: OnStoreFailure | None = None
    overrides: Annotated[tuple[OverrideSettings, ...], BeforeValidator(every_one)] = ()

    @field_validator(*_LIMITED, mode="before")
    @classmethod
    def _not_exempt(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("exempt"):
            raise ValueError(f"{_EXEMPT}; this would do nothing")
        return value

    @field_validator("key", "limit")
    @classmethod
    def _present(cls, value: object, info: ValidationInfo) -> object:
        if value is None and info.data.get("exempt") is False:
            raise ValueError(f"a policy needs a {info.field_name}; {_EXPECTED[info.field_name or '']}")
        return value

    @field_validator("limit")
    @classmethod
    def _fits(cls, limit: Quota | None, info: ValidationInfo) -> Quota | None:
        return _fitting(limit, info)

    @field_validator("cost")
    @classmethod
    def _can_pass(cls, cost: Costs, info: ValidationInfo) -> Costs:
        limit = info.data.get("limit")
        burst = info.data.get("burst") or (limit.count if limit else None)
        if burst is None:
            return cost
        each = cost.by_method or {"": cost.other}
        faults: list[tuple[Path, str]] = [
            ((method,) if method else (), _never(tokens, burst)) for method, tokens in each.items() if tokens > burst
        ]
        if cost.by_method and cost.other > burst:
            faults.append((("default",), _never(cost.other, burst)))
        if faults:
            raise Wrong(faults)
        return cost

    @field_validator("overrides")
    @classmethod
    def _reachable(cls, overrides: tuple[OverrideSettings, ...], info: ValidationInfo) -> tuple[OverrideSettings, ...]:
        cost: Costs | None = info.data.get("cost")
        faults = _key_faults(overrides, info.data.get("key"))
        faults += [
            ((index, "burst" if each.burst else "limit"), _never(cost.highest, each.capacity))
            for index, each in enumerate(overrides)
            if cost is not None and each.limit is not None and cost.highest > each.capacity
        ]
        if faults:
            raise Wrong(faults)
        return overrides


def _fitting(limit: Quota | None, info: ValidationInfo) -> Quota | None:
    """The limit, where the arithmetic of buckets can hold it together with its burst."""
    if limit is None or "burst" not in info.data:
        return limit
    burst = info.data["burst"] or limit.count
    try:
        Rate.fitting(limit.count, limit.period_us, burst)
    except ValueError:
        raise ValueError(f"'{limit}' is too slow to fill a bucket of {burst}; expected a smaller burst") from None
    return limit


def _never(cost: int, burst: int) -> str:
    return f"a cost of {cost} can never pass a burst of {burst}; expected a cost up to the burst"


def _key_faults(overrides: tuple[OverrideSettings, ...], key: Key | None) -> list[tuple[Path, str]]:
    faults: list[tuple[Path, str]] = []
    seen: dict[tuple[str, ...], int] = {}
    for index, override in enumerate(overrides):
        for number, values in enumerate(override.key):
            if problem := _unseen(values, key):
                faults.append(((index, "key", number), problem))
            elif values in seen:
                before = f"overrides[{seen[values]}]"
                faults.append(((index, "key", number), f"{shown(', '.join(values))} stands in {before} already"))
            seen.setdefault(values, index)
    return faults


def _unseen(values: tuple[str, ...], key: Key | None) -> str:
    """Why no request shows these values of a key; empty where one may."""
    if key is None:
        return ""
    if len(values) != len(key.parts):
        expected = "one value" if len(key.parts) == 1 else f"lists of {len(key.parts)} values, e.g. [[a, b]]"
        return f"{shown(', '.join(values))} does not fit the key of this policy; expected {expected}"
    for value, alternatives in zip(values, key.parts, strict=True):
        problems = [_unseen_by(source.kind, value) for source in alternatives]
        if all(problems):
            return problems[0]
    return ""


def _unseen_by(kind: SourceKind, value: str) -> str:
    """Why a source never shows a value; empty where it may."""
    match kind:
        case SourceKind.CLIENT_IP if not _names_client(value):
            return f"{shown(value)} is not a client's address; expected e.g. 192.0.2.7 or 2001:db8::/64"
        case SourceKind.METHOD if value != value.upper():
            return f"{shown(value)} is not a method as requests carry it; expected {shown(value.upper())}"
        case SourceKind.HOST if value != value.lower() or value.endswith("."):
            return f"{shown(value)} is not a host as keys have it; expected {shown(value.lower().rstrip('.'))}"
        case _:
            return ""


def _names_client(value: str) -> bool:
    """Whether the source `client_ip` may show it: an IPv4 address, or an IPv6 address or network."""
    try:
        found = ip_network(value)
    except ValueError:
        return False
    return found.version == 6 or "/" not in value
