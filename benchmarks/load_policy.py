"""Bounds that a sidecar's policies set for one caller, checked from the caller's side.

Theory of operation. `/api/status` says how many whole tokens a bucket holds; the fraction, the store's clock and the
moment of each decision are hidden, and each decision lies somewhere between sending and answer. So a bucket is
followed by two lines over the caller's own monotonic clock: `Floor`, which the bucket is never below, and `Ceiling`,
which it is never above. A request must pass where every floor holds its cost, and must be refused where one ceiling
does not. Between the two either answer is right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor

from pydantic import BaseModel, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError

# The two machines' clocks may differ in speed by this much; quartz stays within a tenth of it.
CLOCK_DRIFT = 0.001
# What a bucket may lose to rounding each time it is charged.
LOST_PER_CHARGE_S = 1e-6


class StatusError(ValueError):
    """A status document that is not one; the message says where."""


class _Rate(BaseModel):
    tokens: PositiveInt
    period_us: PositiveInt


class _Policy(BaseModel):
    name: str
    key: str
    burst: NonNegativeInt
    rate: _Rate
    remaining: NonNegativeInt
    cost: NonNegativeInt = 1
    reset_s: NonNegativeFloat | None = None
    shadow: bool = False


class _Status(BaseModel):
    policies: list[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Allowance:
    """One caller's bucket, as reported at `asked_s` of the caller's clock.

    It held `remaining` whole tokens, and not more than `most` with the fraction.
    """

    policy: str
    key: str
    burst: int
    cost: int
    rate_per_s: float
    remaining: int
    most: float
    asked_s: float

    @property
    def name(self) -> str:
        """Policy and key, for people."""
        return f"{self.policy}:{self.key}"

    @property
    def fastest(self) -> float:
        """Tokens per second of the caller's clock, at most."""
        return self.rate_per_s * (1 + CLOCK_DRIFT)

    @property
    def slowest(self) -> float:
        """Tokens per second of the caller's clock, at least."""
        return self.rate_per_s * (1 - CLOCK_DRIFT)

    def most_requests(self, first_sent_s: float, last_answered_s: float) -> int:
        """How many requests between these moments may pass: floor(tokens at first + rate * T), by their cost."""
        at_first = min(self.burst, self.most + self.fastest * (first_sent_s - self.asked_s))
        return floor((at_first + self.fastest * (last_answered_s - first_sent_s)) / self.cost)

    def __str__(self) -> str:
        if self.rate_per_s > 1:
            return f"{self.policy}: {self.remaining} of {self.burst} tokens now, {self.rate_per_s:.9g} more a second"
        return f"{self.policy}: {self.remaining} of {self.burst} tokens now, another every {1 / self.rate_per_s:.9g} s"


def read_status(document: object, asked_s: float) -> tuple[Allowance, ...]:
    """The buckets that can refuse this caller, from a status document. Raises StatusError.

    Left out are shadow policies, those that cost nothing, and those whose key is blocked: they have no bucket.
    """
    try:
        entries = _Status.model_validate(document).policies
        policies = [_Policy.model_validate(entry) for entry in entries if not entry.get("blocked")]
    except ValidationError as error:
        fault = error.errors()[0]
        raise StatusError(f"{'.'.join(map(str, fault['loc'])) or 'document'}: {fault['msg']}") from error
    return tuple(_allowance(policy, asked_s) for policy in policies if policy.cost and not policy.shadow)


def _allowance(policy: _Policy, asked_s: float) -> Allowance:
    rate_per_s = policy.rate.tokens * 1e6 / policy.rate.period_us
    most: float = min(policy.remaining + 1, policy.burst)
    if policy.reset_s is not None:
        # Whole seconds, whichever way they were rounded: the fraction of a slow bucket shows in them.
        most = min(most, policy.burst - rate_per_s * max(0.0, policy.reset_s - 1))
    return Allowance(
        policy=policy.name,
        key=policy.key,
        burst=policy.burst,
        cost=policy.cost,
        rate_per_s=rate_per_s,
        remaining=policy.remaining,
        most=max(most, policy.remaining),
        asked_s=asked_s,
    )


class Floor:
    """Lower bound of a bucket's tokens.

    Holds for overlapping requests in any order of decision, if all charges are known when it
    is called. A bucket that the store does not know yet grows only from its first charge, hence so does the floor.
    """

    __slots__ = ("_allowance", "_line", "_ungrown")

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._ungrown: float = allowance.remaining  # as if nothing ever grew
        self._line: float | None = None  # with what grows: tokens at second 0 of the caller's clock

    def tokens(self, now_s: float) -> float:
        """Tokens at `now_s`, at least."""
        if self._line is None:
            return self._ungrown
        return min(self._allowance.burst, max(self._ungrown, self._line + self._allowance.slowest * now_s))

    def charge(self, answered_s: float) -> None:
        """One request was admitted; its answer came at `answered_s`."""
        of = self._allowance
        grown = of.slowest * answered_s
        line = self._ungrown - grown if self._line is None else self._line
        self._line = min(line, of.burst - grown) - of.cost - of.slowest * LOST_PER_CHARGE_S
        self._ungrown -= of.cost

    def lose(self) -> None:
        """One request had no proper answer: it may be charged yet, any time, so nothing is sure any more."""
        self._ungrown = self._line = float("-inf")


class Ceiling:
    """Upper bound of a bucket's tokens, for requests sent one after the other."""

    __slots__ = ("_allowance", "_line")

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._line = allowance.most - allowance.fastest * allowance.asked_s

    def tokens(self, answered_s: float) -> float:
        """Tokens at any moment until `answered_s`, at most."""
        return min(self._allowance.burst, self._line + self._allowance.fastest * answered_s)

    def charge(self, sent_s: float) -> None:
        """One request, sent at `sent_s`, was admitted."""
        of = self._allowance
        self._line = min(self._line, of.burst - of.fastest * sent_s) - of.cost


@dataclass(frozen=True, slots=True)
class Expected:
    """The verdict that the policies allow for one request. Either one, if it depends on the moment of the decision."""

    may_pass: bool
    may_be_refused: bool
    why: str


class Forecast:
    """Predicts the verdict of each of one caller's sequential requests from the results before it."""

    def __init__(self, allowances: Sequence[Allowance]) -> None:
        self._buckets = [(of, Floor(of), Ceiling(of)) for of in allowances]

    def expect(self, sent_s: float, answered_s: float, policies: frozenset[str] | None) -> Expected:
        """The verdict expected of a request that was decided between these moments.

        `policies` are those that applied; None: all.
        """
        buckets = self._applying(policies)
        short = [(of, high.tokens(answered_s)) for of, _, high in buckets if high.tokens(answered_s) < of.cost]
        if short:
            of, most = short[0]
            return Expected(False, True, f"{of.policy} held at most {max(0.0, most):.2f} tokens, cost {of.cost}")
        if any(low.tokens(sent_s) < of.cost for of, low, _ in buckets):
            return Expected(True, True, "the moment of decision makes the difference")
        held = (f"{of.policy} held at least {low.tokens(sent_s):.2f} tokens, cost {of.cost}" for of, low, _ in buckets)
        return Expected(True, False, "; ".join(held) or "no policy has a bucket for this user")

    def charge(self, sent_s: float, answered_s: float, policies: frozenset[str] | None) -> None:
        """Count a request that was admitted."""
        for _, low, high in self._applying(policies):
            low.charge(answered_s)
            high.charge(sent_s)

    def lose(self) -> None:
        """Count a request without a proper answer."""
        for _, low, _ in self._buckets:
            low.lose()

    def _applying(self, policies: frozenset[str] | None) -> list[tuple[Allowance, Floor, Ceiling]]:
        return [bucket for bucket in self._buckets if policies is None or bucket[0].policy in policies]
