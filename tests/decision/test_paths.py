"""No spelling of a path evades a limit: every reading of common applications is matched, or the request is refused."""

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sidegate.decision.bad_request import BadRequest
from sidegate.decision.match import Match
from sidegate.decision.policy import Policy, PolicySet
from sidegate.decision.request import (
    CACHED_TARGET_CHARS,
    MOST_SEGMENTS,
    decode,
    path_part,
    paths_of,
    query_part,
)

from tests.decision.asked import LOOPBACK, MINUTELY, facts, key

# -- every spelling that reaches a handler of /api/expensive is read as that path ------------------------------------

SPELLINGS = [
    "/api/expensive",
    "/api//expensive",
    "/api/./expensive",
    "/./api/expensive",
    "/api/%2e/expensive",
    "//api/expensive",
    "///api///expensive",
    "/api/%65xpensive",
    "/%61pi/expensive",
    "/%61%70%69/%65%78%70%65%6e%73%69%76%65",
    "/api%2fexpensive",
    "/api%2Fexpensive",
    "/%2fapi/expensive",
    "/api/expensive%2f",
    "/api/expensive/",
    "/api/expensive//",
    "/api/expensive/.",
    "/api/expensive?",
    "/api/expensive?x=1",
    "/api/expensive?x=/../y#f",
    "/api/expensive#f",
    "/api/expensive#f?x",
    "http://app.test/api/expensive",
    "HTTP://app.test:8080/api/expensive?x",
    "https://user@app.test//api/./expensive/",
    "/api/expensive;1",
    "/api;v=2/expensive;a=b;c",
    "/api/.;x/expensive",
    "/api/expensive%3Bx=1",
    "/api%2Fexpensive;x",
    "/;/api/expensive",
]


@pytest.mark.parametrize("target", SPELLINGS)
def test_a_spelling_of_a_path_is_read_as_that_path(target: str) -> None:
    assert "/api/expensive" in paths_of(target)


@pytest.mark.parametrize("target", SPELLINGS)
def test_a_limit_on_a_path_applies_to_each_of_its_spellings(target: str) -> None:
    policy = Policy("p", Match(paths=(re.compile("/api/expensive"),)), key("client_ip"), MINUTELY)
    policies = PolicySet([policy], LOOPBACK, "")
    for _ in range(2):  # the second time from the cache
        assert [entry.policy.name for entry in policies.applying(facts(target=target))] == ["p"]


@pytest.mark.parametrize("target", ["/API/expensive", "/Api/%45xpensive/", "/api/EXPENSIVE?x"])
def test_a_limit_that_ignores_case_applies_to_every_case(target: str) -> None:
    pattern = re.compile("/api/expensive", re.IGNORECASE)
    policies = PolicySet([Policy("p", Match(paths=(pattern,)), key("client_ip"), MINUTELY)], LOOPBACK, "")
    assert len(policies.applying(facts(target=target))) == 1


# -- spellings that no application reads as that path -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "read"),
    [
        ("/api/expensive%20", "/api/expensive "),
        ("/api/expensive.", "/api/expensive."),
        ("/api/expensive%3Fx", "/api/expensive?x"),
        ("/api/expensive%23x", "/api/expensive#x"),
        ("/api/expensive%25", "/api/expensive%"),
        ("/api/...", "/api/..."),
        ("/api/.hidden", "/api/.hidden"),
        ("/api/a+b", "/api/a+b"),
        ("/API/expensive", "/API/expensive"),
        ("/", "/"),
        ("//", "/"),
        ("*", "*"),
        ("http://app.test", "/"),
        ("http://app.test?x=/api/expensive", "/"),
        ("/caf%C3%A9", "/café"),
        ("/café", "/café"),
    ],
)
def test_an_unambiguous_path_has_one_reading(target: str, read: str) -> None:
    assert paths_of(target) == (read,)


@pytest.mark.parametrize(
    ("target", "readings"),
    [
        ("/files/a%2Fb", ("/files/a/b", "/files/a%2Fb")),
        ("/files/a%2fb%2Fc/", ("/files/a/b/c", "/files/a%2Fb%2Fc")),
        ("/files/.%2Fb", ("/files/b", "/files/.%2Fb", "/files/./b")),
        ("/files/..b%2F.c", ("/files/..b/.c", "/files/..b%2F.c")),
        ("/%2F", ("/", "/%2F")),
        ("/.", ("/", "/.")),
        ("/api/./x", ("/api/x", "/api/./x")),
        ("/api/x;y", ("/api/x", "/api/x;y")),
        ("/a;b/c;d", ("/a/c", "/a;b/c;d")),
        ("/a%2Fb;c", ("/a/b", "/a%2Fb", "/a/b;c", "/a%2Fb;c")),
        ("/a;b%2Fc", ("/a/c", "/a", "/a;b/c", "/a;b%2Fc")),
        # Bottle drops bytes that are not UTF-8.
        ("/api/ex%ffpensive", ("/api/expensive", "/api/ex\udcffpensive")),
        (
            "/api%c0%af/x%E4%2Fy",
            ("/api/x/y", "/api/x%2Fy", "/api\udcc0\udcaf/x\udce4/y", "/api\udcc0\udcaf/x\udce4%2Fy"),
        ),
        ("/%ff", ("/", "/\udcff")),
    ],
)
def test_a_path_that_applications_read_differently_has_all_their_readings(
    target: str, readings: tuple[str, ...]
) -> None:
    assert paths_of(target) == readings


@pytest.mark.parametrize("pattern", ["/files/a/b", "/files/[^/]*"])
def test_a_limit_on_either_reading_applies(pattern: str) -> None:
    policies = PolicySet([Policy("p", Match(paths=(re.compile(pattern),)), key("client_ip"), MINUTELY)], LOOPBACK, "")
    assert len(policies.applying(facts(target="/files/a%2Fb"))) == 1


# -- ambiguous paths are refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/api/x/../expensive",
        "/api/heavy/../../public/x",
        "/api/x/%2e%2e/expensive",
        "/api/x/%2E./expensive",
        "/api/expensive/x/..",
        "/public/..;/api/expensive",
        "/public/..;x=1/api/expensive",
        "/public/%2e%2e;/api/expensive",
        "/public/..%3B/api/expensive",
        "/public/.%ff./api/expensive",
        "/public/x%5%ffc",
        "/a/..",
        "/api/expensive%0a",
        "/api/expensive%0D%0A",
        "/api/exp%09ensive",
        "/api/.%01/expensive",
        "/api/x/.%7f./expensive",
        "/api/expensive%1f",
        "/api/%2565xpensive",
        "/api/%252e/expensive",
        "/api/%252E%252e/expensive",
        "/api%252fexpensive",
        "/api/%25%32%66expensive",
        "/api/%%32%65",
        "/api/expensive%00",
        "/api/\x00expensive",
        "/api/x/..%5cexpensive",
        "/api\\expensive",
        "/..",
        "/../api/expensive",
        "/api/../../expensive",
        "/%2e%2e/api",
        "/api%2f..%2f..%2fexpensive",
        "/api/x%2f..%2fexpensive",
        "/api/..%2Fx",
        "/api/x%2F..",
        "/api/x%2Fy/../z",
        "/api/x/../y%2Fz",
        "/api/.%01.%2Fx",
        "/api/%2e%2e%2Fx",
        "/%",
        "/api/%2",
        "/api/%zz",
        "/api/%-1",
        "/api/% 2e",
        "http://app.test/../x",
    ],
)
def test_an_ambiguous_path_is_a_bad_request(target: str) -> None:
    for _ in range(2):
        with pytest.raises(BadRequest):
            paths_of(target)


def test_an_ambiguous_path_is_a_bad_request_whatever_its_length() -> None:
    long = "/x" * CACHED_TARGET_CHARS
    assert paths_of(f"{long}/./x") == (f"{long}/x", f"{long}/./x")
    with pytest.raises(BadRequest):
        paths_of(f"{long}/%252e")


@pytest.mark.parametrize("piece", ["/x", "/", "%2f", ";a", "/;", "%2F.;"])
def test_a_path_of_more_than_a_thousand_segments_is_a_bad_request(piece: str) -> None:
    assert paths_of("/" + piece * (MOST_SEGMENTS // len(piece) // 2))
    with pytest.raises(BadRequest, match="more than 1000 segments"):
        paths_of("/" + piece * MOST_SEGMENTS)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from("%25aF=\udcff+ \r\n\t_")))
def test_text_is_decoded_as_urllib_does_it(text: str) -> None:
    raw = unquote_to_bytes(text.encode("utf-8", "surrogateescape"))
    assert decode(text) == raw.decode("utf-8", "surrogateescape")


# -- over any path ----------------------------------------------------------------------------------------------------

plain = st.text("abcxyzABC019-_~", min_size=1, max_size=6)


@st.composite
def disguises(draw: st.DrawFn) -> tuple[str, str]:
    """A plain path, and another spelling of it that some server takes for the same."""
    segments = draw(st.lists(plain, min_size=1, max_size=4))
    slashes = st.sampled_from(["/", "//", "/./", "/%2e/", "/%2E/.//", "/;x/", "/.;y=1/", "%2f"])
    target = "/"
    for segment in segments:
        target += draw(slashes)
        for letter in segment:
            target += draw(st.sampled_from([letter, letter, f"%{ord(letter):02x}", f"%{ord(letter):02X}"]))
    ending = draw(st.sampled_from(["", "/", "//", "/.", ";a=b", "%3Bc", "?", "?q=%2F%zz", "#f", "/?x#y"]))
    return "/" + "/".join(segments), target + ending


@pytest.mark.slow
@given(disguises())
def test_a_disguised_path_is_read_as_the_plain_one(disguise: tuple[str, str]) -> None:
    path, target = disguise
    assert paths_of(target)[0] == path


@given(st.text(st.sampled_from("/.%2eEfF5cC0aAbx\\?#:;\x00\x01\x7f+é "), max_size=40))
def test_any_target_is_canonical_or_a_bad_request(tail: str) -> None:
    try:
        readings = paths_of("/" + tail)
    except BadRequest:
        return
    assert len(set(readings)) == len(readings)
    assert not {".", ";"} & set(readings[0].split("/"))
    for path in readings:
        assert path.startswith("/")
        assert path == "/" or not path.endswith("/")
        assert "//" not in path
        assert ".." not in path.split("/")
        assert not re.search(r"[\x00-\x1f\x7f\\]", path)


# -- no spelling of a path gets a bucket of its own -------------------------------------------------------------------

PIECES = ["api", "expensive", "x", "y", "..", ".", "%2F", "%2f", "/", "/", "%2e", "%2E%2e", "%61pi", "%01", ""]


@st.composite
def spellings(draw: st.DrawFn) -> str:
    return "/" + draw(st.lists(st.sampled_from(PIECES), max_size=9).map("".join))


@given(spellings())
def test_all_readings_agree_up_to_the_first_encoded_slash(target: str) -> None:
    try:
        first, *others = paths_of(target)
    except BadRequest:
        return
    for other in others:
        if "/." not in other:
            assert first.startswith(other.partition("%2F")[0].rstrip("/"))


@example("/x%2Fy/../api/expensive", ("/api/expensive(?:/.*)?", "path:2"))
@example("/api/..%2Fexpensive", ("/api/.*", "path:1"))
@given(spellings(), st.sampled_from([("/api/.*", "path:1"), ("/api/expensive(?:/.*)?", "path:2")]))
def test_a_segment_that_the_match_fixes_is_the_same_in_every_spelling(target: str, policy: tuple[str, str]) -> None:
    pattern, source = policy
    policies = PolicySet([Policy("p", Match(paths=(re.compile(pattern),)), key(source), MINUTELY)], LOOPBACK, "")
    try:
        applied = policies.applying(facts(target=target))
    except BadRequest:
        return
    charges = {entry.charge.key for entry in applied if entry.charge}
    assert charges <= {"p:api" if source == "path:1" else "p:expensive"}


# -- the parts of a target --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/a?b", "/a", "b"),
        ("/a?b?c", "/a", "b?c"),
        ("/a?b#c", "/a", "b"),
        ("/a#b?c", "/a", ""),
        ("/a", "/a", ""),
        ("/a?", "/a", ""),
        ("http://app.test/a?b", "/a", "b"),
        ("http://app.test?b", "/", "b"),
        ("http://app.test", "/", ""),
        ("*", "*", ""),
        ("/a//b?c=//d", "/a//b", "c=//d"),
        ("/http://app.test/a", "/http://app.test/a", ""),
    ],
)
def test_a_target_has_a_path_and_a_query(target: str, path: str, query: str) -> None:
    assert (path_part(target), query_part(target)) == (path, query)
