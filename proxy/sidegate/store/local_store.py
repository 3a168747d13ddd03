"""This proxy's share of each limit, in memory, for `on_failure: local` while the store does not answer.

A share is limit, burst and initial divided by the number of live proxies, rounded down, so that all shares together
never exceed the limit. The one exception: for a charge that costs more, the share's burst is that cost, one token for
most, since it would otherwise never be admitted; with fewer tokens than proxies the shares may hold one each.

Requests admitted here are charged to the shared buckets when the store is back (`debts`). A local bucket grows only
while the store is away (`OutageClock`), and otherwise only by what its shared bucket has paid of its debt (`repay`).
So over any number of outages the shares add one burst, and the rate over the time of the outages, to what the shared
buckets admit.

Bounded: a new bucket takes the place of one that is full and owes nothing, which is equivalent to a new one. Without
such a bucket a new key is refused, or each new identity would be a way to get a spent share again.

Pure: `now_us` is the time of `OutageClock`. The arithmetic is that of decision/bucket.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import islice

from sidegate.decision.bucket import Bucket, Charge, ChargeKind, Level, Limit, Places, Rate, places_limit, settle
from sidegate.decision.charging import decide, passed
from sidegate.decision.policy import OnStoreFailure, Policy, PolicyMatch

# Bounds the memory that an attacker with many identities can claim: about 23 MB.
MOST_BUCKETS = 65_536
# Bounds the buckets that one new key has checked for being full; those that are not go to the end of the queue.
_MOST_CHECKED = 16


class OutageClock:
    """The time during which the store did not decide, in µs. Its arguments are times of one monotonic clock."""

    def __init__(self) -> None:
        self._elapsed_us = 0
        self._counted_us = 0
        self.away = False

    def failed(self, asked_us: int, now_us: int, *, throughout: bool) -> int:
        """Count a failure to answer from `asked_us` to `now_us`. Returns the sum.

        `throughout`: a breaker is open, so that the store has been away since the last failure, unless it answered.
        """
        begun_us = self._counted_us if throughout and self.away else max(self._counted_us, asked_us)
        self._elapsed_us += max(0, now_us - begun_us)
        self._counted_us, self.away = now_us, True
        return self._elapsed_us

    def answered(self) -> None:
        """The store decides again."""
        self.away = False


def _no_places(_: str) -> Places:
    return Places({})


class LocalStore:
    """The local buckets and their debts."""

    def __init__(self, most_buckets: int = MOST_BUCKETS) -> None:
        self._most_buckets = most_buckets
        self._buckets: dict[str, Bucket] = {}
        self._limits: dict[str, Limit] = {}  # the share that each bucket was last held to
        self._owed: dict[str, Charge] = {}
        self._now_us = 0  # of the last decision

    def __len__(self) -> int:
        return len(self._buckets)

    @property
    def owes(self) -> bool:
        """Whether there are debts to charge to the shared buckets."""
        return bool(self._owed)

    def decide(
        self, applied: Sequence[PolicyMatch], proxies: int, now_us: int, places: Callable[[str], Places] = _no_places
    ) -> tuple[list[PolicyMatch], list[Level | None], bool]:
        """Decide a request on its `local` policies, all or none; other policies have no effect here. `places` returns
        the places of a bucket that this proxy has taken.

        Returns the policies with their shares, the levels of their buckets (None for other policies), and whether the
        request passes.
        """
        self._now_us = now_us
        shares = [_shared_out(entry, proxies) for entry in applied]
        charges = [entry.charge for entry in shares if entry.charge is not None and is_local(entry.policy)]
        if self._makes_room(charges, now_us):
            taken = {charge.key: places(charge.key) for charge in charges if charge.kind is ChargeKind.PLACE}
            (found,) = decide([charges], self._buckets, now_us, taken)
            self._limits |= {charge.key: charge.limit for charge in charges if charge.key in self._buckets}
        else:
            found = tuple([Level(0, 0, enough=False)] * len(charges))
        passes = passed(charges, found)
        following = iter(found)
        levels: list[Level | None] = []
        for entry, share in zip(applied, shares, strict=True):
            if entry.charge is None or share.charge is None or not is_local(entry.policy):
                levels.append(None)
                continue
            level = next(following)
            levels.append(level)
            if passes and level.enough and share.charge.cost and share.charge.kind is ChargeKind.TAKE:
                self._owe(entry.charge)
        return shares, levels, passes

    def settle(self, charge: Charge) -> None:
        """End a hold that was decided here; its final cost becomes a debt. `charge` has the limit that is shared."""
        share, final = self._limits.get(charge.key), int(charge.detail[0])
        if share is not None:
            _ = decide([[charge._replace(limit=share)]], self._buckets, self._now_us)
        if final:
            self._owe(charge._replace(cost=final))

    def give_back(self, share: Charge, level: Level) -> None:
        """Undo a charge that was decided here and left this level; `share` has this proxy's share as its limit."""
        if not share.cost or not level.enough:
            return
        if share.kind is ChargeKind.HOLD:
            self.settle(share.as_kind(ChargeKind.SETTLE, (0, level.at_us)))
        elif share.kind is ChargeKind.TAKE:
            self.repay(share.key, share.cost)
            owed = self._owed.pop(share.key, None)
            if owed is not None and owed.cost > share.cost:
                self._owed[share.key] = owed._replace(cost=owed.cost - share.cost)

    def forget(self, key: str) -> bool:
        """Drop a bucket and its debt, after a reset. Returns whether there was one."""
        self._owed.pop(key, None)
        self._limits.pop(key, None)
        return self._buckets.pop(key, None) is not None

    def clear(self) -> None:
        """Drop all buckets and debts."""
        for kept in (self._owed, self._limits, self._buckets):
            kept.clear()

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

    def repay(self, key: str, tokens: int) -> None:
        """Give a bucket back what its shared bucket has paid."""
        if (bucket := self._buckets.get(key)) is not None:
            self._buckets[key] = bucket._replace(tokens=min(bucket.tokens + tokens, self._limits[key].burst))

    def _owe(self, charge: Charge) -> None:
        owed = self._owed.get(charge.key)
        amount = charge.cost + (owed.cost if owed else 0)
        # No bucket holds more than its burst, so none can be charged more.
        cost = min(amount, charge.limit.burst)
        self._owed[charge.key] = Charge(charge.key, charge.limit, cost, kind=ChargeKind.DEBIT)

    def _makes_room(self, charges: Sequence[Charge], now_us: int) -> bool:
        """Make room for the buckets that these charges may create. Returns whether there is enough."""
        new = {
            charge.key
            for charge in charges
            if charge.cost and charge.kind is not ChargeKind.PLACE and charge.key not in self._buckets
        }
        surplus = len(self._buckets) + len(new) - self._most_buckets
        if surplus <= 0 or not new:
            return True
        in_use = {charge.key for charge in charges}
        for key in list(islice(self._buckets, _MOST_CHECKED)):
            if key not in self._owed and key not in in_use and self._is_full(key, now_us):
                self._drop(key)
                surplus -= 1
                if not surplus:
                    return True
            else:
                self._buckets[key] = self._buckets.pop(key)
        return False

    def _is_full(self, key: str, now_us: int) -> bool:
        limit = self._limits[key]
        return settle(self._buckets[key], limit, now_us).available >= limit.burst

    def _drop(self, key: str) -> None:
        del self._buckets[key], self._limits[key]


def is_local(policy: Policy) -> bool:
    """Whether the policy's share is enforced here."""
    return policy.on_store_failure is OnStoreFailure.LOCAL


@lru_cache(65_536)
def share_of(limit: Limit, proxies: int, largest_cost: int) -> Limit:
    """One proxy's share of a limit. The same object for the same arguments, while it is cached."""
    burst = max(limit.burst // proxies, min(largest_cost, limit.burst))
    if limit.in_flight:
        return places_limit(burst)
    rate = Fraction(limit.rate.tokens, limit.rate.period_us * proxies)
    initial = min(burst, max(limit.initial // proxies, min(1, limit.initial)))
    return Limit(Rate(rate.numerator, rate.denominator), burst, initial, limit.idle_ttl_ms)


def _shared_out(entry: PolicyMatch, proxies: int) -> PolicyMatch:
    policy, charge = entry
    if charge is None or not is_local(policy):
        return entry
    share = share_of(charge.limit, proxies, max(1, charge.cost))
    if charge.kind is ChargeKind.BOOK:  # a share has nothing to wait for: nobody knows how long the outage lasts
        return PolicyMatch(policy, Charge(charge.key, share, charge.cost, charge.shadow))
    return PolicyMatch(policy, charge._replace(limit=share))
