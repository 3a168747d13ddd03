"""Renders an explanation as text."""

from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sidegate.admin.explain_document import LevelsByPolicy, result_word, wanted
from sidegate.commands.output import printable
from sidegate.config import Settings
from sidegate.decision.bucket import Charge, Level
from sidegate.decision.explanation import Consideration, Explanation, MatchResult, limit_text, settle_text

_WORDS = {
    MatchResult.APPLIES: ("applies", "green"),
    MatchResult.BLOCKED: ("blocks", "red"),
    MatchResult.EXEMPTS: ("exempts", "cyan"),
    MatchResult.KEY_EXEMPT: ("key exempt", "cyan"),
    MatchResult.PREFLIGHT: ("preflight", "cyan"),
    MatchResult.SET_ASIDE: ("exempted", "dim"),
    MatchResult.NO_MATCH: ("no match", "dim"),
}


def as_text(explanation: Explanation, settings: Settings, levels: LevelsByPolicy, *, own_page: bool) -> Group:
    """Return the explanation as tables for rich."""
    facts = explanation.facts
    head = Table.grid(padding=(0, 2))
    head.add_row("request", printable(f"{facts.method} {facts.target}"))
    head.add_row("path", printable(" or ".join(explanation.paths)) or "invalid")
    head.add_row("client", _client_text(explanation))
    head.add_row("result", Text(_result(explanation, own_page), "bold"))
    policies = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for title in ("policy", "", "why"):
        policies.add_column(title, no_wrap=title != "why", overflow="fold")
    for item in explanation.considered:
        word, style = _WORDS[item.result]
        why = "\n".join([*_why(item, settings, levels), *_reading_lines(item)])
        policies.add_row(item.policy.name + (" (shadow)" if item.policy.shadow else ""), Text(word, style), why)
    return Group(head, "", policies) if explanation.considered and not own_page else Group(head)


def _client_text(explanation: Explanation) -> str:
    client, group, peer = explanation.client, explanation.client_group, explanation.facts.peer
    text = client if group == client else f"{client}, grouped as {group}"
    return text if client == peer else f"{text} (the connection comes from {peer})"


def _result(explanation: Explanation, own_page: bool) -> str:
    match result_word(explanation, own_page):
        case "own_page":
            return "answered by the sidecar itself; no limit applies"
        case "bad_request":
            return printable(f"answered 400: {explanation.ambiguous}")
        case "exempt":
            return "passes: an exempt policy matches, so no other policy applies"
        case "blocked":
            return "refused with 429: the key is blocked; nothing is charged"
        case "unlimited":
            return "passes: no policy applies"
        case _:
            names = [entry.policy.name for entry in explanation.applied if not entry.policy.shadow]
            return f"limited by {', '.join(names)}" if names else "passes: only shadow policies apply"


def _why(item: Consideration, settings: Settings, levels: LevelsByPolicy) -> Sequence[str]:
    match item.result:
        case MatchResult.APPLIES:
            assert item.charge is not None  # noqa: S101  (Consideration guarantees it)
            return _charge_lines(item, item.charge, levels.get(item.policy.name))
        case MatchResult.BLOCKED:
            return [f"an override blocks the key {item.key}"]
        case MatchResult.EXEMPTS:
            return ["matches and exempts the request from all policies"]
        case MatchResult.KEY_EXEMPT:
            return [f"an override exempts the key {item.key}"]
        case MatchResult.PREFLIGHT:
            return ["matches, but a preflight of one of responses.cors.origins is not charged"]
        case MatchResult.SET_ASIDE:
            return ["matches, but an exempt policy matches as well"]
        case MatchResult.NO_MATCH:
            assert item.mismatch is not None  # noqa: S101  (Consideration guarantees it)
            values = ", ".join(wanted(settings, item.policy.name, item.mismatch)) or "present"
            return [f"{item.mismatch.condition} is {printable(item.mismatch.found) or 'absent'}, expected: {values}"]


def _reading_lines(item: Consideration) -> Sequence[str]:
    """Say which readings of a path with several the policy matches."""
    if not item.matched_paths:
        return ()
    paths = printable(" or ".join(item.matched_paths))
    if item.result is MatchResult.NO_MATCH and item.mismatch is not None and item.mismatch.condition == "path":
        return (f"the policy matches the path as {paths}, but an exemption must match every reading",)
    return (f"the policy matches the path as {paths}",)


def _charge_lines(item: Consideration, charge: Charge, level: Level | None) -> list[str]:
    own = " (an override for this key)" if item.overridden else ""
    takes = "takes a place until it ends" if charge.limit.in_flight else f"costs {charge.cost}"
    lines = [f"{limit_text(charge.limit)}{own}; this request {takes}", f"bucket {charge.key}"]
    if settles := settle_text(item.policy):
        lines.append(settles)
    if level is not None and charge.limit.in_flight:
        lines.append(f"now {charge.limit.burst - level.tokens} of {charge.limit.burst} under way")
    elif level is not None:
        limit = charge.limit
        full_s = limit.wait_us(limit.burst - level.tokens, level.age_us) / 1e6
        wait_s = limit.wait_us(charge.cost - level.tokens, level.age_us) / 1e6
        lines.append(f"now {level.tokens} of {limit.burst} tokens" + (f", full in {full_s:.3g} s" if full_s else ""))
        if wait_s:
            lines.append(f"enough for this request in {wait_s:.3g} s")
    return lines
