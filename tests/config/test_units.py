"""Durations, rates and sizes are read exactly, or refused with the value and the expected form."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidegate.config.units import Quota, duration_text, duration_us, quota, size_bytes, size_text

NOT_A_DURATION = "is not a duration; expected e.g. 250ms, 1s, 5m, 1h, 1d"
NOT_A_RATE = "is not a rate; expected e.g. 10/minute, 100/s, 1/2.5s"
NOT_A_SIZE = "is not a size; expected e.g. 16KiB, 1MiB, 32768"


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1us", 1),
        ("250ms", 250_000),
        ("1s", 1_000_000),
        ("2.5s", 2_500_000),
        ("0.000001s", 1),
        ("5m", 300_000_000),
        ("1h", 3_600_000_000),
        ("1d", 86_400_000_000),
        ("1h30m", 5_400_000_000),
        ("1d2h3m4s5ms6us", 93_784_005_006),
        ("0s", 0),
        ("0.1s", 100_000),
    ],
)
def test_a_duration_is_read_in_exact_microseconds(text: str, us: int) -> None:
    assert duration_us(text) == us


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("5", f"'5' {NOT_A_DURATION}"),
        ("", f"'' {NOT_A_DURATION}"),
        ("5 s", f"'5 s' {NOT_A_DURATION}"),
        ("-1s", f"'-1s' {NOT_A_DURATION}"),
        ("5min", f"'5min' {NOT_A_DURATION}"),
        ("1e3s", f"'1e3s' {NOT_A_DURATION}"),
        (".5s", f"'.5s' {NOT_A_DURATION}"),
        ("٣s", f"'٣s' {NOT_A_DURATION}"),
        (True, f"true {NOT_A_DURATION}"),
        ([], f"a list {NOT_A_DURATION}"),
        (5, "5 has no unit; expected e.g. 250ms, 1s, 5m, 1h, 1d"),
        (0.5, "0.5 has no unit; expected e.g. 250ms, 1s, 5m, 1h, 1d"),
        ("30m1h", "'30m1h' is not a duration; larger units come first, e.g. 1h30m"),
        ("1s1s", "'1s1s' is not a duration; larger units come first, e.g. 1h30m"),
        ("0.5us", "'0.5us' is finer than a microsecond; expected e.g. 250ms, 1s, 5m, 1h, 1d"),
    ],
)
def test_text_that_is_not_a_duration_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        duration_us(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "count", "period_us"),
    [
        ("10/minute", 10, 60_000_000),
        ("10/m", 10, 60_000_000),
        ("100/s", 100, 1_000_000),
        ("100/sec", 100, 1_000_000),
        ("100/second", 100, 1_000_000),
        ("7/h", 7, 3_600_000_000),
        ("7/hour", 7, 3_600_000_000),
        ("5000/d", 5000, 86_400_000_000),
        ("5000/day", 5000, 86_400_000_000),
        ("1/2.5s", 1, 2_500_000),
        ("3/1h30m", 3, 5_400_000_000),
        ("1/366d", 1, 366 * 86_400_000_000),
    ],
)
def test_a_rate_is_a_count_and_a_period(text: str, count: int, period_us: int) -> None:
    assert quota(text) == Quota(count, period_us)


NEVER = "never gives a token; count and period must be above zero, e.g. 10/minute"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        *((text, f"'{text}' {NOT_A_RATE}") for text in ("10", "/s", "10/", "")),
        *((text, f"'{text}' {NOT_A_RATE}") for text in ("-1/s", "ten/s", "10/s/s", "10/5")),
        *(
            (text, f"'{text}' {NOT_A_RATE}; did you mean 10/minute?")
            for text in ("10/min", "10/minutes", "10 / minute", "10 per minute", "10r/m", "10 requests per minute")
        ),
        ("10/S", f"'10/S' {NOT_A_RATE}; did you mean 10/second?"),
        ("3/hr", f"'3/hr' {NOT_A_RATE}; did you mean 3/hour?"),
        (10, f"10 {NOT_A_RATE}"),
        (None, f"nothing {NOT_A_RATE}"),
        ({}, f"a mapping {NOT_A_RATE}"),
        ("1.5/s", "'1.5/s' is not a rate; a rate counts whole tokens, e.g. 1/2.5s or 3/2s"),
        ("0/s", f"'0/s' {NEVER}"),
        ("1/0s", f"'1/0s' {NEVER}"),
        ("1000000001/s", "'1000000001/s' counts too many; expected 1000000000 at most in one period"),
        ("1/367d", "'1/367d' has too long a period; expected 366d at most"),
        ("1/30m1h", "'30m1h' is not a duration; larger units come first, e.g. 1h30m"),
    ],
)
def test_text_that_is_not_a_rate_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        quota(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (32768, 32768),
        ("32768", 32768),
        ("16KiB", 16384),
        ("1MiB", 2**20),
        ("1GiB", 2**30),
        ("10kB", 10000),
        ("1.5KiB", 1536),
        ("2MB", 2000000),
        ("1GB", 10**9),
        ("7B", 7),
        (0, 0),
    ],
)
def test_a_size_is_read_in_bytes(value: object, size: int) -> None:
    assert size_bytes(value) == size


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("16K", f"'16K' {NOT_A_SIZE}"),
        ("16 KiB", f"'16 KiB' {NOT_A_SIZE}"),
        (-1, f"-1 {NOT_A_SIZE}"),
        (1.5, f"1.5 {NOT_A_SIZE}"),
        (True, f"true {NOT_A_SIZE}"),
        ("²", f"'²' {NOT_A_SIZE}"),
        ("0.3B", "'0.3B' is not a whole number of bytes; expected e.g. 16KiB, 1MiB, 32768"),
    ],
)
def test_text_that_is_not_a_size_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        size_bytes(value)
    assert str(caught.value) == message


@given(st.integers(0, 10**18))
def test_a_duration_is_written_as_it_is_read(us: int) -> None:
    assert us > 10**15 or duration_us(duration_text(us)) == us


@given(st.integers(0, 10**15 - 1))
def test_a_size_is_written_as_it_is_read(size: int) -> None:
    assert size_bytes(size_text(size)) == size


@given(st.integers(1, 10**9), st.integers(1, 366 * 86_400_000_000))
def test_a_rate_is_written_as_it_is_read(count: int, period_us: int) -> None:
    assert quota(str(Quota(count, period_us))) == Quota(count, period_us)


@given(st.text(max_size=40) | st.from_regex(r"[0-9.]{0,9}(us|ms|s|m|h|d|/|KiB|min){0,4}", fullmatch=True))
def test_any_text_is_read_or_refused_in_one_sentence(text: str) -> None:
    for read in (duration_us, quota, size_bytes):
        fault = fault_of(read, text)
        assert fault is None or ("\n" not in fault and ("expected" in fault or "e.g." in fault))


def fault_of(read: Callable[[str], object], text: str) -> str | None:
    try:
        read(text)
    except ValueError as error:
        return str(error)
    return None
