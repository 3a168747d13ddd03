"""The arguments of one script call for many requests, and the parsing of its reply."""

import json

import pytest
from sidegate.decision.bucket import Charge, Level, Limit, Rate
from sidegate.store.protocol import BadReply
from sidegate.store.redis.batch import UNREADABLE, Batch

DEMO = Limit(Rate(1, 6_000_000), 15, 10, 3_600_000)
DAILY = Limit(Rate(5, 86_400_000_000), 5, 5, 1)


def batch_of(*requests: list[Charge]) -> Batch[int]:
    batch: Batch[int] = Batch()
    for waiter, charges in enumerate(requests):
        batch.add(charges, waiter)
    return batch


def tag_of(batch: Batch[int]) -> int:
    """The number that ends the reply to a batch."""
    return int(batch.arguments()[-1])


# -- the arguments -----------------------------------------------------------------------------------------------------


def test_a_batch_names_each_bucket_and_each_limit_once() -> None:
    batch = batch_of(
        [Charge("a", DEMO, 1)],
        [Charge("b", DAILY, 2, shadow=True), Charge("a", DEMO, 3)],
        [Charge("a", DEMO, 1)],
    )
    number, first, second, limits, requests, _ = batch.arguments()
    assert (number, first, second) == (2, "a", "b")
    assert json.loads(str(limits)) == [
        *("1/6000000", 1, 6_000_000, 15, 10, 3_600_000),
        *("5/86400000000", 5, 86_400_000_000, 5, 5, 86_400_001),
    ]
    assert json.loads(str(requests)) == [1, 1, 1, 1, 0, 2, 2, 2, 2, 1, 1, 1, 3, 0, 1, 1, 1, 1, 0]


def test_equal_limits_of_two_configurations_are_both_understood() -> None:
    again = Limit(Rate(1, 6_000_000), 15, 10, 3_600_000)
    *_, limits, requests, _ = batch_of([Charge("a", DEMO, 1)], [Charge("a", again, 1)]).arguments()
    assert len(json.loads(str(limits))) in (6, 12)
    assert len(json.loads(str(requests))) == 10


def test_a_batch_returns_its_length_and_its_waiters() -> None:
    batch = batch_of([Charge("a", DEMO, 1)], [Charge("b", DEMO, 1), Charge("c", DEMO, 1)])
    assert len(batch) == 2
    assert batch.waiters() == [0, 1]
    assert len(Batch[int]()) == 0


def test_keys_and_numbers_of_any_size_are_sent_unchanged() -> None:
    longest = Limit(Rate(999_999_937, 9_007_199), 10**9, 10**9, 366 * 86_400_000)
    _, key, limits, requests, _ = batch_of([Charge("é" * 300, longest, 10**9)]).arguments()
    assert key == "é" * 300
    assert json.loads(str(limits)) == ["999999937/9007199", 999_999_937, 9_007_199, 10**9, 10**9, 366 * 86_400_000]
    assert json.loads(str(requests)) == [1, 1, 1, 10**9, 0]


# -- what is answered -------------------------------------------------------------------------------------------------


def test_each_waiter_gets_the_levels_of_its_own_buckets() -> None:
    batch = batch_of([Charge("a", DEMO, 1)], [Charge("b", DEMO, 1), Charge("c", DEMO, 1)], [Charge("a", DEMO, 20)])
    assert batch.deliver([9, 0, 4, 17, 0, -6_000_000, 9, -1, tag_of(batch)]) == [
        (0, (Level(9, 0, True),)),
        (1, (Level(4, 17, True), Level(0, 5_999_999, False))),
        (2, (Level(9, 0, False),)),
    ]


def test_an_unreadable_bucket_has_no_level_and_does_not_affect_others() -> None:
    batch = batch_of([Charge("a", DEMO, 1)], [Charge("b", DEMO, 1), Charge("c", DEMO, 1)], [Charge("a", DEMO, 1)])
    assert batch.deliver([9, 0, 3, 0, 0, UNREADABLE, 8, 0, tag_of(batch)]) == [
        (0, (Level(9, 0, True),)),
        (1, (Level(3, 0, True), None)),
        (2, (Level(8, 0, True),)),
    ]


TAG = object()


@pytest.mark.parametrize(
    "reply",
    [
        None,
        b"OK",
        9,
        [],
        [9],
        [9, 0],
        [9, 0, 0],
        [9, 0, 8, TAG],
        [9, 0, 8, 0, TAG],
        [b"9", b"0", TAG],
        ["9", "0", TAG],
        [9.0, 0.0, TAG],
        [None, None, TAG],
        [[9, 0], [8, 0], TAG],
        [True, False, TAG],
        (9, 0, TAG),
        {9: 0},
    ],
    ids=lambda reply: repr(reply).replace(repr(TAG), "TAG"),
)
def test_an_impossible_reply_calls_no_waiter(reply: object) -> None:
    batch = batch_of([Charge("a", DEMO, 1)])
    if isinstance(reply, list):
        reply = [tag_of(batch) if item is TAG else item for item in reply]
    with pytest.raises(BadReply):
        batch.deliver(reply)


def test_the_reply_of_another_call_calls_no_waiter() -> None:
    one, other = batch_of([Charge("a", DEMO, 1)]), batch_of([Charge("a", DEMO, 1)])
    with pytest.raises(BadReply):
        one.deliver([9, 0, tag_of(other)])
    assert one.deliver([9, 0, tag_of(one)]) == [(0, (Level(9, 0, True),))]
