"""Which problems the overview names, in which order, and since when."""

from collections import Counter
from typing import Any

import pytest
from sidegate.admin.conditions import Condition, ConditionHistory
from sidegate.admin.problems import ProblemHistory, problems
from sidegate.decision.policy import OnStoreFailure
from sidegate.telemetry.totals import Totals

START, LATER, LATEST = (f"2026-01-01T00:00:{second}Z" for second in ("00", "10", "20"))
UP = Condition("up")
DOWN = Condition("down", "127.0.0.1:9000: Connection refused")
SLOW = Condition("slow", "half of its answers take 1.2 s or longer")
NO_STORE = Condition("down", "connect: Connection refused")
STALE = {"status": "stale", "since": LATER, "faults": ("policies: expected a list",)}


def history(condition: Condition) -> ConditionHistory:
    found = ConditionHistory(START)
    found.update(condition, LATER)
    return found


def state(config: Any = None, silent_workers: tuple[int, ...] = (), proxies: int = 1) -> dict[str, Any]:
    return {
        "store": {"proxies": proxies, "advice": "start it, or correct store.url"},
        "config": config or {"status": "ok"},
        "workers": [{"worker": number, "heard_s": 1.0} for number in (1, 2) if number not in silent_workers]
        + [{"worker": number, "heard_s": None} for number in silent_workers],
    }


def sections(
    application: Condition = UP, store: Condition = UP, shown: dict[str, Any] | None = None, internal: int = 0
) -> list[str]:
    window = Totals(errors=Counter(internal=internal))
    found = problems(history(application), history(store), shown or state(), window, {OnStoreFailure.DENY})
    return [each.section for each in found]


@pytest.mark.parametrize(
    ("application", "store", "shown", "internal", "expected"),
    [
        (UP, UP, state(), 0, []),
        (DOWN, NO_STORE, state(), 0, ["the-application-is-down", "redis-is-down"]),
        (SLOW, NO_STORE, state(), 0, ["redis-is-down", "the-application-fails-or-is-slow"]),
        (
            DOWN,
            NO_STORE,
            state(STALE, (1, 2)),
            3,
            [
                *("the-application-is-down", "redis-is-down", "an-edit-was-refused"),
                *("a-worker-does-not-report", "a-worker-does-not-report", "internal-errors"),
            ],
        ),
    ],
)
def test_problems_of_all_parts_are_named_the_most_urgent_first(
    application: Condition, store: Condition, shown: dict[str, Any], internal: int, expected: list[str]
) -> None:
    assert sections(application, store, shown, internal) == expected


@pytest.mark.parametrize(
    ("modes", "words"),
    [
        ({OnStoreFailure.DENY}, "answer 503"),
        ({OnStoreFailure.ALLOW}, "let every request pass"),
        (set(), "no policy needs it"),
    ],
)
def test_an_outage_of_the_store_names_its_effect(modes: set[OnStoreFailure], words: str) -> None:
    (found,) = problems(history(UP), history(NO_STORE), state(proxies=0), Totals(), modes)
    assert words in found.text
    assert "Connection refused" in found.text
    assert "To do: start it" in found.text
    assert "set store.replicas" in found.text, "the proxies were never counted"


def test_each_problem_keeps_its_own_beginning() -> None:
    seen = ProblemHistory()

    def update(now: str, *silent: int, application: Condition = UP) -> list[str]:
        found = problems(history(application), history(UP), state(silent_workers=silent), Totals(), ())
        seen.update(found, now)
        return [each["since"] for each in seen.documents]

    assert update(START, 1) == [START]
    assert update(LATEST, 1, 2) == [START, LATEST]
    assert update(LATEST, 2, application=DOWN) == [LATER, LATEST], "the application's own beginning"
    assert update(LATEST) == []
    assert update(LATEST, 1) == [LATEST], "a new one"
