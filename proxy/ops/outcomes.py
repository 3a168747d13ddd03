"""What became of each policy on a request: the words that metrics and log lines share."""

from proxy.decision.verdict import Outcome, Verdict, outcome_of

_NONE = [("none", Outcome.ALLOWED)]


def policy_outcomes(verdict: Verdict) -> list[tuple[str, Outcome]]:
    """Policy names and outcomes, in the order of the configuration; `none` where no policy applied."""
    if len(verdict.applied) == 1:
        applied = verdict.applied[0]
        return [(applied.policy.name, outcome_of(verdict, applied, verdict.levels[0]))]
    if not verdict.applied:
        return _NONE
    return [
        (applied.policy.name, outcome_of(verdict, applied, level))
        for applied, level in zip(verdict.applied, verdict.levels, strict=True)
    ]
