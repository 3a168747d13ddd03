"""This proxy's share of each limit, in memory, for `on_failure: local` while the store does not answer.

A share is limit, burst and initial divided by the number of live proxies, rounded down, so that all shares together
never exceed the limit. The one exception: a share's burst is never less than the policy's largest cost, one token for
most, since it would otherwise admit nothing for ever; with fewer tokens than proxies the shares may hold one each.

Requests admitted here are charged to the shared buckets when the store is back (`debts`). The local buckets stay, so
that repeated outages refill nothing.

Bounded: the bucket that was used least recently is dropped for a new one, and its debt with it.

Pure: `now_us` is the caller's monotonic clock. The arithmetic is that of decision/bucket.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import islice

from sidegate.decision.bucket import Bucket, Charge, Level, Limit, Rate, decide, passed
from sidegate.decision.policy import OnStoreFailure, Policy, PolicyMatch

# Bounds the memory that an attacker with many identities can claim: about 23 MB.
MOST_BUCKETS = 65_536


class LocalStore:
    """The local buckets and their debts."""

    def __init__(self, most_buckets: int = MOST_BUCKETS) -> None:
        self._most_buckets = most_buckets
        self._buckets: dict[str, Bucket] = {}
        self._owed: dict[str, Charge] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    @property
    def owes(self) -> bool:
        """Whether there are debts to charge to the shared buckets."""
        return bool(self._owed)

    def decide(
        self, applied: Sequence[PolicyMatch], proxies: int, now_us: int
    ) -> tuple[list[PolicyMatch], list[Level | None], bool]:
        """Decide a request on its `local` policies, all or none; other policies have no effect here.

        Returns the policies with their shares, the levels of their buckets (None for other policies), and whether the
        request passes.
        """
        shares = [_shared_out(entry, proxies) for entry in applied]
        charges = [entry.charge for entry in shares if entry.charge is not None and is_local(entry.policy)]
        for charge in charges:
            self._touch(charge.key)
        (found,) = decide([charges], self._buckets, now_us)
        passes = passed(charges, found)
        self._bound()
        following = iter(found)
        levels: list[Level | None] = []
        for entry, share in zip(applied, shares, strict=True):
            if entry.charge is None or share.charge is None or not is_local(entry.policy):
                levels.append(None)
                continue
            level = next(following)
            levels.append(level)
            if passes and level.enough and entry.charge.cost:
                self._owe(entry.charge)
        return shares, levels, passes

    def forget(self, key: str) -> bool:
        """Drop a bucket and its debt, after a reset. Returns whether there was one."""
        self._owed.pop(key, None)
        return self._buckets.pop(key, None) is not None

    def debts(self, most: int) -> list[Charge]:
        """Remove up to `most` debts and return them as charges on the shared buckets."""
        taken = list(islice(self._owed.values(), most))
        for charge in taken:
            del self._owed[charge.key]
        return taken

    def owe_again(self, debts: Sequence[Charge]) -> None:
        """Put back debts that are known not to have been charged."""
        for charge in debts:
            if charge.key in self._buckets:
                self._owe(charge)

    def _owe(self, charge: Charge) -> None:
        owed = self._owed.get(charge.key)
        amount = charge.cost + (owed.cost if owed else 0)
        # No bucket holds more than its burst, so none can be charged more.
        cost = min(amount, charge.limit.burst)
        self._owed[charge.key] = Charge(charge.key, charge.limit, cost, debit=True)

    def _touch(self, key: str) -> None:
        bucket = self._buckets.pop(key, None)
        if bucket is not None:
            self._buckets[key] = bucket

    def _bound(self) -> None:
        while len(self._buckets) > self._most_buckets:
            oldest = next(iter(self._buckets))
            del self._buckets[oldest]
            self._owed.pop(oldest, None)


def is_local(policy: Policy) -> bool:
    """Whether the policy's share is enforced here."""
    return policy.on_store_failure is OnStoreFailure.LOCAL


@lru_cache(65_536)
def share_of(limit: Limit, proxies: int, largest_cost: int) -> Limit:
    """One proxy's share of a limit. The same object for the same arguments, while it is cached."""
    rate = Fraction(limit.rate.tokens, limit.rate.period_us * proxies)
    burst = max(limit.burst // proxies, min(largest_cost, limit.burst))
    initial = min(burst, max(limit.initial // proxies, min(1, limit.initial)))
    return Limit(Rate(rate.numerator, rate.denominator), burst, initial, limit.idle_ttl_ms)


def _shared_out(entry: PolicyMatch, proxies: int) -> PolicyMatch:
    policy, charge = entry
    if charge is None or not is_local(policy):
        return entry
    largest_cost = max(policy.cost, charge.cost, *policy.costs.values())
    return PolicyMatch(policy, charge._replace(limit=share_of(charge.limit, proxies, largest_cost)))
