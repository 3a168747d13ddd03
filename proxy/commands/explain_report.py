"""An explanation as text for people and as JSON for programs."""

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from proxy.commands.explanation import Consideration, Explanation, Part, limit_text
from proxy.commands.output import printable
from proxy.config import Settings
from proxy.decision.bucket import Charge, Level
from proxy.decision.policy import Mismatch
from proxy.decision.verdict import Verdict

_WORDS = {
    Part.APPLIES: ("applies", "green"),
    Part.BLOCKED: ("blocks", "red"),
    Part.EXEMPTS: ("exempts", "cyan"),
    Part.KEY_EXEMPT: ("key exempt", "cyan"),
    Part.SET_ASIDE: ("set aside", "dim"),
    Part.NO_MATCH: ("no match", "dim"),
}

Levels = Mapping[str, Level | None]


def levels_by_policy(verdict: Verdict | None) -> Levels:
    """What each policy's bucket holds; empty where nobody looked."""
    if verdict is None:
        return {}
    return {entry.policy.name: level for entry, level in zip(verdict.applied, verdict.levels, strict=True)}


def as_text(explanation: Explanation, settings: Settings, levels: Levels, *, own_page: bool) -> Group:
    """For a terminal."""
    facts = explanation.facts
    head = Table.grid(padding=(0, 2))
    head.add_row("request", printable(f"{facts.method} {facts.target}"))
    head.add_row("path", printable(" or ".join(explanation.paths)) or "not readable")
    head.add_row("client", _client_text(explanation))
    head.add_row("result", Text(_result(explanation, own_page), "bold"))
    policies = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for title in ("policy", "", "why"):
        policies.add_column(title, no_wrap=title != "why", overflow="fold")
    for item in explanation.considered:
        word, style = _WORDS[item.part]
        why = "\n".join(_why(item, settings, levels))
        policies.add_row(item.policy.name + (" (shadow)" if item.policy.shadow else ""), Text(word, style), why)
    return Group(head, "", policies) if explanation.considered and not own_page else Group(head)


def as_json(explanation: Explanation, settings: Settings, levels: Levels, *, own_page: bool) -> dict[str, object]:
    """For programs. `result` is one of own_page, bad_request, exempt, blocked, unlimited, limited."""
    facts = explanation.facts
    return {
        "method": facts.method,
        "target": facts.target,
        "paths": list(explanation.paths),
        "peer": facts.peer,
        "client": explanation.client,
        "client_group": explanation.client_group,
        "result": _result_word(explanation, own_page),
        "bad_request": explanation.ambiguous or None,
        "policies": [] if own_page else [_item_json(item, settings, levels) for item in explanation.considered],
    }


def _client_text(explanation: Explanation) -> str:
    client, group, peer = explanation.client, explanation.client_group, explanation.facts.peer
    text = client if group == client else f"{client}, counted as {group}"
    return text if client == peer else f"{text} (the connection comes from {peer})"


def _result_word(explanation: Explanation, own_page: bool) -> str:
    parts = {item.part for item in explanation.considered}
    if own_page:
        return "own_page"
    if explanation.ambiguous:
        return "bad_request"
    if Part.EXEMPTS in parts:
        return "exempt"
    if any(item.part is Part.BLOCKED and not item.policy.shadow for item in explanation.considered):
        return "blocked"
    return "limited" if Part.APPLIES in parts or Part.BLOCKED in parts else "unlimited"


def _result(explanation: Explanation, own_page: bool) -> str:
    match _result_word(explanation, own_page):
        case "own_page":
            return "the sidecar answers this page itself; no limit applies"
        case "bad_request":
            return printable(f"answered 400: {explanation.ambiguous}")
        case "exempt":
            return "passes: an exempt policy matches, so nothing else applies"
        case "blocked":
            return "refused with 429: the key is blocked; nothing is charged"
        case "unlimited":
            return "passes: no limit applies"
        case _:
            names = [entry.policy.name for entry in explanation.applied if not entry.policy.shadow]
            return f"limited by {', '.join(names)}" if names else "passes: only shadow policies apply"


def _why(item: Consideration, settings: Settings, levels: Levels) -> Sequence[str]:
    match item.part:
        case Part.APPLIES:
            assert item.charge is not None  # noqa: S101  (promised by Consideration)
            return _charge_lines(item, item.charge, levels.get(item.policy.name))
        case Part.BLOCKED:
            return [f"an override blocks the key {item.key}"]
        case Part.EXEMPTS:
            return ["matches, and exempts the request from all policies"]
        case Part.KEY_EXEMPT:
            return [f"an override exempts the key {item.key}"]
        case Part.SET_ASIDE:
            return ["matches, but an exempt policy matches too"]
        case Part.NO_MATCH:
            assert item.mismatch is not None  # noqa: S101  (promised by Consideration)
            wanted = ", ".join(_wanted(settings, item.policy.name, item.mismatch)) or "present"
            return [f"{item.mismatch.condition} is {printable(item.mismatch.found) or 'absent'}, wanted: {wanted}"]


def _charge_lines(item: Consideration, charge: Charge, level: Level | None) -> list[str]:
    own = " (an override for this key)" if item.overridden else ""
    lines = [f"{limit_text(charge.limit)}{own}; this request costs {charge.cost}", f"bucket {charge.key}"]
    if level is not None:
        limit = charge.limit
        full_s = limit.wait_us(limit.burst - level.tokens, level.age_us) / 1e6
        wait_s = limit.wait_us(charge.cost - level.tokens, level.age_us) / 1e6
        lines.append(f"now {level.tokens} of {limit.burst} tokens" + (f", full in {full_s:.3g} s" if full_s else ""))
        if wait_s:
            lines.append(f"too few for this request for another {wait_s:.3g} s")
    return lines


def _wanted(settings: Settings, name: str, mismatch: Mismatch) -> list[str]:
    """What the configuration asks for in the place that does not match, as it is written there."""
    match = next(policy.match for policy in settings.policies if policy.name == name)
    kind, _, field = mismatch.condition.partition(" ")
    if kind == "header":
        return next(list(condition.values) for condition in match.header if condition.name == field)
    return {
        "path": list(match.path),
        "method": list(match.method),
        "host": list(match.host),
        "client_ip": [str(network) for network in match.client_ip],
    }[kind]


def _item_json(item: Consideration, settings: Settings, levels: Levels) -> dict[str, object]:
    described: dict[str, object] = {"name": item.policy.name, "part": item.part.value, "shadow": item.policy.shadow}
    if item.mismatch is not None:
        described["condition"], described["found"] = item.mismatch.condition, item.mismatch.found or None
        described["wanted"] = _wanted(settings, item.policy.name, item.mismatch)
    if item.key:
        described["key"] = item.key
    if (charge := item.charge) is not None:
        limit = charge.limit
        described |= {"bucket": charge.key, "cost": charge.cost, "override": item.overridden}
        described["limit"] = {
            "tokens": limit.rate.tokens,
            "period_us": limit.rate.period_us,
            "burst": limit.burst,
            "initial": limit.initial,
        }
        if (level := levels.get(item.policy.name)) is not None:
            described["live"] = {
                "tokens": level.tokens,
                "enough": level.tokens >= charge.cost,
                "retry_s": limit.wait_us(charge.cost - level.tokens, level.age_us) / 1e6,
                "full_s": limit.wait_us(limit.burst - level.tokens, level.age_us) / 1e6,
            }
    return described
