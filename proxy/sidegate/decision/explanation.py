"""Explains which policies apply to one request, and why, from the PolicySet that decides."""

from dataclasses import dataclass, replace
from enum import Enum

from sidegate.decision.bad_request import BadRequest
from sidegate.decision.bucket import Charge, Limit, Rate
from sidegate.decision.match import Mismatch
from sidegate.decision.policy import Policy, PolicyMatch, PolicySet
from sidegate.decision.request import RequestFacts, paths_of


class MatchResult(Enum):
    """The result of one policy for a request."""

    APPLIES = "applies"
    BLOCKED = "blocked"  # an override refuses the key
    EXEMPTS = "exempts"  # it is an exempt policy, and matches
    KEY_EXEMPT = "key_exempt"  # an override exempts the key
    PREFLIGHT = "preflight"  # it matches, but a browser's preflight is not charged
    SET_ASIDE = "set_aside"  # it matches, but an exempt policy does too
    NO_MATCH = "no_match"


@dataclass(frozen=True, slots=True)
class Consideration:
    """One policy and its result. NO_MATCH has a `mismatch`, APPLIES a `charge`; `key` is set where one was read.

    `matched_paths` are the readings of the path that the policy matches, where the path has more than one.
    """

    policy: Policy
    result: MatchResult
    key: str = ""
    charge: Charge | None = None
    mismatch: Mismatch | None = None
    matched_paths: tuple[str, ...] = ()

    @property
    def overridden(self) -> bool:
        """Whether the key has a limit of its own."""
        return self.charge is not None and self.charge.limit is not self.policy.limit


@dataclass(frozen=True, slots=True)
class Explanation:
    """The explanation of a request. Where `ambiguous` gives the reason for a 400, nothing is `considered`."""

    facts: RequestFacts
    client: str
    client_group: str
    paths: tuple[str, ...] = ()
    ambiguous: str = ""
    considered: tuple[Consideration, ...] = ()
    applied: tuple[PolicyMatch, ...] = ()


def explain(policies: PolicySet, facts: RequestFacts) -> Explanation:
    """Explain the result of `policies.applying` for this request."""
    identity = policies.identity
    client, group = str(identity.client_ip(facts)), identity.client_group(facts)
    paths: tuple[str, ...] = ()
    try:
        paths = paths_of(facts.target)
        if len(facts.fields.getall("Host", ())) > 1:
            raise BadRequest("the field Host occurs more than once")
        applied = tuple(policies.applying(facts))
        misses = [
            policy.match.first_mismatch(facts, paths, identity, every=policy.exempt) for policy in policies.policies
        ]
    except BadRequest as error:
        return Explanation(facts, client, group, paths, ambiguous=str(error))
    exempted = any(policy.exempt and miss is None for policy, miss in zip(policies.policies, misses, strict=True))
    by_name = {entry.policy.name: entry for entry in applied}
    considered = [
        _considered(policies, policy, facts, miss, by_name.get(policy.name), exempted)
        for policy, miss in zip(policies.policies, misses, strict=True)
    ]
    if len(paths) > 1:
        considered = [
            replace(item, matched_paths=item.policy.match.matching(paths)) if item.policy.match.paths else item
            for item in considered
        ]
    return Explanation(facts, client, group, paths, considered=tuple(considered), applied=applied)


def _considered(
    policies: PolicySet,
    policy: Policy,
    facts: RequestFacts,
    miss: Mismatch | None,
    entry: PolicyMatch | None,
    exempted: bool,
) -> Consideration:
    if miss is not None:
        return Consideration(policy, MatchResult.NO_MATCH, mismatch=miss)
    if policy.exempt:
        return Consideration(policy, MatchResult.EXEMPTS)
    if exempted:
        return Consideration(policy, MatchResult.SET_ASIDE)
    if entry is None and policies.origins is not None and policies.origins.is_preflight(facts, policies.fields):
        return Consideration(policy, MatchResult.PREFLIGHT, policies.key_of(policy, facts))
    if entry is not None and entry.charge is not None:
        return Consideration(policy, MatchResult.APPLIES, policies.key_in(entry.charge.key, policy), entry.charge)
    return Consideration(
        policy, MatchResult.KEY_EXEMPT if entry is None else MatchResult.BLOCKED, policies.key_of(policy, facts)
    )


def limit_text(limit: Limit) -> str:
    """A limit in the notation of the configuration: `10/minute, burst 15, initial 10`; `10 in flight`."""
    if limit.in_flight:
        return f"{limit.burst} in flight"
    initial = "" if limit.initial == limit.burst else f", initial {limit.initial}"
    return f"{rate_text(limit.rate, limit.burst)}, burst {limit.burst}{initial}"


def settle_text(policy: Policy) -> str:
    """How the answer settles the cost, or how long a request waits, as a sentence; empty for a plain policy."""
    rule = policy.settle
    if policy.wait_us:
        return f"a request without enough tokens waits for them, up to {policy.wait_us / 1e6:g} s"
    if rule is None:
        return ""
    if rule.when:
        return (
            f"the cost is held until the answer; {', '.join(_status_words(rule.when))} keep it, all others give it back"
        )
    kept = "" if rule.keep_header or not rule.header else ", which is removed"
    source = f"its field {rule.header}{kept}" if rule.header else f"{'.'.join(rule.json)} in its body"
    return f"the cost is held until the answer; {source} states the final one"


def _status_words(statuses: frozenset[int]) -> list[str]:
    """Statuses in order; a whole class as `5xx`."""
    whole = [digit for digit in range(1, 6) if statuses.issuperset(range(digit * 100, digit * 100 + 100))]
    single = [str(status) for status in sorted(statuses) if status // 100 not in whole]
    return [*single, *(f"{digit}xx" for digit in whole)]


def rate_text(rate: Rate, burst: int = 0) -> str:
    """A rate as a whole count per unit: the unit whose count is the burst, else the smallest possible unit."""
    whole = [
        (unit_us * rate.tokens // rate.period_us, name)
        for name, unit_us in (("s", 10**6), ("minute", 60 * 10**6), ("hour", 3600 * 10**6), ("day", 86_400 * 10**6))
        if unit_us * rate.tokens % rate.period_us == 0
    ]
    if not whole:
        return f"{rate.tokens}/{rate.period_us / 10**6:g}s"
    count, unit = next((pair for pair in whole if pair[0] == burst), whole[0])
    return f"{count}/{unit}"
