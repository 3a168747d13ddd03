"""Deadlines that move often, on a clock that the test controls."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from sidegate.edge.deadline import Deadline


class Timer:
    def __init__(self, due_s: float, ring: Callable[[], None]) -> None:
        self.due_s = due_s
        self.ring = ring
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """The part of an event loop that a deadline uses; `armed` counts the timers created."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[Timer] = []
        self.armed = 0

    def time(self) -> float:
        return self.now_s

    def call_at(self, due_s: float, ring: Callable[[], None]) -> Timer:
        self.armed += 1
        self.timers.append(Timer(due_s, ring))
        return self.timers[-1]

    def move(self, by_s: float) -> None:
        self.now_s += by_s
        due = [timer for timer in self.timers if timer.due_s <= self.now_s and not timer.cancelled]
        self.timers = [timer for timer in self.timers if timer.due_s > self.now_s and not timer.cancelled]
        for timer in due:
            timer.ring()


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.rung_at_s: list[float] = []
        loop = cast(asyncio.AbstractEventLoop, cast(Any, self.clock))
        self.deadline = Deadline(loop, lambda: self.rung_at_s.append(self.clock.now_s - 100.0))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_deadline_fires_exactly_once(bench: Bench) -> None:
    bench.deadline.set(5)
    bench.clock.move(4.9)
    assert bench.rung_at_s == []
    bench.clock.move(0.1)
    bench.clock.move(10)
    assert bench.rung_at_s == [5]


def test_a_deadline_moved_later_fires_later(bench: Bench) -> None:
    bench.deadline.set(5)
    bench.clock.move(4)
    bench.deadline.set(5)
    bench.clock.move(1)
    assert bench.rung_at_s == []
    bench.clock.move(4)
    assert bench.rung_at_s == [9]


def test_a_deadline_moved_earlier_fires_earlier(bench: Bench) -> None:
    bench.deadline.set(5)
    bench.deadline.set(1)
    bench.clock.move(1)
    assert bench.rung_at_s == [1]


def test_a_cleared_deadline_does_not_fire(bench: Bench) -> None:
    bench.deadline.set(5)
    bench.deadline.clear()
    bench.clock.move(10)
    assert bench.rung_at_s == []


def test_a_deadline_set_after_clearing_fires(bench: Bench) -> None:
    bench.deadline.set(5)
    bench.deadline.clear()
    bench.clock.move(4)
    bench.deadline.set(2)
    bench.clock.move(1)
    assert bench.rung_at_s == []
    bench.clock.move(1)
    assert bench.rung_at_s == [6]


def test_a_deadline_set_again_fires_again(bench: Bench) -> None:
    bench.deadline.set(1)
    bench.clock.move(1)
    bench.deadline.set(1)
    bench.clock.move(1)
    assert bench.rung_at_s == [1, 2]


def test_a_closed_deadline_never_fires_and_leaves_no_timer(bench: Bench) -> None:
    bench.deadline.set(1)
    bench.deadline.close()
    bench.deadline.close()
    assert all(timer.cancelled for timer in bench.clock.timers)
    bench.clock.move(10)
    assert bench.rung_at_s == []


def test_ten_thousand_moves_of_a_deadline_use_one_timer(bench: Bench) -> None:
    for _ in range(10_000):
        bench.deadline.set(5)
        bench.clock.now_s += 0.0001
    assert bench.clock.armed == 1
