"""Renders a simulation as JSON. Times are ISO 8601 in UTC; counts are requests."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sidegate.commands.simulate.comparison import key_changes, most_refused, policy_changes
from sidegate.commands.simulate.log_reader import LogReader
from sidegate.commands.simulate.replay import Replay
from sidegate.decision.explanation import limit_text

# Columns of a timeline.
_COLUMNS = 60

Json = dict[str, object]


def as_json(log_name: str, reader: LogReader, replays: Sequence[tuple[str, Replay]]) -> Json:
    """Return the report; it has `comparison` if there are two configurations."""
    document: Json = {
        "log": _log(log_name, reader),
        "configurations": [_configuration(name, replay, reader) for name, replay in replays],
    }
    if len(replays) == 2:
        (_, replay), (_, against) = replays
        document["comparison"] = {
            "refused": replay.tally.refused - against.tally.refused,
            "policies": [{**item._asdict(), "change": item.change} for item in policy_changes(replay, against)],
            "keys": [{**item._asdict(), "change": item.change} for item in key_changes(replay, against)],
        }
    return document


def time_text(us: int) -> str:
    """Format a time to the second, or as a number if it is outside the calendar."""
    try:
        return datetime.fromtimestamp(us // 1_000_000, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return f"{us // 1_000_000} s after 1970"


def _log(name: str, reader: LogReader) -> Json:
    return {
        "name": name,
        "lines": reader.lines,
        "requests": reader.request_count,
        "formats": dict(reader.formats),
        "prefixed_lines": reader.prefixed,
        "first": time_text(reader.first_us),
        "last": time_text(reader.last_us),
        "ended_early": reader.ended_early or None,
        "out_of_order": reader.out_of_order,
        "zone_unknown": reader.zone_unknown,
        "client_unknown": reader.client_unknown,
        "bad_lines": reader.bad.total(),
        "bad_reasons": dict(reader.bad),
        "first_bad_lines": [line._asdict() for line in reader.first_bad],
    }


def _configuration(name: str, replay: Replay, reader: LogReader) -> Json:
    tally = replay.tally
    span = (reader.first_us, reader.last_us, _COLUMNS)
    return {
        "file": name,
        "passed": tally.passed + tally.unlimited + tally.own_pages,
        "refused": tally.refused,
        "bad_request": tally.ambiguous,
        "bad_request_reasons": dict(tally.ambiguous_reasons),
        "without_a_limit": tally.unlimited,
        "own_pages": tally.own_pages,
        "refused_by_logged_status": {
            f"{kind}xx": count for kind, count in sorted(tally.refused_statuses.items()) if kind
        },
        "policies": [
            {
                "name": policy.policy.name,
                "limit": limit_text(policy.policy.limit) if policy.policy.limit else None,
                "shadow": policy.policy.shadow,
                "requests": policy.requests,
                "admitted": policy.admitted,
                "refused": policy.refused,
                "shadow_refused": policy.shadow_refused,
                "blocked": policy.blocked,
                "key_fell_back": policy.fell_back,
                "key_anonymous": policy.anonymous,
                "refusals_over_time": policy.refusals.spread(*span),
            }
            for policy in tally.policies.values()
        ],
        "keys_refused_most": [
            {"policy": key.policy, "key": key.key, "requests": key.requests, "refused": key.refused}
            for key in most_refused(tally)
        ],
        "keys_not_counted": tally.keys_dropped,
        "buckets_forgotten": replay.store.forgotten,
        "fields_not_in_log": replay.fields_not_in(reader.fields),
        "timeline": {
            "requests": tally.requests_over_time.spread(*span),
            "refused": tally.refused_over_time.spread(*span),
        },
    }
