"""Counts of a replay by policy, by key and over time, in bounded memory."""

from collections import Counter
from dataclasses import dataclass, field

from sidegate.decision.identity import ANONYMOUS
from sidegate.decision.policy import Policy, PolicyMatch, PolicySet
from sidegate.decision.verdict import Answer, Outcome, Verdict, outcome_of

# Keys counted individually, over all policies, about 0.3 KB each. If there are more, the half refused least is dropped,
# and the counts of keys become lower bounds.
MOST_KEYS = 100_000
# Slots of a timeline; a longer log has wider slots.
_MOST_SLOTS = 4096
_FIRST_SLOT_US = 1_000_000
# Reasons of ambiguous requests contain numbers and names from the log, so their number needs a bound.
_MOST_REASONS = 20
# A hashed value contains `=` like the value of a later source (decision/identity).
_HASHED = "blake2b="


class RequestTimeline:
    """Counts of requests over time, in slots that double in width if there are too many. Accepts times in any order."""

    def __init__(self) -> None:
        self._slot_us = _FIRST_SLOT_US
        self._counts: dict[int, int] = {}

    def add(self, time_us: int) -> None:
        counts, slot = self._counts, time_us // self._slot_us
        counts[slot] = counts.get(slot, 0) + 1
        if len(counts) > _MOST_SLOTS:
            self._widen()

    def spread(self, first_us: int, last_us: int, columns: int) -> list[int]:
        """Return the counts between two times in at most `columns` columns of equal width, not narrower than a slot."""
        columns = max(1, min(columns, (last_us - first_us) // self._slot_us + 1))
        width_us = (last_us - first_us) // columns + 1
        spread = [0] * columns
        for slot, count in self._counts.items():
            time_us = max(first_us, slot * self._slot_us)
            spread[min(columns - 1, (time_us - first_us) // width_us)] += count
        return spread

    def _widen(self) -> None:
        self._slot_us *= 2
        narrow, self._counts = self._counts, {}
        for slot, count in narrow.items():
            self._counts[slot // 2] = self._counts.get(slot // 2, 0) + count


@dataclass(slots=True)
class KeyTally:
    """Counts of one bucket.

    `fell_back`: a part of its key comes from a later source; `anonymous`: no source of a part was present.
    """

    policy: str
    key: str
    fell_back: bool
    anonymous: bool
    requests: int = 0
    refused: int = 0


@dataclass(slots=True)
class PolicyTally:
    """Counts of one policy. A request that it admits counts as admitted even if another policy refuses it.

    `shadow_refused` counts what a shadow policy would have refused, `blocked` the refusals of blocked keys.
    """

    policy: Policy
    requests: int = 0
    admitted: int = 0
    refused: int = 0
    shadow_refused: int = 0
    blocked: int = 0
    fell_back: int = 0
    anonymous: int = 0
    refusals: RequestTimeline = field(default_factory=RequestTimeline)


class Tally:
    """All counts of one replay. `keys` is by bucket name."""

    def __init__(self, policies: PolicySet) -> None:
        self._policies = policies
        self.policies = {policy.name: PolicyTally(policy) for policy in policies.policies if not policy.exempt}
        self.keys: dict[str, KeyTally] = {}
        self.keys_dropped = 0
        self.passed = self.refused = self.unlimited = self.own_pages = self.ambiguous = 0
        self.ambiguous_reasons: Counter[str] = Counter()
        self.refused_statuses: Counter[int] = Counter()
        self.requests_over_time = RequestTimeline()
        self.refused_over_time = RequestTimeline()

    def count(self, verdict: Verdict, now_us: int, status: int) -> None:
        """Count a request to which policies apply, with its logged status (0 if not logged)."""
        if verdict.answer is Answer.PASS:
            self.passed += 1
        else:
            self.refused += 1
            self.refused_statuses[status // 100] += 1
            self.refused_over_time.add(now_us)
        for match, level in zip(verdict.applied, verdict.levels, strict=True):
            self._count_policy(match, outcome_of(verdict, match, level), now_us)

    def count_ambiguous(self, reason: str) -> None:
        """Count a request that would be answered 400."""
        self.ambiguous += 1
        if reason in self.ambiguous_reasons or len(self.ambiguous_reasons) < _MOST_REASONS:
            self.ambiguous_reasons[reason] += 1

    def _count_policy(self, match: PolicyMatch, outcome: Outcome, now_us: int) -> None:
        policy, charge = match.policy, match.charge
        tally = self.policies[policy.name]
        tally.requests += 1
        key = None
        if charge is None:
            tally.blocked += 1
        else:
            key = self.keys.get(charge.key) or self._new_key(charge.key, policy)
            key.requests += 1
            tally.fell_back += key.fell_back
            tally.anonymous += key.anonymous
        if outcome is Outcome.ALLOWED:
            tally.admitted += 1
            return
        tally.refusals.add(now_us)
        if key is not None:
            key.refused += 1
        if outcome is Outcome.SHADOW_REFUSED:
            tally.shadow_refused += 1
        else:
            tally.refused += 1

    def _new_key(self, bucket: str, policy: Policy) -> KeyTally:
        if len(self.keys) >= MOST_KEYS:
            self._drop_keys()
        key = self._policies.key_in(bucket, policy)
        parts = key.split(",")
        fell_back = any("=" in part and not part.startswith(_HASHED) for part in parts)
        tally = self.keys[bucket] = KeyTally(policy.name, key, fell_back, ANONYMOUS in parts)
        return tally

    def _drop_keys(self) -> None:
        kept = sorted(self.keys.items(), key=lambda item: (-item[1].refused, -item[1].requests))[: MOST_KEYS // 2]
        self.keys_dropped += len(self.keys) - len(kept)
        self.keys = dict(kept)
