"""One measurement: a volley with exact statuses, then wrk, with CPU time read before and after."""

from typing import NamedTuple

from benchmarks.bench import volley, wrk
from benchmarks.bench.candidates import Candidate
from benchmarks.bench.figures import Case, Figures
from benchmarks.bench.laboratory import Laboratory, cpu_us, rss_mib
from benchmarks.bench.volley import WrongAnswers

__all__ = ["ALLOWED", "REFUSED", "WrongAnswers", "check_outcome", "check_volley", "measure"]

ALLOWED, REFUSED = "allowed", "refused"
# A side note: no client behind an ingress repeats its head.
ALLOWED_ALIKE, REFUSED_ALIKE = "allowed, identical heads", "refused, identical heads"


class Kind(NamedTuple):
    """The path of a case's requests and whether the limit allows them.

    `users`: as many users in turn, with heads as an ingress sends them and a distinct response head for each request.
    0: one user, all heads identical.
    """

    path: str
    passes: bool
    users: int = 0

    @property
    def tokens_per_s(self) -> int:
        """Requests per second that pass on /tight, whose limit is 1/s for each user; also the burst of them all."""
        return max(1, self.users)


KINDS = {
    ALLOWED: Kind("/wide?unlike", passes=True, users=1000),
    REFUSED: Kind("/tight?unlike", passes=False, users=20),
    ALLOWED_ALIKE: Kind("/wide", passes=True),
    REFUSED_ALIKE: Kind("/tight", passes=False),
}
_REQUESTS_A_CONNECTION = 5


def measure(laboratory: Laboratory, candidate: Candidate, case: Case, store_pid: int, seconds: int) -> Figures:
    """Measure one candidate once. Raises WrongAnswers."""
    kind = KINDS[case.kind]
    check_volley(case, volley.statuses(candidate.port, kind.path, case.connections, _REQUESTS_A_CONNECTION, kind.users))
    before = cpu_us(candidate.pid), cpu_us(store_pid)
    url = f"http://127.0.0.1:{candidate.port}{kind.path}"
    outcome = wrk.run(url, case.connections, seconds, laboratory.others, users=kind.users)
    after = cpu_us(candidate.pid), cpu_us(store_pid)
    check_outcome(case, outcome, seconds)
    proxy_us, store_us = ((after[side] - before[side]) / outcome.requests for side in (0, 1))
    return Figures(
        rate=outcome.rate,
        proxy_us=proxy_us,
        store_us=store_us,
        p50_ms=outcome.p50_ms,
        p99_ms=outcome.p99_ms,
        p999_ms=outcome.p999_ms,
        rss_mib=rss_mib(candidate.pid),
    )


def check_volley(case: Case, statuses: dict[int, int]) -> None:
    """Raise WrongAnswers unless all are 200 if allowed, or all 429 but for two tokens of each user if refused."""
    kind = KINDS[case.kind]
    others = {status: count for status, count in statuses.items() if status != (200 if kind.passes else 429)}
    if not kind.passes and others.keys() <= {200} and others.get(200, 0) <= 2 * kind.tokens_per_s:
        return
    if others:
        raise WrongAnswers(f"statuses {dict(statuses)}")


def check_outcome(case: Case, outcome: wrk.Outcome, seconds: int) -> None:
    """Raise WrongAnswers on a socket error, a refusal of what is allowed, or more passes than the limit has tokens."""
    if outcome.broken or not outcome.requests:
        raise WrongAnswers(f"{outcome.broken} broken connections, {outcome.requests} answers")
    passed = outcome.requests - outcome.failed
    kind = KINDS[case.kind]
    if kind.passes and outcome.failed:
        raise WrongAnswers(f"{outcome.failed} of {outcome.requests} requests were not allowed")
    if not kind.passes and passed > (seconds + 3) * kind.tokens_per_s:
        raise WrongAnswers(f"{passed} requests passed in {seconds} s at a limit of {kind.tokens_per_s}/s")
