"""No two pairs of policy and identity share a bucket, whatever clients send and however policies are named."""

from itertools import product
from typing import NamedTuple
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from sidegate.decision.identity import ANONYMOUS
from sidegate.decision.policy import Policy, PolicySet
from sidegate.decision.request import RequestFacts

from tests.decision.asked import LOOPBACK, MINUTELY, key

SOURCES = ["header:X-User-ID", "header:X-Tenant", "query:user", "header:X-API-Key", "cookie:sid", "host", "client_ip"]
PEERS = {"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:db8::1": "net", "2001:db8::2": "net"}

# Few values, so that two requests often differ in how the same characters are divided among their sources: with what
# separates the parts of a name, what marks hashes and fallbacks, and what looks like all that. And any others.
PIECES = [
    *("a", "b", ":", ",", "=", "%", "%3A", "%2C", "{", "}", "*", "?", "[", "]", "|", "\\"),
    *("anonymous", "client_ip=", "blake2b=", "192.0.2.7", "p:", "é", "\udcff", "a" * 97),
]
TRICKY = ["a", "a,a", "a,a,a", "a%2Ca", "192.0.2.7", "client_ip=192.0.2.7", "anonymous", "%61nonymous", "query:user=a"]
values = st.sampled_from(TRICKY) | st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join)
names = st.sampled_from(["p", "p.a", "p-a", "a", "rl", "anonymous", "p_", "client_ip", "192.0.2.7", "P"])


class Asked(NamedTuple):
    """A request, and what it shows to each source; None where nothing."""

    facts: RequestFacts
    shown: dict[str, str | None]


def written(value: str) -> str:
    return quote_from_bytes(value.encode("utf-8", "surrogateescape"), safe="")


@st.composite
def requests(draw: st.DrawFn) -> Asked:
    shown: dict[str, str | None] = {source: draw(st.none() | values) for source in SOURCES[:4]}
    shown["cookie:sid"] = draw(st.none() | st.text("ab=%:,{}", min_size=1, max_size=5))
    shown["host"] = draw(st.none() | st.sampled_from(["a.test", "b.test", "anonymous", "192.0.2.7"]))
    peer = draw(st.sampled_from(sorted(PEERS)))
    shown["client_ip"] = PEERS[peer]
    return asking(shown, peer)


def asking(shown: dict[str, str | None], peer: str) -> Asked:
    """A request that shows just this."""
    fields = CIMultiDict[str]()
    for source in ("header:X-User-ID", "header:X-Tenant", "header:X-API-Key", "host"):
        if (value := shown.get(source)) is not None:
            fields.add(source.removeprefix("header:"), value)
    if (value := shown.get("cookie:sid")) is not None:
        fields.add("Cookie", f"other=1; sid={value}")
    user = shown["query:user"]
    target = "/api/x?other=1" + ("" if user is None else f"&user={written(user)}")
    return Asked(RequestFacts("GET", target, fields, peer), shown)


@st.composite
def keys(draw: st.DrawFn) -> list[list[str]]:
    sources = st.sampled_from([*SOURCES[:3], *SOURCES])  # those that say it as it is more often than those that hash
    alternatives = st.lists(sources, min_size=1, max_size=3, unique=True)
    return draw(st.lists(alternatives, min_size=1, max_size=3, unique_by=tuple))


def identity(asked: Asked, parts: list[list[str]]) -> list[tuple[str, str]]:
    """Who asks, worked out without any encoding: for each part the source that counts, and its value."""
    return [
        next(((source, value) for source in part if (value := asked.shown[source])), ("", ANONYMOUS)) for part in parts
    ]


def bucket(policy: str, parts: list[list[str]], asked: Asked) -> str:
    policies = [Policy(policy, key=key(*(" | ".join(part) for part in parts)), limit=MINUTELY)]
    (applied,) = PolicySet(policies, LOOPBACK, "example:").applying(asked.facts)
    assert applied.charge is not None
    return applied.charge.key


USER, TENANT, QUERY, CLIENT = SOURCES[0], SOURCES[1], SOURCES[2], "client_ip"


@pytest.mark.parametrize(
    "parts",
    [
        [[USER], [TENANT]],
        [[USER, QUERY]],
        [[QUERY, USER, CLIENT]],
        [[USER], [TENANT, QUERY]],
        [[USER], [TENANT], [QUERY, CLIENT]],
    ],
    ids=str,
)
def test_tricky_values_in_all_combinations_keep_their_identities_apart(parts: list[list[str]]) -> None:
    policies = PolicySet(
        [Policy("p", key=key(*(" | ".join(part) for part in parts)), limit=MINUTELY)], LOOPBACK, "example:"
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for user, tenant, query in product([None, *TRICKY], repeat=3):
        asked = asking({USER: user, TENANT: tenant, QUERY: query, CLIENT: "192.0.2.7"}, "192.0.2.7")
        (applied,) = policies.applying(asked.facts)
        assert applied.charge is not None
        who = identity(asked, parts)
        assert found.setdefault(applied.charge.key, who) == who
    assert len({tuple(who) for who in found.values()}) == len(found)


@pytest.mark.slow
@given(keys(), names, names, requests(), requests())
def test_two_buckets_are_one_only_for_the_same_policy_and_the_same_identity(
    parts: list[list[str]], policy: str, other_policy: str, asked: Asked, other: Asked
) -> None:
    same = policy == other_policy and identity(asked, parts) == identity(other, parts)
    assert (bucket(policy, parts, asked) == bucket(other_policy, parts, other)) == same


@pytest.mark.slow
@given(keys(), keys(), names, names, requests(), requests())
def test_policies_with_keys_of_their_own_never_meet_in_a_bucket(
    parts: list[list[str]], other_parts: list[list[str]], policy: str, other_policy: str, asked: Asked, other: Asked
) -> None:
    if policy != other_policy:
        assert bucket(policy, parts, asked) != bucket(other_policy, other_parts, other)


@pytest.mark.slow
@given(keys(), names, requests())
def test_a_name_is_one_word_that_redis_cluster_and_its_patterns_take_as_it_is(
    parts: list[list[str]], policy: str, asked: Asked
) -> None:
    name = bucket(policy, parts, asked)
    assert name.isascii()
    assert name.isprintable()
    assert not set("{}*?[]\\ ") & set(name)
    assert len(name) <= len(f"example:{policy}:") + len(parts) * 320
