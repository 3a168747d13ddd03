"""A short version of `python -m tests.chaos.in_flight`."""

import pytest
import uvloop

from tests.chaos.in_flight import Found, judged, storm

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.long
def test_random_starts_ends_aborts_and_kills_stay_within_the_limit_at_the_application() -> None:
    """Under-use is not judged here: a busy machine delays requests for longer than a refusal is remembered."""
    outcome = uvloop.run(storm(8_000, 20.0, slots=60, kill_every_s=7.0, most_under_use=1.0))
    assert not outcome.faults, outcome.lines


def test_a_refusal_counts_as_under_use_where_too_few_were_under_way_before_it() -> None:
    found = Found(kills=[50.0])
    found.statuses["429"] = 4
    found.refusals = [("one-0", 10.0, 10.1), ("one-0", 21.15, 21.2), ("one-0", 30.0, 30.1), ("one-0", 55.0, 55.1)]
    found.passed = [(1, "one-0", 9.0, 11.0), (2, "one-0", 20.0, None), (3, "one-0", 29.0, 29.95)]
    turns = {"one-0": [9.1, 10.9, 20.1, 21.0, 29.1, 29.8]}
    report = {"peaks": {"one-0": 2}, "above": 1, "done": 3, "turns": turns, "ends": {"2": 21.0}}
    outcome = judged(found, report, 60.0, 11.0, 0.01)
    assert outcome.lines[2].startswith("under-use: 1 of 3 refusals judged, 25.000% of all requests")
    assert outcome.lines[2].endswith("(counted at the application alone 2)")
    assert outcome.faults == [
        "the application saw 2 of 1",
        "places were taken 11.0 s after the kill",
        "under-use of 25.00%",
    ]
