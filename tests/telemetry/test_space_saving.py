"""The most frequent keys are found in bounded memory, with counts within their stated error."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from sidegate.telemetry.space_saving import CAPACITY, WINDOWS, RecentKeys, Sketch, joined


@given(st.lists(st.integers(0, 30), max_size=400), st.integers(1, 8))
def test_a_count_is_never_too_low_and_too_high_by_its_error_at_most(keys: list[int], capacity: int) -> None:
    sketch: Sketch[int] = Sketch(capacity)
    for key in keys:
        sketch.add(key)
    summary = sketch.summary()
    real, held = Counter(keys), {entry.key: entry for entry in summary.first(capacity)}
    assert len(held) <= capacity
    assert all(real[key] <= entry.times <= real[key] + entry.error for key, entry in held.items())
    assert all(key in held for key, count in real.items() if count * capacity > len(keys))
    assert all(real[key] <= summary.missed for key in real if key not in held)


def test_a_flood_of_single_keys_does_not_hide_a_frequent_one() -> None:
    most: RecentKeys[str] = RecentKeys()
    for number in range(5_000):
        most.add(f"once-{number}")
        if number % 10 == 0:
            most.add("often")
    first = most.summary().first(3)[0]
    assert first.key == "often"
    assert first.times - first.error <= 500 <= first.times


def test_keys_older_than_all_windows_are_dropped() -> None:
    most: RecentKeys[str] = RecentKeys()
    most.add("old")
    for _ in range(WINDOWS - 1):
        most.next_window()
    assert [entry.key for entry in most.summary().first(5)] == ["old"]
    most.next_window()
    assert most.summary().first(5) == []


def test_counts_of_several_windows_are_added() -> None:
    most: RecentKeys[str] = RecentKeys()
    for _ in range(3):
        most.add("a")
        most.next_window()
    most.add("b")
    assert most.summary().first(CAPACITY) == [("a", 3, 0), ("b", 1, 0)]


@given(st.lists(st.lists(st.integers(0, 30), max_size=200), min_size=1, max_size=4), st.integers(1, 8))
def test_joined_and_cut_summaries_have_no_count_too_low_and_no_error_too_small(
    parts: list[list[int]], kept: int
) -> None:
    summaries = []
    for keys in parts:
        sketch: Sketch[int] = Sketch(8)
        for key in keys:
            sketch.add(key)
        summaries.append(sketch.summary().cut(kept))
    real = Counter(key for keys in parts for key in keys)
    found = joined(summaries)
    assert all(real[key] <= times <= real[key] + found.errors[key] for key, times in found.times.items())
    assert all(count <= found.missed for key, count in real.items() if key not in found.times)
    counts = [each.times - each.error for each in found.first(kept)]
    assert counts == sorted(counts, reverse=True)
