"""Policies as the configuration writes them, and the checks of settings that depend on each other.

A check that needs several settings belongs to the last of them (`info.data` holds the earlier ones that are valid), so
that one broken setting does not hide the faults of the others.
"""

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from sidegate.config import globs
from sidegate.config.clauses import Costs, CostTable, FieldCondition, HeaderConditions, read_method
from sidegate.config.faults import Path, Wrong
from sidegate.config.keys import KeyExpression
from sidegate.config.lists import ListOf, OneOrMore
from sidegate.config.overrides import (
    Burst,
    InFlight,
    Initial,
    OverrideSettings,
    WrittenRate,
    fitting,
    key_faults,
    limit_with_bookings,
    limit_with_debts,
    never_passes,
)
from sidegate.config.section import Section
from sidegate.config.settle_settings import SettleSettings
from sidegate.config.units import Quota
from sidegate.config.values import (
    CheckedText,
    Choice,
    Flag,
    Milliseconds,
    NetworkRange,
    Text,
)
from sidegate.decision.bucket import MAX_PERIOD_US
from sidegate.decision.identity import Key

_NAME = r"[A-Za-z0-9._-]{1,64}"
_EXEMPT = "an exempt policy takes only name, match and exempt"
_EXPECTED = {
    "key": "expected e.g. key: header:X-User-ID | client_ip",
    "limit": "expected e.g. limit: 10/minute",
}
LONGEST_WAIT_US = 60_000_000
# Settings of buckets of tokens, which a policy with in_flight has none of.
_OF_TOKENS = ("burst", "initial", "limit", "cost", "settle", "wait_ms", "idle_ttl_ms")
# Settings of policies that limit.
_LIMITED = (
    *("key", "in_flight", "burst", "initial", "limit", "cost", "settle", "wait_ms"),
    *("idle_ttl_ms", "shadow", "on_store_failure", "overrides"),
)


Name = Annotated[str, Text(_NAME, "a name; expected 1 to 64 of the characters A-Z a-z 0-9 . _ -", pattern=f"^{_NAME}$")]
Method = Annotated[str, CheckedText(read_method)]
PathPattern = Annotated[str, CheckedText(globs.checked_path, pattern="^/", examples=["/api/**", "/users/*/orders"])]
HostPattern = Annotated[str, CheckedText(globs.checked_host, examples=["api.example.com", "*.example.com"])]
CertificatePattern = Annotated[
    str, CheckedText(globs.checked_value, examples=["spiffe://example.com/*", "billing.internal", "CN=alice,*"])
]
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
    client_cert: OneOrMore[CertificatePattern] = Field(
        (), description="Patterns of the name in the client's certificate: its first URI, DNS name, or its subject."
    )
    ignore_case: Flag = Field(False, description="Match paths in any case.")


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
    in_flight: InFlight | None = Field(
        None, description="Instead of limit: the most requests of a key that are under way at once, in all sidecars."
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
    wait_ms: Annotated[int, Milliseconds(1_000, LONGEST_WAIT_US)] | None = Field(
        None, alias="wait", description="How long a request that lacks tokens may wait for them; longer: 429."
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

    @field_validator(*_OF_TOKENS, mode="before")
    @classmethod
    def _has_tokens(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("in_flight") is not None:
            raise ValueError("this policy counts requests in flight; expected in_flight alone, or a policy of its own")
        return value

    @field_validator("key", "limit")
    @classmethod
    def _present(cls, value: object, info: ValidationInfo) -> object:
        # An invalid in_flight is not in the data: it has a fault of its own.
        if info.field_name == "limit" and info.data.get("in_flight", 0) is not None:
            return value
        if value is None and info.data.get("exempt") is False:
            raise ValueError(f"a policy needs a {info.field_name}; {_EXPECTED[info.field_name or '']}")
        return value

    @field_validator("limit")
    @classmethod
    def _fits(cls, limit: Quota | None, info: ValidationInfo) -> Quota | None:
        return fitting(limit, info)

    @field_validator("cost")
    @classmethod
    def _can_pass(cls, cost: Costs, info: ValidationInfo) -> Costs:
        limit = info.data.get("limit")
        burst = info.data.get("burst") or (limit.count if limit else None)
        if burst is None:
            return cost
        each = cost.by_method or {"": cost.other}
        faults: list[tuple[Path, str]] = [
            ((method,) if method else (), never_passes(tokens, burst))
            for method, tokens in each.items()
            if tokens > burst
        ]
        if cost.by_method and cost.other > burst:
            faults.append((("default",), never_passes(cost.other, burst)))
        if faults:
            raise Wrong(faults)
        return cost

    @field_validator("settle")
    @classmethod
    def _holds_debts(cls, settle: SettleSettings | None, info: ValidationInfo) -> SettleSettings | None:
        limit: Quota | None = info.data.get("limit")
        if settle is not None and limit is not None:
            fault = debt_fault(settle, limit, info.data.get("burst") or limit.count)
            if fault:
                raise ValueError(fault)
        return settle

    @field_validator("wait_ms")
    @classmethod
    def _can_wait(cls, wait_ms: int | None, info: ValidationInfo) -> int | None:
        limit: Quota | None = info.data.get("limit")
        if wait_ms is not None and info.data.get("settle") is not None:
            raise ValueError("does not go with settle; expected a policy of its own")
        fault = wait_fault(wait_ms, limit, info.data.get("burst") or limit.count) if wait_ms and limit else ""
        if fault:
            raise ValueError(fault)
        return wait_ms

    @field_validator("overrides")
    @classmethod
    def _reachable(cls, overrides: tuple[OverrideSettings, ...], info: ValidationInfo) -> tuple[OverrideSettings, ...]:
        cost: Costs | None = info.data.get("cost")
        faults = key_faults(overrides, info.data.get("key"))
        faults += [
            ((index, "burst" if each.burst else "limit"), never_passes(cost.highest, each.capacity))
            for index, each in enumerate(overrides)
            if cost is not None and each.limit is not None and cost.highest > each.capacity
        ]
        in_flight = info.data.get("in_flight", 0)
        faults += [
            ((index, "limit"), "this policy counts requests in flight; expected in_flight")
            for index, each in enumerate(overrides)
            if in_flight is not None and each.limit is not None
        ]
        faults += [
            ((index, "in_flight"), "this policy has a limit; expected a limit here too")
            for index, each in enumerate(overrides)
            if in_flight is None and each.in_flight is not None
        ]
        settle: SettleSettings | None = info.data.get("settle")
        faults += [
            ((index, "limit"), fault)
            for index, each in enumerate(overrides)
            if settle is not None
            and each.limit is not None
            and (fault := debt_fault(settle, each.limit, each.capacity))
        ]
        wait_ms: int | None = info.data.get("wait_ms")
        faults += [
            ((index, "limit"), fault)
            for index, each in enumerate(overrides)
            if wait_ms and each.limit and (fault := wait_fault(wait_ms, each.limit, each.capacity))
        ]
        if faults:
            raise Wrong(faults)
        return overrides


def debt_fault(settle: SettleSettings, limit: Quota, burst: int) -> str:
    """Why the arithmetic of buckets cannot hold the debts that answers may leave; empty where it can."""
    if settle.when:
        return ""
    try:
        limit_with_debts(limit, burst)
    except ValueError:
        return f"'{limit}' is too slow to pay the debts of a burst of {burst}; expected a smaller burst"
    return ""


def wait_fault(wait_ms: int, limit: Quota, burst: int) -> str:
    """Why the arithmetic of buckets cannot hold what is booked ahead; empty where it can."""
    try:
        limit_with_bookings(limit, burst, wait_ms)
    except ValueError:
        return f"'{limit}' is too slow for a wait with a burst of {burst}; expected a smaller burst"
    return ""
