"""Describes in words what an edit changes, for `sidegate diff` and the log line `config_reloaded`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sidegate.config.masked import effective
from sidegate.config.model import Settings
from sidegate.config.policies import PolicySettings
from sidegate.config.section import LiveMark, Section

# Bounds of one sentence.
_LONGEST_VALUE_CHARS = 120
_MOST_KEYS = 5
_NEXT_START = "; takes effect at the next start"


class Change(NamedTuple):
    """One changed setting: its path, and a sentence. `at_restart`: it takes effect at the next start."""

    path: str
    text: str
    at_restart: bool = False


def changes(before: Settings, after: Settings) -> list[Change]:
    """All changes, in the order of the model. Secrets are masked."""
    old, new = effective(before), effective(after)
    found: list[Change] = []
    for section, field in Settings.model_fields.items():
        if _section_type(field.annotation) is not None:
            found += _section_changes(section, before, after, old[section], new[section])
    return found + list(_policy_changes(before.policies, after.policies, old["policies"], new["policies"]))


def restart_needed(before: Settings, after: Settings) -> list[str]:
    """Paths of changed settings that take effect only at the next start: those that are not marked Live."""
    return [
        path for section in Settings.model_fields for path, at_restart in _changed(section, before, after) if at_restart
    ]


def _section_type(annotation: Any) -> type[Section] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _changed(section: str, before: Settings, after: Settings) -> Iterator[tuple[str, bool]]:
    """Paths of the changed settings of a section, and whether they need a restart. Nothing for the policies."""
    model = _section_type(Settings.model_fields[section].annotation)
    for name, setting in model.model_fields.items() if model else ():
        if getattr(getattr(before, section), name) != getattr(getattr(after, section), name):
            live = any(isinstance(mark, LiveMark) for mark in setting.metadata)
            yield f"{section}.{setting.alias or name}", not live


def _section_changes(
    section: str, before: Settings, after: Settings, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[Change]:
    for path, at_restart in _changed(section, before, after):
        key = path.partition(".")[2]
        text = f"{path}: {_difference(old[key], new[key])}"
        if path == "store.key_prefix":
            text += "; all buckets start anew"
        yield Change(path, text + (_NEXT_START if at_restart else ""), at_restart)


# -- policies ----------------------------------------------------------------------------------------------------------


def _policy_changes(
    before: Sequence[PolicySettings],
    after: Sequence[PolicySettings],
    old: Sequence[Mapping[str, Any]],
    new: Sequence[Mapping[str, Any]],
) -> Iterator[Change]:
    was = {policy.name: (policy, shown) for policy, shown in zip(before, old, strict=True)}
    names = [policy.name for policy in after]
    for name in was:
        if name not in names:
            yield Change(f"policies.{name}", f"policy {name} is removed; requests under it lose this limit")
    for policy, shown in zip(after, new, strict=True):
        path = f"policies.{policy.name}"
        if policy.name not in was:
            yield Change(path, f"policy {policy.name} is new: {_described(policy, shown)}")
            continue
        for text in _changed_fields(*was[policy.name], policy, shown):
            yield Change(path, f"policy {policy.name}: {text}")
    kept = [name for name in was if name in names]
    if kept != [name for name in names if name in was]:
        yield Change("policies", f"the order of the policies changes: {_value(names)}; this changes no decision")


def _described(policy: PolicySettings, shown: Mapping[str, Any]) -> str:
    if policy.exempt:
        return "exempts what it matches from all other policies"
    shadow = ", as a shadow that refuses nothing" if policy.shadow else ""
    if policy.in_flight is not None:
        return f"{policy.in_flight} requests in flight for each {policy.key}{shadow}"
    return f"{shown['limit']} for each {policy.key}{shadow}; its buckets start new"


def _changed_fields(
    was: PolicySettings, old: Mapping[str, Any], policy: PolicySettings, new: Mapping[str, Any]
) -> Iterator[str]:
    for name, field in PolicySettings.model_fields.items():
        if getattr(was, name) == getattr(policy, name):
            continue
        key = field.alias or name
        if key == "overrides":
            yield from _override_changes(old[key], new[key])
            continue
        text = f"{key}: {_difference(old[key], new[key])}"
        if key == "key":
            text += "; its buckets start new"
        elif key == "shadow":
            text += "; it now refuses nothing" if policy.shadow else "; it now refuses"
        yield text


def _override_changes(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    was, now = _rules(old), _rules(new)
    for word, keys in (
        ("new", [key for key in now if key not in was]),
        ("removed", [key for key in was if key not in now]),
    ):
        if keys:
            more = f" and {len(keys) - _MOST_KEYS} more" if len(keys) > _MOST_KEYS else ""
            yield f"overrides {word} for {', '.join(keys[:_MOST_KEYS])}{more}"
    changed = [key for key, rule in now.items() if was.get(key, rule) != rule]
    for key in changed[:_MOST_KEYS]:
        yield f"override of {key}: {_rule(was[key])} → {_rule(now[key])}"
    if len(changed) > _MOST_KEYS:
        yield f"{len(changed) - _MOST_KEYS} more overrides are changed"


def _rules(overrides: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The rule of each key."""
    return {
        ", ".join(values): {name: value for name, value in each.items() if name != "key" and value not in (None, False)}
        for each in overrides
        for values in each["key"]
    }


def _rule(rule: Mapping[str, Any]) -> str:
    return ", ".join(name if value is True else f"{name} {value}" for name, value in rule.items())


def _difference(old: object, new: object) -> str:
    """Both values; the same twice are secrets, which are not shown."""
    return "changed" if old == new else f"{_value(old)} → {_value(new)}"


def _value(value: object) -> str:
    if value is None or value == "":
        return "not set"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE_CHARS else f"{text[:_LONGEST_VALUE_CHARS]}…"
