"""Logs requests from their records.

A refused bucket is logged at its first refusal, then once a second with a count while refusals continue, so that a
flood of refusals does not flood the log.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sidegate.config import LogSettings
from sidegate.decision.policy import PolicySet
from sidegate.decision.record import Record
from sidegate.decision.request import RequestFacts, path_part
from sidegate.decision.verdict import Answer, DecisionSource, Verdict
from sidegate.telemetry.escaping import utf8_safe
from sidegate.telemetry.logs import LogLines
from sidegate.telemetry.outcomes import policy_outcomes, refused_buckets

# Buckets whose refusals are counted separately within one second; all others share one line.
MOST_FOLDED = 1_000
# Bounds of what a log line repeats from a request. The query is left out, since it may hold secrets.
LONGEST_PATH_CHARS = 512
LONGEST_METHOD_CHARS = 32

_PASS, _STORE_FAILURE = Answer.PASS, DecisionSource.STORE_FAILURE
# The event of a request that passes unchecked because the store failed (`on_failure: allow`), and of many of them.
_UNCHECKED = "passed_unchecked"
_AGAIN = {_UNCHECKED: "passed_again"}
# Version 00 of W3C Trace Context; ids of zeros are invalid.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")


@dataclass(slots=True)
class FoldedRequests:
    """Requests with a common subject that share one line per second; `last` is the newest of them."""

    count: int
    last: Record


class RequestLog:
    """Logs requests as `log.requests` says. `policies` returns the active policies."""

    def __init__(self, settings: LogSettings, log: LogLines, policies: Callable[[], PolicySet]) -> None:
        self.wanted = settings.requests  # none, refused or all; may be changed
        self._log = log
        self._policies = policies
        self._folded: dict[str, FoldedRequests] = {}

    def note(self, record: Record, refused: Sequence[tuple[str, str]] = ()) -> None:
        """Log the record, count it for a later line, or ignore it. `refused`: see outcomes.refused_buckets."""
        wanted, verdict = self.wanted, record.verdict
        if wanted == "all":
            self._write(record)
        elif wanted == "refused" and (
            record.error or (verdict is not None and (verdict.answer is not _PASS or verdict.passed_unchecked))
        ):
            self._fold(record, refused)

    def each_second(self) -> None:
        """Write one line per subject for the requests of the last second."""
        folded, self._folded = self._folded, {}
        for subject, requests in folded.items():
            if requests.count:
                self._folded[subject] = FoldedRequests(0, requests.last)  # still folded while it continues
                self._log.write(self._again(subject, requests))

    def _again(self, subject: str, requests: FoldedRequests) -> dict[str, object]:
        """The line of requests that were not logged one by one; path and wait are those of the newest."""
        record = requests.last
        line: dict[str, object] = {
            "level": _level(record),
            "event": _AGAIN.get(subject, "refused_again"),
            "subject": subject,
            "count": requests.count,
            "path": shown_path(record),
            "status": record.status,
        }
        verdict = record.verdict
        if verdict is not None and verdict.answer is Answer.REFUSE and (retry_us := verdict.retry_us) is not None:
            line["retry_after_s"] = round(retry_us / 1e6, 3)
        return line

    def _fold(self, record: Record, refused: Sequence[tuple[str, str]]) -> None:
        subject = _subject(record, refused)
        folded = self._folded
        known = folded.get(subject)
        if known is None and len(folded) >= MOST_FOLDED:
            subject = "others"
            known = folded.get(subject)
        if known is None:
            folded[subject] = FoldedRequests(0, record)
            self._write(record)
        else:
            known.count += 1
            known.last = record

    def _write(self, record: Record) -> None:
        facts, verdict = record.facts, record.verdict
        policies = self._policies()
        line: dict[str, object] = {
            "level": _level(record),
            "event": _event(verdict),
            "client": policies.identity.client_group(facts),
            "method": shown_method(record),
            "path": shown_path(record),
            "status": record.status,
            "decision_ms": round(record.decision_s * 1000, 3),
            "total_ms": round(record.total_s * 1000, 3),
        }
        if record.request_id:
            line["request_id"] = record.request_id
        if trace_id := trace_id_of(facts):
            line["trace_id"] = trace_id
        if record.error:
            line["error"] = record.error
        if verdict is not None and verdict.applied:
            line |= self._verdict_fields(record, verdict, policies)
        self._log.write(line)

    def _verdict_fields(self, record: Record, verdict: Verdict, policies: PolicySet) -> dict[str, object]:
        fields: dict[str, object] = {
            "decided_by": verdict.decided_by.value,
            "policies": dict(policy_outcomes(verdict)),
            "buckets": [applied.charge.key for applied in verdict.applied if applied.charge],
        }
        if verdict.admission is not None and (wait_us := verdict.wait_us):
            fields["waited_ms"] = round(wait_us / 1000, 3)
        if verdict.admission is not None and (costs := verdict.admission.final_costs):
            fields["settled"] = {verdict.applied[position].policy.name: cost for position, cost in costs.items()}
        if verdict.reason:
            fields["store_failure"] = verdict.reason
        if verdict.answer is Answer.REFUSE:
            fields["refused_buckets"] = [bucket for _, bucket in refused_buckets(record, policies)]
            if verdict.retry_us is not None:
                fields["retry_after_s"] = round(verdict.retry_us / 1e6, 3)
        return fields


def trace_id_of(facts: RequestFacts) -> str:
    """The trace id of the request's `traceparent` (W3C Trace Context); empty without exactly one valid field."""
    values = facts.fields.getall("traceparent", ())
    found = _TRACEPARENT.fullmatch(values[0]) if len(values) == 1 else None
    return found[1] if found else ""


def _level(record: Record) -> str:
    if record.status < 500:
        return "info"
    return "error" if record.error == "internal" else "warning"


def shown_method(record: Record) -> str:
    """The request's method, bounded in length."""
    return record.facts.method[:LONGEST_METHOD_CHARS]


def shown_path(record: Record) -> str:
    """The request's path without its query, bounded in length."""
    return utf8_safe(path_part(record.facts.target)[:LONGEST_PATH_CHARS])


def _subject(record: Record, refused: Sequence[tuple[str, str]]) -> str:
    """What the requests of a flood have in common: the error, or the first bucket that refused."""
    if record.error:
        return record.error
    if refused:
        return refused[0][1] or refused[0][0]
    return _UNCHECKED if record.verdict is not None and record.verdict.passed_unchecked else "others"


def _event(verdict: Verdict | None) -> str:
    if verdict is None or verdict.answer is not Answer.REFUSE:
        return _UNCHECKED if verdict and verdict.passed_unchecked else "request"
    return "refused"
