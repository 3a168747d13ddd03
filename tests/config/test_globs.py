"""Patterns match what their stars mean, in time linear in the length of the text."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sidegate.config.globs import checked_host, checked_path, checked_value, path_regex, text_regex


def takes(pattern: str, path: str, flags: int = 0) -> bool:
    return re.compile(path_regex(checked_path(pattern)), flags).fullmatch(path) is not None


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("/api/**", ["/api", "/api/a", "/api/a/b"], ["/", "/apis", "/a/api"]),
        ("/api/*", ["/api/a"], ["/api", "/api/a/b"]),
        ("/api/", ["/api"], ["/api/a"]),
        ("/", ["/"], ["/a"]),
        ("/**", ["/", "/a", "/a/b"], ["*"]),
        ("/*", ["/", "/a"], ["/a/b"]),
        ("/v*/users", ["/v1/users", "/v/users"], ["/v1/2/users", "/users"]),
        ("/**/users", ["/users", "/a/users", "/a/b/users"], ["/users/a", "/ausers"]),
        ("/a/**/b", ["/a/b", "/a/x/b", "/a/b/b"], ["/a", "/ab", "/a/x/bc"]),
        ("/a/**/b/**/c/*", ["/a/b/c/d", "/a/b/b/x/c/c/d"], ["/a/c/b/d", "/a/b/c"]),
        ("/*.php", ["/.php", "/x.php"], ["/xphp", "/x.php5", "/x/y.php"]),
        ("/a.b+c", ["/a.b+c"], ["/aXb+c", "/a.bbc"]),
        ("/a%2Fb", ["/a%2Fb"], ["/a/b"]),
        ("/straße", ["/straße"], ["/strasse"]),
    ],
)
def test_a_star_stays_in_its_segment_and_two_take_whole_segments(
    pattern: str, matching: list[str], others: list[str]
) -> None:
    assert [path for path in [*matching, *others] if takes(pattern, path)] == matching


def test_case_counts_unless_it_is_ignored() -> None:
    assert not takes("/API/**", "/api/a")
    assert takes("/API/*x", "/api/aX", re.IGNORECASE)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("api/**", "'api/**' does not begin with a slash; expected e.g. /api/**"),
        ("", "'' does not begin with a slash; expected e.g. /api/**"),
        ("/a//b", "'/a//b' holds an empty segment, which no path has once its slashes are merged"),
        ("/a/../b", "'/a/../b' holds the segment '..', which no path has once it is resolved"),
        ("/a/**b", "'/a/**b' joins ** with other characters; ** is a whole segment, e.g. /api/**"),
        ("/a/***", "'/a/***' joins ** with other characters; ** is a whole segment, e.g. /api/**"),
        ("/a?b=c", "'/a?b=c' holds a query or a fragment; a path is matched without them"),
        ("/a%20b", "'/a%20b' holds a percent sign; paths are matched decoded, write the character itself"),
        ("/a\\b", "'/a\\\\b' holds a backslash or a control character, which no path has"),
        ("/" + "*a" * 17, "'/*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a' holds 17 stars; at most 16"),
        ("/" + "a" * 1024, f"'/{'a' * 59}…' is longer than 1024 characters"),
    ],
)
def test_a_path_pattern_that_could_never_match_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        checked_path(pattern)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("api.example.com", ["api.example.com"], ["apiXexample.com", "x.api.example.com"]),
        ("API.Example.com", ["api.example.com"], []),
        ("*.example.com", ["a.example.com", "a.b.example.com"], ["example.com", "a.example.com.evil"]),
        ("*", ["a", ""], []),
        ("[2001:db8::1]", ["[2001:db8::1]"], ["2001:db8::1"]),
    ],
)
def test_a_host_is_matched_without_case_and_a_star_spans_labels(
    pattern: str, matching: list[str], others: list[str]
) -> None:
    regex = re.compile(text_regex(checked_host(pattern)))
    assert [host for host in [*matching, *others] if regex.fullmatch(host)] == matching


EXPECTED_HOST = "expected e.g. api.example.com, *.example.com, [2001:db8::1]"


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a.com:80", "'a.com:80' names a port; hosts are matched without it, e.g. api.example.com"),
        ("[::1]:80", "'[::1]:80' names a port; hosts are matched without it, e.g. api.example.com"),
        ("http://a", f"'http://a' is not a host; {EXPECTED_HOST}"),
        ("bücher.de", f"'bücher.de' is not a host; {EXPECTED_HOST}"),
        ("", f"'' is not a host; {EXPECTED_HOST}"),
    ],
)
def test_a_host_pattern_that_could_never_match_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        checked_host(pattern)
    assert str(caught.value) == message


def test_a_full_name_is_the_same_host_without_its_last_dot() -> None:
    assert checked_host("a.example.com.") == "a.example.com"


def test_a_value_is_matched_whole_with_stars_over_anything() -> None:
    regex = re.compile(text_regex(checked_value("free*v2")))
    assert [value for value in ("freev2", "free \n v2", "Freev2", "freev2x") if regex.fullmatch(value)] == [
        "freev2",
        "free \n v2",
    ]
    with pytest.raises(ValueError, match=r"^'free ' begins or ends with a space; values are matched without those$"):
        checked_value("free ")


# The same rules again, the slow and obvious way.


def plainly_takes(pattern: str, path: str) -> bool:
    return segments_fit(pattern.rstrip("/").split("/")[1:], path.split("/")[1:] if path != "/" else [""])


def segments_fit(patterns: list[str], segments: list[str]) -> bool:
    if not patterns:
        return segments in ([], [""])
    if patterns[0] == "**":
        rest = patterns[1:]
        return any(segments_fit(rest, segments[at:]) for at in range(len(segments) + 1)) if rest else True
    return bool(segments) and text_fits(patterns[0], segments[0]) and segments_fit_rest(patterns, segments)


def segments_fit_rest(patterns: list[str], segments: list[str]) -> bool:
    return len(segments) == 1 if len(patterns) == 1 else segments_fit(patterns[1:], segments[1:])


def text_fits(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(text_fits(pattern[1:], text[at:]) for at in range(len(text) + 1))
    return bool(text) and text[0] == pattern[0] and text_fits(pattern[1:], text[1:])


few_letters = st.text("ab*", min_size=1, max_size=5).filter(lambda text: "**" not in text)
patterns = st.lists(few_letters | st.just("**"), min_size=1, max_size=6).map(lambda parts: "/" + "/".join(parts))
paths = st.lists(st.text("ab", min_size=1, max_size=5), max_size=7).map(lambda parts: "/" + "/".join(parts))


@pytest.mark.slow
@settings(max_examples=200)
@given(patterns, paths)
def test_a_path_pattern_means_what_the_plain_rules_say(pattern: str, path: str) -> None:
    assert takes(pattern, path) == plainly_takes(pattern, path)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_a_value_pattern_means_what_the_plain_rules_say(pattern: str, text: str) -> None:
    assert (re.fullmatch(text_regex(checked_value(pattern)), text) is not None) == text_fits(pattern, text)


@pytest.mark.speed
@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/**/**/**/a*a*a*b", "/" + "a" * 8000),
        ("/**/**/**/a*a*a*b", "/aaaa" * 1600),
        ("/" + "a*" * 16 + "b", "/" + "a" * 8000),
        ("/**/a/**/a/**/a/**/a/**/a/**/a/**/a/**/b", "/a" * 4000),
        ("/**/a*/a*/**/a*/a*/**/*a*a/**/b*", "/aa" * 2600),
        ("/**/" + "*/" * 15 + "b", "/a" * 4000),
    ],
)
def test_no_path_makes_a_pattern_slow(pattern: str, path: str) -> None:
    regex = re.compile(path_regex(checked_path(pattern)))
    began_s = time.perf_counter()
    for _ in range(3):
        assert regex.fullmatch(path) is None
    assert (time.perf_counter() - began_s) / 3 < 0.05
