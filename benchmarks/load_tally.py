"""Counts the results of many users' requests and checks them against their buckets.

At most: the tokens at the first request and what grew until the last answer. At least: the last time a user was
refused, one of its buckets must have been short; what the floor of all of them still held then was withheld from it.
Both stay true for requests that overlap, and both need a few numbers a bucket, however long the run.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor, isfinite

from benchmarks.load_client import Answer, Outcome
from benchmarks.load_latency import Latencies
from benchmarks.load_policy import Allowance, Floor


@dataclass(slots=True)
class Account:
    """One bucket, which several users share where its key is not the user's."""

    allowance: Allowance
    floor: Floor
    admitted: int = 0
    last_admitted_s: float = 0.0

    def most(self, first_sent_s: float) -> int:
        """Requests that may have passed since `first_sent_s`."""
        return self.allowance.most_requests(first_sent_s, max(first_sent_s, self.last_admitted_s))


@dataclass(slots=True)
class User:
    """One user's counts. `failed` are requests without a proper answer."""

    name: str
    accounts: tuple[Account, ...]
    sent: int = 0
    admitted: int = 0
    refused: int = 0
    failed: int = 0
    last_refused_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Row:
    """One user against its bounds. A bound is None where nothing sets it: no policy, never refused, or failures."""

    user: str
    sent: int
    admitted: int
    refused: int
    failed: int
    at_least: int | None
    at_most: int | None

    @property
    def wrong(self) -> bool:
        """Whether the user was admitted too often or too seldom, or had no proper answer."""
        return self.above > 0 or self.below > 0 or self.failed > 0

    @property
    def above(self) -> int:
        """Requests admitted beyond the bound; negative where there was room."""
        return -self.admitted if self.at_most is None else self.admitted - self.at_most

    @property
    def below(self) -> int:
        """Requests that were refused in spite of a token."""
        return 0 if self.at_least is None else max(0, self.at_least - self.admitted)


@dataclass(slots=True)
class Tally:
    """All users' counts, and the latencies of admitted and refused requests."""

    users: list[User]
    path: str
    admitted: Latencies = field(default_factory=Latencies)
    refused: Latencies = field(default_factory=Latencies)
    failures: Counter[str] = field(default_factory=Counter)
    unmarked: int = 0
    # Requests that went to another sidecar, because theirs accepted no connection.
    moved: int = 0
    sent: int = 0
    first_sent_s: float = float("inf")
    last_answered_s: float = 0.0

    @property
    def elapsed_s(self) -> float:
        """From the first request to the last answer."""
        return max(0.0, self.last_answered_s - self.first_sent_s) if self.sent else 0.0

    def count(self, user: User, answer: Answer, since_s: float) -> None:
        """Count an answer, whose latency began at `since_s`."""
        self.sent += 1
        user.sent += 1
        self.first_sent_s = min(self.first_sent_s, answer.sent_s)
        self.last_answered_s = max(self.last_answered_s, answer.answered_s)
        match answer.outcome:
            case Outcome.ADMITTED:
                self.admitted.record(answer.answered_s - since_s)
                self.unmarked += not answer.marked
                _admit(user, answer)
            case Outcome.REFUSED:
                self.refused.record(answer.answered_s - since_s)
                user.refused += 1
                user.last_refused_s = max(user.last_refused_s, answer.sent_s)
            case Outcome.FAILED:
                self.failures[answer.result] += 1
                user.failed += 1
                for account in user.accounts:
                    account.floor.lose()

    def rows(self) -> list[Row]:
        """Every user against its bounds, the most deviating first."""
        rows = [_row(user, self.first_sent_s) for user in self.users]
        return sorted(rows, key=lambda row: (-max(row.above, 0), -row.below, -row.failed, -row.above))

    def faults(self) -> list[str]:
        """Differences from the policies, as sentences; empty if there are none."""
        faults = [*self._failed(), *self._admitted_too_often(), *self._refused_too_early()]
        if self.unmarked and any(user.accounts for user in self.users):
            faults.append(unchecked(self.unmarked, self.path))
        return faults

    def _failed(self) -> list[str]:
        kinds = ", ".join(f"{result} ({count})" for result, count in self.failures.most_common(5))
        return [f"{self.failures.total()} requests had no proper answer: {kinds}"] if kinds else []

    def _admitted_too_often(self) -> list[str]:
        # By buckets: what several users share may be exceeded by all of them together.
        accounts = {id(account): account for user in self.users for account in user.accounts if account.admitted}
        return [
            f"bucket {account.allowance.name} admitted {account.admitted} times, at most {most} is right"
            for account in accounts.values()
            if account.admitted > (most := account.most(self.first_sent_s))
        ]

    def _refused_too_early(self) -> list[str]:
        return [
            f"{row.user} was admitted {row.admitted} times, at least {row.at_least} is right"
            for row in self.rows()
            if row.below
        ]


def unchecked(answers: int, path: str) -> str:
    """The fault of answers that were admitted to a limited user without naming any limit."""
    return (
        f"{answers} admitted answers carry no rate-limit fields, so nothing was checked on them: "
        f"no policy matches {path}, or `responses.headers` is empty"
    )


def open_accounts(names: Sequence[str], limits: Sequence[Sequence[Allowance]]) -> list[User]:
    """Users with their buckets; those with the same policy and key share one."""
    accounts: dict[tuple[str, str], Account] = {}
    users = []
    for name, allowances in zip(names, limits, strict=True):
        own = [
            accounts.setdefault((allowance.policy, allowance.key), Account(allowance, Floor(allowance)))
            for allowance in allowances
        ]
        users.append(User(name, tuple(own)))
    return users


def _admit(user: User, answer: Answer) -> None:
    user.admitted += 1
    if not answer.marked:
        return
    for account in user.accounts:
        if answer.policies is None or account.allowance.policy in answer.policies:
            account.admitted += 1
            account.last_admitted_s = max(account.last_admitted_s, answer.answered_s)
            account.floor.charge(answer.answered_s)


def _row(user: User, first_sent_s: float) -> Row:
    at_least = None
    if user.refused and user.accounts:
        spare = min(account.floor.tokens(user.last_refused_s) / account.allowance.cost for account in user.accounts)
        at_least = max(0, user.admitted + floor(spare)) if isfinite(spare) else None
    # A policy that concerns the user need not apply to this path: it does where it has admitted something.
    bounds = [account.most(first_sent_s) for account in user.accounts if user.sent and account.admitted]
    return Row(
        user=user.name,
        sent=user.sent,
        admitted=user.admitted,
        refused=user.refused,
        failed=user.failed,
        at_least=at_least,
        at_most=min(bounds, default=None),
    )
