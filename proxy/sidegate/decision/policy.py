"""Policies: which limits apply to a request, and the charge of each.

A PolicySet is compiled once from the configuration. The policies that a path can match are cached by path; each request
then takes a few set look-ups over those policies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from sidegate.decision.browser import BrowserOrigins
from sidegate.decision.bucket import Charge, ChargeKind, Limit
from sidegate.decision.identity import (
    CLIENT_LABEL,
    LONGEST_VALUE_BYTES,
    ClientAddress,
    Identity,
    Key,
    SourceKind,
    deciding_field,
    is_address,
    names_value,
)
from sidegate.decision.match import Match
from sidegate.decision.request import CACHED_TARGET_CHARS, CACHED_TARGETS, RequestFacts, path_part, paths_of
from sidegate.decision.settling import SettleRule

# Bounds the cache of charges by caller, of one rule: some 500 KB.
MOST_SEEN = 1024


class OnStoreFailure(Enum):
    """How a policy decides a request when the store cannot."""

    DENY = "deny"
    ALLOW = "allow"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Override:
    """Another rule for one key of a policy: another limit, or `blocked`, or `exempt`."""

    limit: Limit | None = None
    blocked: bool = False
    exempt: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy of the configuration. `limit` and `key` are None exactly where `exempt` is set.

    `costs` maps methods to their costs; `cost` is the cost of all other methods. `settle`: the answer settles the cost.
    """

    name: str
    match: Match = field(default_factory=Match)
    key: Key | None = None
    limit: Limit | None = None
    cost: int = 1
    costs: Mapping[str, int] = field(default_factory=dict)
    overrides: Mapping[tuple[str, ...], Override] = field(default_factory=dict)
    exempt: bool = False
    shadow: bool = False
    on_store_failure: OnStoreFailure = OnStoreFailure.DENY
    settle: SettleRule | None = None
    wait_us: int = 0  # how long a request may wait for its tokens

    @property
    def kind(self) -> ChargeKind:
        """What the policy's charges do."""
        if self.limit is not None and self.limit.in_flight:
            return ChargeKind.PLACE
        special = ChargeKind.BOOK if self.wait_us else ChargeKind.HOLD
        return special if self.wait_us or self.settle is not None else ChargeKind.TAKE

    @property
    def detail(self) -> tuple[int | str, ...]:
        """The detail of its charges. A place has the name of its lease, which each request gets when it is decided."""
        return (self.wait_us,) if self.wait_us else ("",) if self.kind is ChargeKind.PLACE else ()

    @property
    def bucket_start(self) -> str:
        """How the names of its buckets begin, behind the key prefix. What counts places is no bucket of tokens."""
        return f"{self.name}/in_flight:" if self.kind is ChargeKind.PLACE else f"{self.name}:"


class PolicyMatch(NamedTuple):
    """A policy that applies to a request, and the charge it makes. `charge` is None where its key is blocked."""

    policy: Policy
    charge: Charge | None


class PolicySet:
    """All policies of one configuration, compiled.

    `fields` are the header names (lower case) that decide a limit: identity or condition. They reach the application
    even where a client names them in `Connection`. `origins`: their preflights are not charged.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        addresses: ClientAddress,
        key_prefix: str,
        origins: BrowserOrigins | None = None,
    ) -> None:
        self.policies = tuple(policies)
        self.identity = Identity(addresses)
        self.fields = frozenset(_fields_of(policies))
        self.key_prefix = key_prefix
        self.may_wait = any(policy.wait_us for policy in policies)
        self.origins = origins
        self._rules = tuple(_Rule(policy, self.identity, key_prefix) for policy in policies)
        self._cached_candidates = lru_cache(CACHED_TARGETS)(self._candidates)

    def applying(self, facts: RequestFacts) -> Sequence[PolicyMatch]:
        """The policies that apply to a request, in the order of the configuration; empty where a policy exempts it.

        Raises BadRequest where the path or an identity is ambiguous.
        """
        if self.origins is not None and facts.method == "OPTIONS":
            return self._applying_to_options(facts, self.origins)
        path = path_part(facts.target)
        candidates = self._cached_candidates(path) if len(path) <= CACHED_TARGET_CHARS else self._candidates(path)
        if len(candidates) == 1 and candidates[0].always:
            return candidates[0].alone(facts)
        return _applied([rule for rule in candidates if rule.takes(facts)], facts)

    def _applying_to_options(self, facts: RequestFacts, origins: BrowserOrigins) -> list[PolicyMatch]:
        """As `applying`; a preflight is charged nothing, and refused only where its key is blocked."""
        found = _applied([rule for rule in self._candidates(path_part(facts.target)) if rule.takes(facts)], facts)
        if origins.is_preflight(facts, self.fields):
            return [entry for entry in found if entry.charge is None]
        return found

    def concerning(self, facts: RequestFacts) -> list[PolicyMatch]:
        """The policies that apply to the caller on any path and method, for its status page.

        An exemption that depends on path or method does not change the caller's limits elsewhere.
        """
        rules = [rule for rule in self._rules if rule.takes_rest(facts)]
        return _applied([rule for rule in rules if not (rule.policy.exempt and rule.partly)], facts)

    def bucket_named(self, policy: Policy, key: str) -> str:
        """The bucket's name for a key in the form of `key_in`."""
        return f"{self.key_prefix}{policy.bucket_start}{key}"

    def override_of(self, policy: Policy, key: str) -> Override | None:
        """The override for a key in the form of `key_in`, from any alternative of the policy's key."""
        parts = key.split(",")
        for values, override in policy.overrides.items():
            if len(values) == len(parts) and all(map(names_value, parts, values)):
                return override
        return None

    def bucket_of(self, policy: Policy, facts: RequestFacts) -> str:
        """The name of a policy's bucket for a request that it applies to, also where its key is blocked."""
        return self.bucket_named(policy, self.key_of(policy, facts))

    def key_in(self, bucket: str, policy: Policy) -> str:
        """The key in one of the policy's bucket names."""
        return bucket[len(self.key_prefix) + len(policy.bucket_start) :]

    def key_of(self, policy: Policy, facts: RequestFacts) -> str:
        """The key of a request under one of the policies, as in the bucket's name; empty for an exempt policy."""
        return next(rule for rule in self._rules if rule.policy is policy).key_of(facts)

    def _candidates(self, path: str) -> "tuple[_Rule, ...]":
        readings = paths_of(path)
        return tuple(rule for rule in self._rules if rule.policy.match.takes_path(readings, every=rule.policy.exempt))


class _Rule:
    """A policy prepared for matching.

    `always`: it applies, and charges, whenever its path matches. `partly`: it depends on path or method. `_field`: the
    header field that alone gives the key when it is present once and not empty, where no cost depends on the method;
    `_seen` then caches the policy and charge for its values.
    """

    __slots__ = (
        "_any_method",
        "_bucket",
        "_costs",
        "_detail",
        "_fall_back_to_client",
        "_field",
        "_identity",
        "_kind",
        "_only_path",
        "_parts",
        "_seen",
        "always",
        "partly",
        "policy",
    )

    def __init__(self, policy: Policy, identity: Identity, key_prefix: str) -> None:
        self.policy = policy
        self._identity = identity
        self._bucket = key_prefix + policy.bucket_start
        self._kind, self._detail = policy.kind, policy.detail
        self._any_method = not policy.match.methods
        self._only_path = not (
            policy.match.fields or policy.match.hosts or policy.match.client_ip or policy.match.client_certs
        )
        alternatives = policy.key.parts if policy.key else ()
        self._parts = identity.part_readers(policy.key, ignore_case=policy.match.ignores_case) if policy.key else ()
        self._fall_back_to_client = [
            any(source.kind is SourceKind.CLIENT_IP for source in part[1:]) for part in alternatives
        ]
        # HEAD runs the handler of GET, and costs the same where it has no cost of its own.
        self._costs = {"HEAD": policy.costs["GET"], **policy.costs} if "GET" in policy.costs else policy.costs
        self._field = "" if policy.costs else deciding_field(policy.key)
        self._seen: dict[str, tuple[PolicyMatch, ...]] = {}
        self.partly = bool(policy.match.paths or policy.match.methods)
        self.always = self._only_path and self._any_method and not policy.exempt

    def takes(self, facts: RequestFacts) -> bool:
        """Whether everything but the path matches."""
        if not self._any_method and not self.policy.match.takes_method(facts.method):
            return False
        return self._only_path or self.takes_rest(facts)

    def takes_rest(self, facts: RequestFacts) -> bool:
        """Whether everything but path and method matches."""
        return self.policy.match.takes_rest(facts, self._identity, every=self.policy.exempt)

    def alone(self, facts: RequestFacts) -> tuple[PolicyMatch, ...]:
        """The match where no other rule applies, from the cache for a caller that was seen before."""
        if not self._field:
            entry = self.applied(facts)
            return () if entry is None else (entry,)
        values = facts.fields.getall(self._field, ())
        known = self._seen.get(values[0]) if len(values) == 1 else None
        if known is None:
            entry = self.applied(facts)
            known = () if entry is None else (entry,)
            if len(values) == 1 and values[0].strip(" \t") and len(values[0]) <= LONGEST_VALUE_BYTES:
                if len(self._seen) >= MOST_SEEN:
                    self._seen.clear()
                self._seen[values[0]] = known
        return known

    def applied(self, facts: RequestFacts) -> PolicyMatch | None:
        """The policy with its charge; None where an override exempts the key. Not for exempt policies."""
        policy = self.policy
        if len(self._parts) == 1:
            name, value = self._parts[0](facts)
            values: tuple[str, ...] = (value,)
        else:
            read = [part(facts) for part in self._parts]
            name, values = ",".join(part[0] for part in read), tuple(part[1] for part in read)
        limit = policy.limit
        override = policy.overrides.get(values) if policy.overrides else None
        if override is not None and self._means(name, values):
            if override.exempt:
                return None
            if override.blocked:
                return PolicyMatch(policy, None)
            limit = override.limit or limit
        cost = self._costs.get(facts.method, policy.cost) if self._costs else policy.cost
        assert limit is not None  # noqa: S101  (only exempt policies have none)
        return PolicyMatch(policy, Charge(self._bucket + name, limit, cost, policy.shadow, self._kind, self._detail))

    def key_of(self, facts: RequestFacts) -> str:
        """The request's key, as in the bucket's name."""
        return ",".join(part(facts)[0] for part in self._parts)

    def _means(self, name: str, values: Sequence[str]) -> bool:
        """Whether an override of these values is for this key: an address is for the client that has it, not for a
        header field that holds an address.
        """
        parts = zip(name.split(","), values, self._fall_back_to_client, strict=True)
        return not any(
            client and not text.startswith(CLIENT_LABEL) and is_address(value) for text, value, client in parts
        )


def _applied(rules: Sequence[_Rule], facts: RequestFacts) -> list[PolicyMatch]:
    applied = []
    for rule in rules:
        if rule.policy.exempt:
            return []
        entry = rule.applied(facts)
        if entry is not None:
            applied.append(entry)
    return applied


def _fields_of(policies: Sequence[Policy]) -> set[str]:
    names = {condition.name.lower() for policy in policies for condition in policy.match.fields}
    for policy in policies:
        for alternatives in policy.key.parts if policy.key else ():
            names.update(field_name for source in alternatives if (field_name := source.field))
    return names
