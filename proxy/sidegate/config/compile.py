"""Compiles the policies of a configuration into the PolicySet that decides."""

import re
from ipaddress import IPv4Network, ip_network
from itertools import product

from sidegate.config import globs
from sidegate.config.clauses import FieldCondition
from sidegate.config.model import Settings
from sidegate.config.overrides import OverrideSettings, key_value, limit_with_bookings, limit_with_debts
from sidegate.config.policies import MatchSettings, PolicySettings
from sidegate.config.settle_settings import SettleSettings
from sidegate.config.units import Quota
from sidegate.decision.bucket import Limit, Rate, places_limit
from sidegate.decision.identity import KeySource, SourceKind
from sidegate.decision.match import FieldMatch, Match
from sidegate.decision.policy import OnStoreFailure, Override, Policy, PolicySet
from sidegate.decision.settling import SettleRule


def compile_policies(settings: Settings) -> PolicySet:
    """The policies of a configuration, compiled."""
    on_failure = OnStoreFailure(settings.store.on_failure)
    prefix = settings.client_ip.ipv6_prefix
    policies = [_policy(policy, on_failure, prefix) for policy in settings.policies]
    origins = settings.responses.cors.browser_origins
    return PolicySet(policies, settings.client_ip.addresses, settings.store.key_prefix, origins)


def _policy(written: PolicySettings, on_failure: OnStoreFailure, prefix: int) -> Policy:
    if written.exempt:
        return Policy(written.name, _match(written.match, exempts=True), exempt=True)
    own = OnStoreFailure(written.on_store_failure) if written.on_store_failure else on_failure
    return Policy(
        name=written.name,
        match=_match(written.match),
        key=written.key,
        limit=_limit_of(written, written),
        cost=written.cost.other,
        costs=written.cost.by_method,
        overrides=_overrides(written, prefix),
        shadow=written.shadow,
        on_store_failure=own,
        settle=_settle(written.settle) if written.settle else None,
        wait_us=(written.wait_ms or 0) * 1000,
    )


def _limit_of(policy: PolicySettings, rule: PolicySettings | OverrideSettings) -> Limit | None:
    """The limit of a policy's keys, or of an override's."""
    if rule.in_flight is not None:
        return places_limit(rule.in_flight)
    return None if rule.limit is None else _limit(policy, rule.limit, rule.burst, rule.initial)


def _limit(policy: PolicySettings, quota: Quota, burst: int | None, initial: int | None) -> Limit:
    burst = burst or quota.count
    owes = policy.settle is not None and not policy.settle.when
    if policy.wait_ms is not None:
        rate = limit_with_bookings(quota, burst, policy.wait_ms)
    else:
        rate = limit_with_debts(quota, burst) if owes else Rate.fitting(quota.count, quota.period_us, burst)
    return Limit(rate, burst, burst if initial is None else min(initial, burst), policy.idle_ttl_ms)


def _settle(written: SettleSettings) -> SettleRule:
    path = written.json_path.split(".") if written.json_path else ()
    return SettleRule(written.statuses, (written.header or "").lower(), written.keep, tuple(path))


def _overrides(written: PolicySettings, prefix: int) -> dict[tuple[str, ...], Override]:
    overrides: dict[tuple[str, ...], Override] = {}
    parts = written.key.parts if written.key else ()
    folded = written.match.ignore_case
    for each in written.overrides:
        override = _override(each, written)
        for values in each.key:
            overrides[values] = override
            forms = [
                dict.fromkeys(_as_shown(value, source, prefix, folded) for source in alternatives)
                for value, alternatives in zip(values, parts, strict=True)
            ]
            for seen in product(*forms):
                overrides.setdefault(seen, override)
    return overrides


def _as_shown(value: str, source: KeySource, prefix: int, folded: bool) -> str:
    """The value as a source reads it from requests: an IPv6 address as its network, a path in lower case where its
    match ignores case (`folded`), credentials, cookies and parameters in the one form of all their spellings.
    """
    match source.kind:
        case SourceKind.PATH:
            return value.lower() if folded else value
        case SourceKind.CLIENT_IP:
            return _client(value, prefix)
        case _:
            return key_value(source, value) or value


def _client(value: str, prefix: int) -> str:
    try:
        found = ip_network(value, strict=False)
    except ValueError:
        return value
    if isinstance(found, IPv4Network):
        return value
    if (mapped := found.network_address.ipv4_mapped) is not None:
        return str(mapped)
    if found.prefixlen < prefix:
        return str(found)
    return str(found.supernet(new_prefix=prefix) if prefix < 128 else found.network_address)


def _override(written: OverrideSettings, policy: PolicySettings) -> Override:
    return Override(_limit_of(policy, written), blocked=written.blocked, exempt=written.exempt)


def _match(written: MatchSettings, *, exempts: bool = False) -> Match:
    case = re.IGNORECASE if written.ignore_case else re.NOFLAG
    return Match(
        paths=tuple(re.compile(globs.path_regex(pattern), case) for pattern in written.path),
        methods=frozenset(written.method),
        fields=tuple(_field(each, exempts=exempts) for each in written.header),
        hosts=tuple(re.compile(globs.text_regex(pattern.removesuffix(".")), re.IGNORECASE) for pattern in written.host),
        client_ip=written.client_ip,
        client_certs=tuple(re.compile(globs.text_regex(pattern)) for pattern in written.client_cert),
    )


def _field(written: FieldCondition, *, exempts: bool) -> FieldMatch:
    if not written.values:
        return FieldMatch(written.name, None)
    # Applications read many values in any case (Content-Type: Application/JSON), but not all.
    case = re.NOFLAG if exempts else re.IGNORECASE
    values = "|".join(f"(?:{globs.text_regex(value)})" for value in written.values)
    return FieldMatch(written.name, re.compile(values, case))
