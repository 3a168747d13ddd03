"""The outcome of each policy on a request, in the words that metrics and log lines share."""

from sidegate.decision.policy import PolicySet
from sidegate.decision.record import Record
from sidegate.decision.verdict import REFUSALS, Answer, Outcome, Verdict, outcome_of

_REFUSE = Answer.REFUSE
_NONE = [("none", Outcome.ALLOWED)]


def policy_outcomes(verdict: Verdict) -> list[tuple[str, Outcome]]:
    """Policy names and outcomes, in the order of the configuration; `none` if no policy applied."""
    if len(verdict.applied) == 1:
        applied = verdict.applied[0]
        return [(applied.policy.name, outcome_of(verdict, applied, verdict.levels[0]))]
    if not verdict.applied:
        return _NONE
    return [
        (applied.policy.name, outcome_of(verdict, applied, level))
        for applied, level in zip(verdict.applied, verdict.levels, strict=True)
    ]


def refused_buckets(record: Record, policies: PolicySet) -> list[tuple[str, str]]:
    """Policy and bucket of every refusal; empty if no policy refused. A blocked key has a bucket name but no bucket.

    `policies` may have been replaced since the verdict: a policy that it no longer has comes without a bucket name.
    """
    verdict = record.verdict
    if verdict is None or verdict.answer is not _REFUSE:
        return []
    applied = verdict.applied
    if len(applied) == 1 and (charge := applied[0].charge) is not None:
        return [(applied[0].policy.name, charge.key)]
    found = []
    for entry, level in zip(applied, verdict.levels, strict=True):
        if outcome_of(verdict, entry, level) in REFUSALS:
            policy, charge = entry
            known = charge is not None or policy in policies.policies
            bucket = charge.key if charge else policies.bucket_of(policy, record.facts) if known else ""
            found.append((policy.name, bucket))
    return found


def refused_key(policy: str, bucket: str, policies: PolicySet) -> str:
    """The key in a bucket's name from `refused_buckets`, also of a policy that has been removed since.

    A bucket of a former `store.key_prefix` is returned whole.
    """
    start = f"{policies.key_prefix}{policy}"
    return bucket[len(start) :].partition(":")[2] if bucket.startswith(start) else bucket
