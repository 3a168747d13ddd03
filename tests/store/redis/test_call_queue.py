"""The pace of script calls to one server."""

import time
from dataclasses import dataclass, field

from sidegate.store.protocol import StoreUnavailable
from sidegate.store.redis import call_queue
from sidegate.store.redis.call_queue import MOST_CHARGES_UNDER_WAY, CallQueue

HALF = MOST_CHARGES_UNDER_WAY // 2
TIMEOUT = StoreUnavailable("timeout")


@dataclass
class Call:
    size: int
    asked_s: float = field(default_factory=time.monotonic)
    done: bool = False
    begun: bool = False
    result: object = None

    def begin(self) -> None:
        self.begun = True

    def finish(self, reply: object) -> None:
        self.result = reply


def sent(queue: CallQueue, *sizes: int) -> list[Call]:
    calls = [Call(size) for size in sizes]
    for call in calls:
        queue.send(call)
    return calls


def begun(calls: list[Call]) -> list[bool]:
    return [call.begun for call in calls]


def test_calls_wait_while_as_many_charges_as_are_allowed_are_under_way() -> None:
    queue = CallQueue()
    calls = sent(queue, HALF, HALF, 1, HALF)
    assert begun(calls) == [True, True, False, False]
    queue.ended(calls[0], [])
    assert begun(calls) == [True, True, True, False]
    queue.ended(calls[1], [])
    assert begun(calls) == [True] * 4


def test_a_call_that_is_larger_than_the_bound_is_sent_alone() -> None:
    queue = CallQueue()
    calls = sent(queue, 1, 10 * MOST_CHARGES_UNDER_WAY, 1)
    assert begun(calls) == [True, False, False]
    queue.ended(calls[0], [])
    assert begun(calls) == [True, True, False]
    queue.ended(calls[1], [])
    assert begun(calls) == [True] * 3


def test_no_call_overtakes_one_that_waits() -> None:
    queue = CallQueue()
    calls = sent(queue, HALF, MOST_CHARGES_UNDER_WAY, 1)
    assert begun(calls) == [True, False, False]


def test_calls_that_wait_fail_with_a_server_that_answers_nothing() -> None:
    queue = CallQueue()
    calls = sent(queue, MOST_CHARGES_UNDER_WAY, 1, 1)
    queue.ended(calls[0], TIMEOUT)
    assert [call.result for call in calls] == [None, TIMEOUT, TIMEOUT]
    assert begun(sent(queue, MOST_CHARGES_UNDER_WAY)) == [True]


def test_calls_that_wait_go_on_where_a_late_reply_fails_one_call_of_a_server_that_answers() -> None:
    queue = CallQueue()
    calls = sent(queue, HALF, HALF, 1)
    queue.ended(calls[1], [])
    queue.send(last := Call(MOST_CHARGES_UNDER_WAY))
    queue.ended(calls[0], TIMEOUT)
    queue.ended(calls[2], [])
    assert (last.begun, last.result) == (True, None)


def test_a_call_that_waited_too_long_fails_by_overload() -> None:
    queue = CallQueue()
    calls = sent(queue, MOST_CHARGES_UNDER_WAY, 1, 1)
    calls[1].asked_s -= call_queue.LONGEST_WAIT_S + 1
    queue.ended(calls[0], [])
    assert isinstance(calls[1].result, StoreUnavailable)
    assert (calls[1].result.reason, begun(calls)) == ("overloaded", [True, False, True])


def test_a_call_that_ended_while_it_waited_is_not_sent() -> None:
    queue = CallQueue()
    calls = sent(queue, MOST_CHARGES_UNDER_WAY, 1, 1)
    calls[1].done = True
    queue.ended(calls[0], [])
    assert begun(calls) == [True, False, True]


def test_any_number_of_calls_that_fail_while_they_are_sent_end_without_recursion() -> None:
    class Failing(Call):
        def begin(self) -> None:
            self.begun = True
            queue.ended(self, StoreUnavailable("connect"))

    queue = CallQueue()
    first = Call(MOST_CHARGES_UNDER_WAY)
    queue.send(first)
    calls = [Failing(1) for _ in range(5_000)]
    for call in calls:
        queue.send(call)
    queue.ended(first, [])  # a reply after all of them were asked: none has failed for want of answers
    assert all(call.begun or call.result for call in calls)
    assert begun(sent(queue, MOST_CHARGES_UNDER_WAY)) == [True]
