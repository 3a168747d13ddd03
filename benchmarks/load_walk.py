"""`test`: one user's requests, sent to the sidecars in turn; each is checked against the policy."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.text import Text

from benchmarks.load_client import Answer, Outcome, ask, check_all, limits_of, open_session
from benchmarks.load_policy import Allowance, Expected, Forecast
from benchmarks.load_tally import unchecked

FAULTS_SHOWN = 10
STYLES = {Outcome.ADMITTED: "green", Outcome.REFUSED: "yellow", Outcome.FAILED: "red"}


@dataclass(frozen=True, slots=True)
class Walk:
    """Target, sidecars and user of a run."""

    user: str
    targets: tuple[str, ...]
    requests: int
    path: str
    status_path: str
    timeout_s: float


async def walk(plan: Walk, out: Console) -> bool:
    """Send the requests, print a line for each and a summary. Returns whether all results agree with the policies.

    Raises SidecarFault where a sidecar cannot be measured.
    """
    seen, faults, unmarked = Counter[Outcome](), list[str](), 0
    async with open_session(connections=len(plan.targets), timeout_s=plan.timeout_s) as session:
        await check_all(session, plan.targets, plan.status_path, plan.user)
        allowances = await limits_of(session, plan.targets[0], plan.status_path, plan.user)
        _introduce(plan, allowances, out)
        forecast = Forecast(allowances)
        for number in range(plan.requests):
            target = plan.targets[number % len(plan.targets)]
            answer = await ask(session, target + plan.path, plan.user)
            fault = judge(forecast, answer)
            out.print(_line(number + 1, target, answer, fault), soft_wrap=True)
            seen[answer.outcome] += 1
            unmarked += answer.outcome is Outcome.ADMITTED and not answer.marked
            if fault:
                faults.append(f"request {number + 1} ({answer.result}): {fault}")
    if allowances and unmarked:
        faults.append(unchecked(unmarked, plan.path))
    _summarise(out, seen, faults)
    return not faults


def _introduce(plan: Walk, allowances: Sequence[Allowance], out: Console) -> None:
    out.print(f"{plan.requests} requests of {plan.user} to {plan.path}, round {len(plan.targets)} sidecars")
    for allowance in allowances:
        out.print(f"  {allowance}")
    if not allowances:
        out.print("  nothing limits this user: no policy has a bucket for it")
    out.print(f"\n{'#':>4}  {'time':<12}  {'instance':<24}  {'status':<7} remaining  retry after", style="bold")


def judge(forecast: Forecast, answer: Answer) -> str:
    """Describe what is wrong with the response, or return an empty text; record it in the forecast.

    An answer without rate-limit fields was limited by no policy, so nothing is charged and nothing expected of it.
    """
    if answer.outcome is Outcome.FAILED:
        forecast.lose()
        return "expected success or 429"
    if answer.outcome is Outcome.ADMITTED and not answer.marked:
        return ""
    expected = forecast.expect(answer.sent_s, answer.answered_s, answer.policies)
    if answer.outcome is Outcome.ADMITTED:
        forecast.charge(answer.sent_s, answer.answered_s, answer.policies)
    return _fault(expected, answer.outcome)


def _fault(expected: Expected, outcome: Outcome) -> str:
    if outcome is Outcome.ADMITTED and not expected.may_pass:
        return f"expected 429: {expected.why}"
    if outcome is Outcome.REFUSED and not expected.may_be_refused:
        return f"expected success: {expected.why}"
    return ""


def _line(number: int, target: str, answer: Answer, fault: str) -> Text:
    time = datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3]
    instance = target.partition("://")[2]
    retry = f"{answer.retry_after} s" if answer.retry_after and answer.outcome is Outcome.REFUSED else ""
    line = Text(f"{number:>4}  {time:<12}  {instance:<24}  ")
    line.append(f"{answer.result:<7}", STYLES[answer.outcome])
    line.append(f" {answer.remaining or '-':>9}  {retry:>11}".rstrip())
    if fault:
        line.append(f"  <- {fault}", "bold red")
    return line


def _summarise(out: Console, seen: Counter[Outcome], faults: list[str]) -> None:
    counts = ", ".join(f"{seen[outcome]} {outcome.value}" for outcome in Outcome if seen[outcome])
    if not faults:
        out.print(f"\n{counts}: what the policy says.", style="bold green")
        return
    out.print(f"\n{counts}: not what the policy says.", style="bold red")
    for fault in faults[:FAULTS_SHOWN]:
        out.print(f"  {fault}", soft_wrap=True)
    if len(faults) > FAULTS_SHOWN:
        out.print(f"  and {len(faults) - FAULTS_SHOWN} more")
