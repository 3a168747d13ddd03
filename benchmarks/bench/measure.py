"""One measurement: a volley with exact statuses, then wrk, with CPU time read before and after."""

from typing import NamedTuple

from benchmarks.bench import volley, wrk
from benchmarks.bench.candidates import Candidate
from benchmarks.bench.figures import Case, Figures
from benchmarks.bench.laboratory import Laboratory, cpu_us, rss_mib
from benchmarks.bench.volley import WrongAnswers

__all__ = ["ALLOWED", "REFUSED", "WrongAnswers", "check_outcome", "check_volley", "measure"]

ALLOWED, REFUSED = "allowed", "refused"
# Sidegate knows a head again that it has just seen; these show what a request costs where no two heads are alike.
ALLOWED_UNLIKE, REFUSED_UNLIKE = "allowed, no two heads alike", "refused, no two heads alike"


class Kind(NamedTuple):
    """What a kind of case asks for, whether it may pass, and whether each request and answer has a head of its own."""

    path: str
    passes: bool
    unlike: bool = False


KINDS = {
    ALLOWED: Kind("/wide", passes=True),
    REFUSED: Kind("/tight", passes=False),
    ALLOWED_UNLIKE: Kind("/wide?unlike", passes=True, unlike=True),
    REFUSED_UNLIKE: Kind("/tight?unlike", passes=False, unlike=True),
}
_REQUESTS_A_CONNECTION = 5


def measure(laboratory: Laboratory, candidate: Candidate, case: Case, store_pid: int, seconds: int) -> Figures:
    """Measure one candidate once. Raises WrongAnswers."""
    path, _, unlike = KINDS[case.kind]
    check_volley(case, volley.statuses(candidate.port, path, case.connections, _REQUESTS_A_CONNECTION))
    before = cpu_us(candidate.pid), cpu_us(store_pid)
    url = f"http://127.0.0.1:{candidate.port}{path}"
    outcome = wrk.run(url, case.connections, seconds, laboratory.others, unlike=unlike)
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
    """All 200 where requests are allowed; all 429, but for the token or two of the bucket, where they are refused."""
    passes = KINDS[case.kind].passes
    wanted = 200 if passes else 429
    others = {status: count for status, count in statuses.items() if status != wanted}
    if not passes and others.keys() <= {200} and others.get(200, 0) <= 2:
        return
    if others:
        raise WrongAnswers(f"statuses {dict(statuses)}")


def check_outcome(case: Case, outcome: wrk.Outcome, seconds: int) -> None:
    """No broken connection; no failure where requests are allowed, no more passes than tokens where refused."""
    if outcome.broken or not outcome.requests:
        raise WrongAnswers(f"{outcome.broken} broken connections, {outcome.requests} answers")
    passed = outcome.requests - outcome.failed
    passes = KINDS[case.kind].passes
    if passes and outcome.failed:
        raise WrongAnswers(f"{outcome.failed} of {outcome.requests} requests were not allowed")
    if not passes and passed > seconds + 3:
        raise WrongAnswers(f"{passed} requests passed in {seconds} s at a limit of 1/s")
