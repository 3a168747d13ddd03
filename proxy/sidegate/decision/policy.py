"""Which limits apply to a request, and what each charges.

A PolicySet is compiled once from the configuration. Whether a path can concern a policy depends on the path alone, so
that answer is cached; what is left for each request is a few set look-ups over the policies that can match.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from sidegate.decision.bucket import Charge, Limit
from sidegate.decision.identity import (
    ANONYMOUS,
    CLIENT_LABEL,
    LONGEST_VALUE_BYTES,
    ClientAddress,
    Identity,
    Key,
    Network,
    SourceKind,
    encode,
    hashed,
    host_of,
    is_address,
)
from sidegate.decision.request import CACHED_TARGET_CHARS, CACHED_TARGETS, RequestFacts, path_part, paths_of

# Callers that a rule keeps in mind, so that it need not work out the charge of each of their requests: some 500 KB.
MOST_SEEN = 1024


class OnStoreFailure(Enum):
    """What a policy does with a request that the store cannot decide."""

    DENY = "deny"
    ALLOW = "allow"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class FieldMatch:
    """A header condition: the field is present (`pattern` None) or one of its values matches whole."""

    name: str
    pattern: re.Pattern[str] | None

    def matches(self, facts: RequestFacts) -> bool:
        values = facts.fields.getall(self.name, ())
        if self.pattern is None:
            return bool(values)
        return any(self.pattern.fullmatch(value.strip(" \t")) for value in values)


class Mismatch(NamedTuple):
    """A condition that does not hold, as the configuration names it, and what the request has in that place."""

    condition: str
    found: str


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions that must all hold; an empty one always does. Within one, any alternative suffices."""

    paths: tuple[re.Pattern[str], ...] = ()
    methods: frozenset[str] = frozenset()
    fields: tuple[FieldMatch, ...] = ()
    hosts: tuple[re.Pattern[str], ...] = ()
    client_ip: tuple[Network, ...] = ()

    @property
    def ignores_case(self) -> bool:
        """Whether paths match in any case."""
        return any(pattern.flags & re.IGNORECASE for pattern in self.paths)

    def takes_path(self, paths: Sequence[str]) -> bool:
        """Whether any reading of the path matches."""
        return not self.paths or any(pattern.fullmatch(path) for pattern in self.paths for path in paths)

    def takes_rest(self, facts: RequestFacts, identity: Identity) -> bool:
        """Whether everything but path and method matches."""
        if self.fields and not all(condition.matches(facts) for condition in self.fields):
            return False
        if self.hosts:
            host = host_of(facts) or ""
            if not any(pattern.fullmatch(host) for pattern in self.hosts):
                return False
        if self.client_ip:
            address = identity.client_ip(facts)
            return any(address in network for network in self.client_ip)
        return True


@dataclass(frozen=True, slots=True)
class Override:
    """Another rule for one key of a policy: another limit, or `blocked`, or `exempt`."""

    limit: Limit | None = None
    blocked: bool = False
    exempt: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy of the configuration. `limit` and `key` are None exactly where `exempt` is set.

    `costs` maps a method to its cost where the cost depends on it; `cost` is that of all others.
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

    def takes_path(self, readings: Sequence[str]) -> bool:
        """Whether the path matches: in any of its readings, but in all of them where the policy exempts."""
        if self.exempt:
            return all(self.match.takes_path((reading,)) for reading in readings)
        return self.match.takes_path(readings)

    def why_not(self, facts: RequestFacts, identity: Identity) -> Mismatch | None:
        """The first condition that does not hold; None where all do. For people: matching itself never asks."""
        match, readings = self.match, paths_of(facts.target)
        if not self.takes_path(readings):
            return Mismatch("path", " or ".join(readings))
        if match.methods and facts.method not in match.methods:
            return Mismatch("method", facts.method)
        for condition in match.fields:
            if not condition.matches(facts):
                return Mismatch(f"header {condition.name}", ", ".join(facts.fields.getall(condition.name, ())))
        if match.hosts and not Match(hosts=match.hosts).takes_rest(facts, identity):
            return Mismatch("host", host_of(facts) or "")
        if match.client_ip and not Match(client_ip=match.client_ip).takes_rest(facts, identity):
            return Mismatch("client_ip", str(identity.client_ip(facts)))
        return None


class PolicyMatch(NamedTuple):
    """A policy that applies to a request, and the charge it makes. `charge` is None where its key is blocked."""

    policy: Policy
    charge: Charge | None


class PolicySet:
    """All policies of one configuration, compiled.

    `fields` are the header names (lower case) that decide a limit: identity or condition. They reach the application
    even where a client names them in `Connection`.
    """

    def __init__(self, policies: Sequence[Policy], addresses: ClientAddress, key_prefix: str) -> None:
        self.policies = tuple(policies)
        self.identity = Identity(addresses)
        self.fields = frozenset(_fields_of(policies))
        self.key_prefix = key_prefix
        self._rules = tuple(_Rule(policy, self.identity, key_prefix) for policy in policies)
        self._cached_candidates = lru_cache(CACHED_TARGETS)(self._candidates)

    def applying(self, facts: RequestFacts) -> Sequence[PolicyMatch]:
        """The policies that apply to a request, in the order of the configuration; empty where one exempts it.

        Raises BadRequest where the path is doubtful or an identity is given twice.
        """
        path = path_part(facts.target)
        candidates = self._cached_candidates(path) if len(path) <= CACHED_TARGET_CHARS else self._candidates(path)
        if len(candidates) == 1 and candidates[0].always:
            return candidates[0].alone(facts)
        return _applied([rule for rule in candidates if rule.takes(facts)], facts)

    def concerning(self, facts: RequestFacts) -> list[PolicyMatch]:
        """The policies that concern the caller whatever path and method it asks for: those its status shows.

        An exemption that depends on path or method leaves the caller's limits as they are elsewhere.
        """
        rules = [rule for rule in self._rules if rule.policy.match.takes_rest(facts, self.identity)]
        return _applied([rule for rule in rules if not (rule.policy.exempt and rule.partly)], facts)

    def bucket_named(self, policy: Policy, key: str) -> str:
        """The name of the policy's bucket for a key as `key_in` gives it."""
        return f"{self.key_prefix}{policy.name}:{key}"

    def override_of(self, policy: Policy, key: str) -> Override | None:
        """The override for a key as `key_in` gives it, whichever alternative of the policy's key it came from."""
        parts = key.split(",")
        for values, override in policy.overrides.items():
            if len(values) == len(parts) and all(map(_names, parts, values)):
                return override
        return None

    def bucket_of(self, policy: Policy, facts: RequestFacts) -> str:
        """The name of a policy's bucket for a request that it applied to, also where its key is blocked."""
        return self.bucket_named(policy, self.key_of(policy, facts))

    def key_in(self, bucket: str, policy: Policy) -> str:
        """The key's part of one of the policy's bucket names."""
        return bucket[len(self.key_prefix) + len(policy.name) + 1 :]

    def key_of(self, policy: Policy, facts: RequestFacts) -> str:
        """The key that a request shows to one of the policies, as its bucket is named; empty for an exempt policy."""
        return next(rule for rule in self._rules if rule.policy is policy).key_of(facts)

    def _candidates(self, path: str) -> "tuple[_Rule, ...]":
        readings = paths_of(path)
        return tuple(rule for rule in self._rules if rule.policy.takes_path(readings))


class _Rule:
    """A policy as it is applied: what can be worked out beforehand has been.

    `always` says that it applies, and charges, whenever its path matches; `partly` that it depends on path or method.
    `_field` is the header field that alone decides the key where it is present once and not empty, and no cost depends
    on the method; then `_seen` keeps what applied to its values.
    """

    __slots__ = (
        "_bucket",
        "_fall_back_to_client",
        "_field",
        "_identity",
        "_methods",
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
        self._bucket = f"{key_prefix}{policy.name}:"
        self._methods = policy.match.methods
        self._only_path = not (policy.match.fields or policy.match.hosts or policy.match.client_ip)
        alternatives = policy.key.parts if policy.key else ()
        self._parts = identity.part_readers(policy.key, ignore_case=policy.match.ignores_case) if policy.key else ()
        self._fall_back_to_client = [
            any(source.kind is SourceKind.CLIENT_IP for source in part[1:]) for part in alternatives
        ]
        self._field = "" if policy.costs else _deciding_field(policy.key)
        self._seen: dict[str, tuple[PolicyMatch, ...]] = {}
        self.partly = bool(policy.match.paths or policy.match.methods)
        self.always = self._only_path and not self._methods and not policy.exempt

    def takes(self, facts: RequestFacts) -> bool:
        """Whether everything but the path matches."""
        if self._methods and facts.method not in self._methods:
            return False
        return self._only_path or self.policy.match.takes_rest(facts, self._identity)

    def alone(self, facts: RequestFacts) -> tuple[PolicyMatch, ...]:
        """What applies where no other rule does. A caller seen before is known by the plain value of its field."""
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
        cost = policy.costs.get(facts.method, policy.cost) if policy.costs else policy.cost
        assert limit is not None  # noqa: S101  (only exempt policies have none)
        return PolicyMatch(policy, Charge(self._bucket + name, limit, cost, policy.shadow))

    def key_of(self, facts: RequestFacts) -> str:
        """The request's key, as its bucket is named."""
        return ",".join(part(facts)[0] for part in self._parts)

    def _means(self, name: str, values: Sequence[str]) -> bool:
        """Whether an override of these values means this key: one of an address means the client that has it, and not
        a field that somebody sent with an address in it.
        """
        parts = zip(name.split(","), values, self._fall_back_to_client, strict=True)
        return not any(
            client and not text.startswith(CLIENT_LABEL) and is_address(value) for text, value, client in parts
        )


def _deciding_field(key: Key | None) -> str:
    """The header field that decides a key of one part wherever it is present; empty where none does, or a secret."""
    if key is None or len(key.parts) != 1:
        return ""
    first = key.parts[0][0]
    return first.name if first.kind is SourceKind.HEADER and not first.secret else ""


def _names(part: str, value: str) -> bool:
    """Whether a part of a bucket's name was made of this value, plain or hashed, with or without its source."""
    if not value:
        return part == ANONYMOUS
    return any(part == written or part.endswith(f"={written}") for written in (encode(value), hashed(value)))


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
