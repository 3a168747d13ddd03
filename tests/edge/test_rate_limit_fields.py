"""Tables of the rate-limit fields of verdicts."""

import re
from collections.abc import Sequence

import pytest
from sidegate.decision.bucket import Charge, Level, Limit, Rate
from sidegate.decision.policy import Policy, PolicyMatch
from sidegate.decision.verdict import Answer, DecisionSource, Verdict, store_failed
from sidegate.edge.rate_limit_fields import RateLimitFields

from tests.structured_fields import items_of

TEN_A_MINUTE = Limit(Rate(1, 6_000_000), 15, 10, 3_600_000)
FIVE_A_SECOND = Limit(Rate(1, 200_000), 5, 5, 3_600_000)
BOTH = RateLimitFields(standard=True, legacy=True)


def verdict(
    *entries: tuple[str, Limit, int, Level | None], shadow: Sequence[str] = (), answer: Answer = Answer.PASS
) -> Verdict:
    """A verdict from (policy name, limit, cost, level) each."""
    applied = [
        PolicyMatch(
            Policy(name, limit=limit, shadow=name in shadow),
            Charge(f"example:{name}:alice", limit, cost, name in shadow),
        )
        for name, limit, cost, _ in entries
    ]
    return Verdict(answer, DecisionSource.STORE, applied, [level for _, _, _, level in entries])


def fields_of(lines: bytes) -> dict[str, str]:
    pairs = [line.split(b": ", 1) for line in lines.split(b"\r\n") if line]
    assert lines == b"" or lines.endswith(b"\r\n")
    return {name.decode(): value.decode() for name, value in pairs}


@pytest.mark.parametrize(
    ("level", "cost", "rate_limit", "reset"),
    [
        (Level(9, 0, True), 1, '"ratelimit";r=9;t=6', "36"),
        (Level(9, 1, True), 1, '"ratelimit";r=9;t=6', "36"),
        (Level(9, 5_000_000, True), 1, '"ratelimit";r=9;t=1', "31"),
        (Level(9, 5_999_999, True), 1, '"ratelimit";r=9;t=1', "31"),
        (Level(14, 0, True), 1, '"ratelimit";r=14;t=6', "6"),
        (Level(15, 0, True), 0, '"ratelimit";r=15', "0"),
        (Level(0, 0, False), 1, '"ratelimit";r=0;t=6', "90"),
        (Level(2, 0, False), 5, '"ratelimit";r=2;t=18', "78"),
    ],
)
def test_the_fields_of_one_policy_have_remaining_tokens_and_reset(
    level: Level, cost: int, rate_limit: str, reset: str
) -> None:
    fields = fields_of(BOTH.of(verdict(("ratelimit", TEN_A_MINUTE, cost, level))))
    assert fields == {
        "RateLimit-Policy": '"ratelimit";q=15;w=90',
        "RateLimit": rate_limit,
        "X-RateLimit-Limit": "15",
        "X-RateLimit-Remaining": str(level.tokens),
        "X-RateLimit-Reset": reset,
    }


def test_several_policies_are_one_list_in_the_order_of_the_configuration() -> None:
    fields = fields_of(
        BOTH.of(verdict(("a", TEN_A_MINUTE, 1, Level(9, 0, True)), ("b", FIVE_A_SECOND, 1, Level(1, 0, True))))
    )
    assert fields["RateLimit-Policy"] == '"a";q=15;w=90, "b";q=5;w=1'
    assert fields["RateLimit"] == '"a";r=9;t=6, "b";r=1;t=1'


@pytest.mark.parametrize(
    ("first", "second", "nearest"),
    [
        (Level(9, 0, True), Level(1, 0, True), "5"),  # a fifth is less than nine fifteenths
        (Level(1, 0, True), Level(1, 0, True), "15"),
        (Level(9, 0, True), Level(4, 0, True), "15"),
        (Level(3, 0, False), Level(0, 0, True), "15"),  # the one that refuses comes before the emptier one
        (Level(0, 0, False), Level(0, 0, False), "15"),
    ],
)
def test_the_x_ratelimit_fields_describe_the_policy_nearest_its_limit(
    first: Level, second: Level, nearest: str
) -> None:
    found = BOTH.of(verdict(("a", TEN_A_MINUTE, 5, first), ("b", FIVE_A_SECOND, 1, second)))
    assert fields_of(found)["X-RateLimit-Limit"] == nearest


def test_a_shadow_policy_has_no_fields() -> None:
    assert BOTH.of(verdict(("a", TEN_A_MINUTE, 1, Level(0, 0, False)), shadow=["a"])) == b""
    both = verdict(("a", TEN_A_MINUTE, 1, Level(0, 0, False)), ("b", FIVE_A_SECOND, 1, Level(4, 0, True)), shadow=["a"])
    assert fields_of(BOTH.of(both))["RateLimit-Policy"] == '"b";q=5;w=1'


def test_nothing_is_invented_while_the_store_is_down() -> None:
    applied = verdict(("a", TEN_A_MINUTE, 1, None)).applied
    assert BOTH.of(store_failed(applied, "timeout")) == b""


def test_a_bucket_that_was_not_read_has_only_a_policy_field() -> None:
    found = fields_of(BOTH.of(verdict(("a", TEN_A_MINUTE, 1, None), ("b", FIVE_A_SECOND, 1, Level(0, 0, False)))))
    assert found["RateLimit"] == '"b";r=0;t=1'


def test_each_kind_of_field_can_be_left_out() -> None:
    one = verdict(("a", TEN_A_MINUTE, 1, Level(9, 0, True)))
    assert set(fields_of(RateLimitFields(standard=True, legacy=False).of(one))) == {"RateLimit-Policy", "RateLimit"}
    legacy = {"X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
    assert set(fields_of(RateLimitFields(standard=False, legacy=True).of(one))) == legacy
    assert RateLimitFields(standard=False, legacy=False).of(one) == b""


def test_no_policy_means_no_fields() -> None:
    assert BOTH.of(Verdict(Answer.PASS, DecisionSource.NO_POLICY)) == b""


LEVELS = [
    Level(tokens, age_us, enough)
    for tokens in (0, 1, 4, 5, 14, 15)
    for age_us in (0, 1, 199_999)
    for enough in (True, False)
]


@pytest.mark.parametrize("level", LEVELS, ids=str)
def test_the_fields_are_structured_fields_of_rfc_9651_with_whole_numbers(level: Level) -> None:
    found = fields_of(BOTH.of(verdict(("a-b_c.1", TEN_A_MINUTE, 1, level), ("b", FIVE_A_SECOND, 1, level))))
    for name, parameters in (("RateLimit-Policy", {"q", "w"}), ("RateLimit", {"r", "t"})):
        members = items_of(found[name])
        assert [key for key, _ in members] == ["a-b_c.1", "b"]
        for _, values in members:
            assert set(values) - {"t"} == parameters - {"t"}
            assert all(type(value) is int and value >= 0 for value in values.values())
    assert all(re.fullmatch(r"\d+", found[f"X-RateLimit-{name}"]) for name in ("Limit", "Remaining", "Reset"))


@pytest.mark.parametrize("level", LEVELS, ids=str)
@pytest.mark.parametrize("cost", [0, 1, 7])
def test_the_fast_path_for_one_policy_equals_the_plain_path(level: Level, cost: int) -> None:
    one = verdict(("ratelimit", TEN_A_MINUTE, cost, level))
    assert BOTH.of(one) == BOTH.plainly(one)
