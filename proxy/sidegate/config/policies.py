"""Policies as the configuration writes them, and the checks of settings that depend on each other.

A check that needs several settings belongs to the last of them (`info.data` holds the earlier ones that are valid), so
that one broken setting does not hide the faults of the others.
"""

from ipaddress import ip_network
from typing import Annotated, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sidegate.config import globs
from sidegate.config.clauses import Costs, CostTable, FieldCondition, HeaderConditions, OverrideKeys, read_method
from sidegate.config.faults import Path, Wrong, quote
from sidegate.config.keys import KeyExpression
from sidegate.config.lists import ListOf, OneOrMore
from sidegate.config.section import Section
from sidegate.config.settle_settings import SettleSettings
from sidegate.config.units import Quota
from sidegate.config.values import (
    CheckedText,
    Choice,
    Flag,
    Milliseconds,
    NetworkRange,
    RateExpression,
    Text,
    WholeNumber,
)
from sidegate.decision.bucket import MAX_BURST, MAX_PERIOD_US, MOST_DEBT_BURSTS, Rate
from sidegate.decision.identity import Key, SourceKind

_NAME = r"[A-Za-z0-9._-]{1,64}"
_EXEMPT = "an exempt policy takes only name, match and exempt"
_EXPECTED = {
    "key": "expected e.g. key: header:X-User-ID | client_ip",
    "limit": "expected e.g. limit: 10/minute",
}
# Settings of policies that limit.
_LIMITED = (
    *("key", "burst", "initial", "limit", "cost", "settle"),
    *("idle_ttl_ms", "shadow", "on_store_failure", "overrides"),
)


Name = Annotated[str, Text(_NAME, "a name; expected 1 to 64 of the characters A-Z a-z 0-9 . _ -", pattern=f"^{_NAME}$")]
Method = Annotated[str, CheckedText(read_method)]
PathPattern = Annotated[str, CheckedText(globs.checked_path, pattern="^/", examples=["/api/**", "/users/*/orders"])]
HostPattern = Annotated[str, CheckedText(globs.checked_host, examples=["api.example.com", "*.example.com"])]
Burst = Annotated[int, WholeNumber(1, MAX_BURST)]
Initial = Annotated[int, WholeNumber(0, MAX_BURST)]
WrittenRate = Annotated[Quota, RateExpression()]
FailureMode = Annotated[str, Choice("deny", "allow", "local")]


class MatchSettings(Section):
    """Conditions that must all hold; an absent one always holds."""

    path: OneOrMore[PathPattern] = Field(
        (), description="Patterns of canonical paths: * within a segment, ** any number of segments."
    )
    method: OneOrMore[Method] = Field((), description="Methods.")
    header: Annotated[tuple[FieldCondition, ...], HeaderConditions()] = Field(
        (), description="Header fields with a value (* for any run of characters), a list of them, or true for any."
    )
    host: OneOrMore[HostPattern] = Field((), description="Patterns of the Host field without its port.")
    client_ip: OneOrMore[NetworkRange] = Field((), description="Networks of the client's address.")
    ignore_case: Flag = Field(False, description="Match paths in any case.")


class OverrideSettings(Section):
    """Another limit, a block or an exemption for some keys of a policy."""

    key: Annotated[tuple[tuple[str, ...], ...], OverrideKeys()] = Field(
        description="The keys, as requests show them; one list for each composite key."
    )
    burst: Burst | None = Field(None, description="The capacity of their buckets.")
    initial: Initial | None = Field(None, description="The tokens of their new buckets.")
    limit: WrittenRate | None = Field(None, validate_default=True, description="Their limit.")
    blocked: Flag = Field(False, description="Always refuse them.")
    exempt: Flag = Field(False, description="Do not apply this policy to them.")

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

    name: Name = Field(description="Names the policy's buckets, metrics and headers; a new name starts new buckets.")
    match: MatchSettings = Field(
        MatchSettings(),
        description="The requests to limit: all conditions must hold. Default: every request.",
    )
    exempt: Flag = Field(False, description="No other policy applies to the requests that this one matches.")
    key: Annotated[Key, KeyExpression()] | None = Field(
        None,
        validate_default=True,
        description="The bucket to charge: the first source that is present; a list makes a composite key.",
    )
    burst: Burst | None = Field(None, description="The capacity of a bucket. Default: the count in limit.")
    initial: Initial | None = Field(None, description="Tokens of a new bucket. Default: burst.")
    limit: WrittenRate | None = Field(
        None, validate_default=True, description="The rate at which a bucket gains tokens."
    )
    cost: Annotated[Costs, CostTable()] = Field(
        Costs(1, {}), description="Tokens that a request takes; a mapping gives the cost by method."
    )
    settle: SettleSettings | None = Field(
        None, description="Hold the cost while the request is under way, and let the answer decide the final one."
    )
    idle_ttl_ms: Annotated[int, Milliseconds(1_000_000, MAX_PERIOD_US)] = Field(
        3_600_000,
        alias="idle_ttl",
        description="How long an idle bucket is kept; at least the time to full.",
    )
    shadow: Flag = Field(False, description="Count, log and show the policy, but never refuse.")
    on_store_failure: FailureMode | None = Field(
        None, description="What happens when the store does not answer. Default: store.on_failure."
    )
    overrides: Annotated[tuple[OverrideSettings, ...], ListOf(None)] = Field(
        (), description="Other rules for some keys."
    )

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

    @field_validator("settle")
    @classmethod
    def _holds_debts(cls, settle: SettleSettings | None, info: ValidationInfo) -> SettleSettings | None:
        limit: Quota | None = info.data.get("limit")
        if settle is not None and not settle.when and limit is not None:
            burst = info.data.get("burst") or limit.count
            try:
                limit_with_debts(limit, burst)
            except ValueError:
                message = f"'{limit}' is too slow to pay the debts of a burst of {burst}; expected a smaller burst"
                raise ValueError(message) from None
        return settle

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


def limit_with_debts(limit: Quota, burst: int) -> Rate:
    """The rate of a bucket that may owe. Raises ValueError where the arithmetic of buckets cannot hold it."""
    return Rate.fitting(limit.count, limit.period_us, burst * (MOST_DEBT_BURSTS + 1))


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
                faults.append(((index, "key", number), f"{quote(', '.join(values))} stands in {before} already"))
            seen.setdefault(values, index)
    return faults


def _unseen(values: tuple[str, ...], key: Key | None) -> str:
    """Why no request shows these values of a key; empty where one may."""
    if key is None:
        return ""
    if len(values) != len(key.parts):
        expected = "one value" if len(key.parts) == 1 else f"lists of {len(key.parts)} values, e.g. [[a, b]]"
        return f"{quote(', '.join(values))} does not fit the key of this policy; expected {expected}"
    for value, alternatives in zip(values, key.parts, strict=True):
        problems = [_unseen_by(source.kind, value) for source in alternatives]
        if all(problems):
            return problems[0]
    return ""


def _unseen_by(kind: SourceKind, value: str) -> str:
    """Why a source never shows a value; empty where it may."""
    match kind:
        case SourceKind.CLIENT_IP if not _names_client(value):
            return f"{quote(value)} is not a client's address; expected e.g. 192.0.2.7 or 2001:db8::/64"
        case SourceKind.METHOD if value.upper() == "HEAD":
            return "'HEAD' has the key of GET, whose handler it runs; expected 'GET'"
        case SourceKind.METHOD if value != value.upper():
            return f"{quote(value)} is not a method as requests carry it; expected {quote(value.upper())}"
        case SourceKind.HOST if value != value.lower() or value.endswith("."):
            return f"{quote(value)} is not a host as keys have it; expected {quote(value.lower().rstrip('.'))}"
        case _:
            return ""


def _names_client(value: str) -> bool:
    """Whether the source `client_ip` may show it: an IPv4 address, or an IPv6 address or network."""
    try:
        found = ip_network(value)
    except ValueError:
        return False
    return found.version == 6 or "/" not in value
