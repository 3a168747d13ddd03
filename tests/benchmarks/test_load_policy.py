"""What a caller may expect of its buckets, by tables, with a clock moved by hand."""

import pytest

from benchmarks.load_policy import Allowance, Ceiling, Floor, Forecast, StatusError, read_status

DEMO = {"name": "ratelimit", "key": "alice", "limit": 15, "burst": 15, "rate": {"tokens": 1, "period_us": 6_000_000}}
FRESH = DEMO | {"remaining": 10, "cost": 1, "reset_s": 30, "shadow": False}


def allowance(**changes: object) -> Allowance:
    return read_status({"policies": [FRESH | changes]}, asked_s=100.0)[0]


# -- the status document says what a bucket holds, and how exactly that is known --------------------------------------


@pytest.mark.parametrize(
    ("remaining", "reset_s", "most"),
    [
        (10, 30, 10 + 1 / 6),  # a whole token, as far as whole seconds can tell
        (10, 27, 10 + 4 / 6),
        (10, 24, 11.0),  # never a token more than was said
        (10, None, 11.0),
        (15, 0, 15.0),  # a full bucket has no fraction
        (15, None, 15.0),
        (0, 90, 1 / 6),
    ],
)
def test_the_fraction_of_a_token_is_bounded_by_the_seconds_until_full(
    remaining: int, reset_s: int | None, most: float
) -> None:
    assert allowance(remaining=remaining, reset_s=reset_s).most == pytest.approx(most)


def test_policies_that_cannot_refuse_are_left_out() -> None:
    blocked = {"name": "blocked", "key": "alice", "blocked": True}
    entries = [FRESH | {"shadow": True}, FRESH | {"cost": 0}, blocked, FRESH]
    assert [found.name for found in read_status({"policies": entries}, 0.0)] == ["ratelimit:alice"]


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([], "document"),
        ({}, "policies"),
        ({"policies": [FRESH | {"remaining": -1}]}, "remaining"),
        ({"policies": [FRESH | {"rate": {"tokens": 1, "period_us": 0}}]}, "rate.period_us"),
    ],
)
def test_an_invalid_status_document_is_reported_with_its_source(document: object, place: str) -> None:
    with pytest.raises(StatusError, match=f"^{place}: "):
        read_status(document, 0.0)


# -- a run admits at most the tokens at its start and those that grow until its end -----------------------------------


@pytest.mark.parametrize(
    ("changes", "last_s", "most"),
    [
        ({}, 101.0, 10),
        ({}, 105.5, 11),
        ({}, 160.0, 20),
        ({"burst": 10, "reset_s": 0}, 101.0, 10),  # full: what grew before the first request is lost
        ({"cost": 3}, 101.0, 3),
        ({"rate": {"tokens": 100, "period_us": 1_000_000}, "remaining": 15, "reset_s": 0}, 111.0, 15 + 1001),
    ],
)
def test_a_run_admits_at_most_the_initial_tokens_and_their_growth(
    changes: dict[str, object], last_s: float, most: int
) -> None:
    assert allowance(**changes).most_requests(101.0, last_s) == most


# -- floor and ceiling enclose the bucket -----------------------------------------------------------------------------


def test_a_bucket_grows_for_sure_only_after_its_first_charge() -> None:
    floor = Floor(allowance())
    assert floor.tokens(1000.0) == 10
    floor.charge(1000.0)
    assert floor.tokens(1000.0) == pytest.approx(9, abs=0.01)
    assert floor.tokens(1006.0) == pytest.approx(10, abs=0.01)


def test_the_initial_tokens_pass_before_any_growth() -> None:
    floor = Floor(allowance())
    for _ in range(9):
        floor.charge(101.0)
    assert floor.tokens(100.5) == 1  # for a request that overlaps with those


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    floor, ceiling = Floor(allowance()), Ceiling(allowance())
    floor.charge(101.0)
    assert floor.tokens(1000.0) == ceiling.tokens(1000.0) == 15
    floor.charge(1000.0)
    ceiling.charge(1000.0)
    assert floor.tokens(1000.0) == pytest.approx(14, abs=0.01)
    assert ceiling.tokens(1000.0) == 14


def test_nothing_is_sure_after_a_request_without_an_answer() -> None:
    floor = Floor(allowance())
    floor.lose()
    floor.charge(101.0)
    assert floor.tokens(1e6) < 0


# -- one request after the other --------------------------------------------------------------------------------------


def expectations(forecast: Forecast, moments: list[float], policies: frozenset[str] | None = None) -> str:
    """One letter a request: must Pass, must be Refused, Either (then it is taken as refused)."""
    letters = ""
    for now_s in moments:
        expected = forecast.expect(now_s, now_s + 0.001, policies)
        letters += {(True, False): "P", (False, True): "R", (True, True): "E"}[
            expected.may_pass, expected.may_be_refused
        ]
        if letters[-1] == "P":
            forecast.charge(now_s, now_s + 0.001, policies)
    return letters


def at(start_s: float, count: int) -> list[float]:
    return [start_s + 0.002 * number for number in range(count)]


@pytest.mark.parametrize(
    ("changes", "moments", "letters"),
    [
        ({}, at(100.01, 15), "P" * 10 + "R" * 5),  # a fresh user of the demonstration
        ({"remaining": 15, "reset_s": 0}, at(100.01, 16), "P" * 15 + "R"),  # one who has idled
        ({"remaining": 0, "reset_s": 90}, at(100.01, 3), "RRR"),  # one who has just been here
        ({}, [*at(100.01, 11), *at(106.5, 2)], "P" * 10 + "R" + "PR"),  # a token grows in between
        ({}, [*at(100.01, 11), *at(105.5, 1)], "P" * 10 + "R" + "E"),  # perhaps it has
        ({"cost": 4}, at(100.01, 3), "PPR"),
        ({"rate": {"tokens": 1000, "period_us": 1_000_000}}, at(100.01, 15), "P" * 15),
    ],
)
def test_requests_pass_while_the_bucket_surely_holds_tokens(
    changes: dict[str, object], moments: list[float], letters: str
) -> None:
    assert expectations(Forecast([allowance(**changes)]), moments) == letters


def test_the_tightest_of_the_policies_that_applied_decides() -> None:
    both = [allowance(), allowance(name="tight", remaining=1, burst=1, reset_s=0)]
    assert expectations(Forecast(both), at(100.01, 3)) == "PRR"
    assert expectations(Forecast(both), at(100.01, 11), frozenset({"ratelimit"})) == "P" * 10 + "R"


def test_a_user_without_buckets_always_passes() -> None:
    assert expectations(Forecast([]), at(100.0, 3)) == "PPP"
