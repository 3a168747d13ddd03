"""Identity: which bucket a request is charged to; no spelling charges or escapes another one."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidegate.decision.bad_request import BadRequest
from sidegate.decision.identity import (
    ANONYMOUS,
    LONGEST_VALUE_BYTES,
    MOST_HOPS,
    ClientAddress,
    _address,
    encode,
    hashed,
)
from sidegate.decision.key_values import MOST_PIECES
from sidegate.decision.policy import PolicySet

from tests.decision.asked import LOOPBACK, bucket_of, facts, source

USER = "header:X-User-ID"

# -- one bucket for one identity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x-user-id", "X-USER-ID", "X-User-Id"])
def test_a_field_has_the_same_identity_in_any_case_of_its_name(name: str) -> None:
    assert bucket_of(facts((name, "alice")), USER) == "example:p:alice"


@pytest.mark.parametrize("value", ["alice", " alice", "\talice \t", "alice  "])
def test_white_space_around_an_identity_does_not_count(value: str) -> None:
    assert bucket_of(facts(("X-User-ID", value)), USER) == "example:p:alice"


def test_case_and_white_space_within_an_identity_count() -> None:
    names = {bucket_of(facts(("X-User-ID", value)), USER) for value in ("alice", "Alice", "al ice", "al  ice")}
    assert len(names) == 4


def test_an_identity_given_twice_is_a_bad_request() -> None:
    for other in ("bob", "alice", ""):
        with pytest.raises(BadRequest, match="X-User-ID occurs 2 times"):
            bucket_of(facts(("X-User-ID", "alice"), ("x-user-id", other)), f"{USER} | client_ip")


def test_a_list_is_one_identity_of_its_own() -> None:
    assert bucket_of(facts(("X-User-ID", "alice, bob")), USER) == "example:p:alice%2C%20bob"


# -- no identity is no free pass --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [[], [("X-User-ID", "")], [("X-User-ID", "  \t ")]])
def test_a_request_without_identity_is_anonymous(fields: list[tuple[str, str]]) -> None:
    assert bucket_of(facts(*fields), USER) == "example:p:anonymous"


@pytest.mark.parametrize("fields", [[], [("X-User-ID", "")], [("X-User-ID", "  \t ")]])
def test_the_next_alternative_speaks_for_a_request_without_identity(fields: list[tuple[str, str]]) -> None:
    assert bucket_of(facts(*fields), f"{USER} | client_ip") == "example:p:client_ip=192.0.2.7"


def test_nobody_becomes_anonymous_by_saying_so() -> None:
    assert bucket_of(facts(("X-User-ID", "anonymous")), USER) == "example:p:%61nonymous"
    assert encode(ANONYMOUS) != ANONYMOUS
    assert encode("%61nonymous") != encode(ANONYMOUS)


# -- a value as part of a bucket's name -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("user-123", "user-123"),
        ("a.b_c~d@e+f-g", "a.b_c~d@e+f-g"),
        ("a*b?[c]", "a%2Ab%3F%5Bc%5D"),
        ("a%0d%0ab", "a%250d%250ab"),
        ("a:b", "a%3Ab"),
        ("a,b", "a%2Cb"),
        ("a=b", "a%3Db"),
        ("x{a}", "x%7Ba%7D"),
        ("}{a}", "%7D%7Ba%7D"),
        ("/", "%2F"),
        ("é", "%C3%A9"),
        ("\udcff", "%FF"),
        ("blake2b=00", "blake2b%3D00"),
        ("client_ip=192.0.2.7", "client_ip%3D192.0.2.7"),
        ("u" * 96, "u" * 96),
    ],
)
def test_a_value_is_percent_encoded_where_it_is_not_plain(value: str, written: str) -> None:
    assert encode(value) == written


@pytest.mark.parametrize("value", ["u" * 97, "é" * 49, "u" * 8000, "\udcff" * 97])
def test_a_long_value_is_stored_as_a_hash(value: str) -> None:
    assert encode(value) == hashed(value)
    assert len(encode(value)) == len("blake2b=") + 32


def test_identities_of_any_length_have_short_names() -> None:
    long = {bucket_of(facts(("X-User-ID", f"{number}" + "u" * 8000)), USER) for number in range(200)}
    assert len(long) == 200
    assert max(map(len, long)) <= 64


any_bytes = st.binary(min_size=1, max_size=120) | st.binary(min_size=90, max_size=100)
values = any_bytes.map(lambda raw: raw.decode("utf-8", "surrogateescape"))
tricky = st.sampled_from(
    ["anonymous", "%61nonymous", "blake2b=", "client_ip=1", "a,b", "a", "a%2Cb", "{a}", "é", "\udcc3"]
)


@given(values | tricky, values | tricky)
def test_two_values_never_share_a_name(one: str, other: str) -> None:
    assert (encode(one) == encode(other)) == (one == other)


@given(values | tricky)
def test_a_name_is_short_and_plain(value: str) -> None:
    for written in (encode(value), hashed(value)):
        assert len(written) <= 3 * LONGEST_VALUE_BYTES
        assert written.isascii()
        assert not set("{}:,*?[] \r\n\0") & set(written)
        assert written != ANONYMOUS


@pytest.mark.slow
@given(st.data())
def test_two_requests_share_a_bucket_only_by_the_same_alternative_and_value(data: st.DataObject) -> None:
    """Whichever alternative gives the value: a header can never name somebody's address or query bucket."""
    order = data.draw(
        st.permutations(["header:X-User-ID", "header:X-Other", "query:user", "query:User", "query:us{er}"])
    )
    alphabet = st.text("ab=,:%{ ", min_size=1, max_size=4).map(lambda text: text.strip() or "a") | tricky

    def bucket(given_source: str, value: str) -> str:
        kind, _, name = given_source.partition(":")
        if kind == "header":
            return bucket_of(facts((name, value)), " | ".join(order))
        escaped = "".join(f"%{byte:02X}" for byte in value.encode("utf-8", "surrogateescape"))
        return bucket_of(facts(target=f"/?{name}={escaped}"), " | ".join(order))

    one = data.draw(st.sampled_from(order)), data.draw(alphabet)
    other = data.draw(st.sampled_from(order)), data.draw(alphabet)
    assert (bucket(*one) == bucket(*other)) == (one == other)
    assert "{" not in bucket(*one)


@pytest.mark.slow
@given(st.tuples(values, values), st.tuples(values, values))
def test_composite_keys_share_a_bucket_only_where_all_parts_agree(one: tuple[str, str], other: tuple[str, str]) -> None:
    def bucket(tenant: str, user: str) -> str:
        return bucket_of(facts(("X-Tenant", tenant), ("X-User-ID", user)), "header:X-Tenant", USER)

    same = [value.strip(" \t") for value in one] == [value.strip(" \t") for value in other]
    assert (bucket(*one) == bucket(*other)) == same


def test_parts_of_a_composite_key_are_joined_by_commas() -> None:
    request = facts(("X-Tenant", "acme,inc"), method="POST")
    assert bucket_of(request, "header:X-Tenant", "method", USER) == "example:p:acme%2Cinc,POST,anonymous"


# -- secrets are never stored -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Authorization", "authorization", "Cookie", "X-API-Key", "x-api-key"])
def test_a_secret_is_stored_as_a_hash(name: str) -> None:
    request = facts((name, "s3cret"))
    assert bucket_of(request, f"header:{name}") == f"example:p:{hashed('s3cret')}"
    later = f"example:p:header:{name.lower()}={hashed('s3cret')}"
    assert bucket_of(request, f"{USER} | header:{name}") == later


def test_a_cookie_is_stored_as_a_hash() -> None:
    assert bucket_of(facts(("Cookie", "sid=s3cret")), "cookie:sid") == f"example:p:{hashed('s3cret')}"


# -- the client's address ---------------------------------------------------------------------------------------------

TRUSTED = "127.0.0.1"


def client_ip(peer: str, *forwarded: str, addresses: ClientAddress = LOOPBACK) -> str:
    request = facts(*(("X-Forwarded-For", value) for value in forwarded), peer=peer)
    return str(PolicySet([], addresses, "").identity.client_ip(request))


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        ("192.0.2.7", ["1.2.3.4"], "192.0.2.7"),  # an untrusted peer speaks for itself only
        (TRUSTED, [], TRUSTED),
        (TRUSTED, ["1.2.3.4"], "1.2.3.4"),
        (TRUSTED, ["9.9.9.9, 10.1.1.1"], "10.1.1.1"),
        (TRUSTED, ["9.9.9.9,10.1.1.1, 127.0.0.2 "], "10.1.1.1"),
        (TRUSTED, ["9.9.9.9", "10.1.1.1"], "10.1.1.1"),
        (TRUSTED, ["9.9.9.9, 10.1.1.1", "127.0.0.3"], "10.1.1.1"),
        (TRUSTED, ["127.0.0.9, 127.0.0.2"], "127.0.0.9"),
        (TRUSTED, ["1.2.3.4, unknown"], TRUSTED),
        (TRUSTED, ["1.2.3.4, unknown, 127.0.0.2"], "127.0.0.2"),
        (TRUSTED, ["unknown, 1.2.3.4"], "1.2.3.4"),
        (TRUSTED, ["1.2.3.4,"], TRUSTED),
        (TRUSTED, [""], TRUSTED),
        (TRUSTED, ["198.51.100.7:4711"], "198.51.100.7"),
        (TRUSTED, ["198.51.100.7:4711, 127.0.0.2:80"], "198.51.100.7"),
        (TRUSTED, ["[2001:db8::1]:80"], "2001:db8::1"),
        (TRUSTED, ["[2001:db8::1]"], "2001:db8::1"),
        (TRUSTED, ["[::ffff:1.2.3.4]:80"], "1.2.3.4"),
        (TRUSTED, ["2001:db8::1:80"], "2001:db8::1:80"),  # without brackets the last group is no port
        (TRUSTED, ["1.2.3.4:"], TRUSTED),
        (TRUSTED, ["1.2.3.4:port"], TRUSTED),
        (TRUSTED, ["1.2.3.4:123456"], TRUSTED),
        (TRUSTED, ["[1.2.3.4"], TRUSTED),
        (TRUSTED, ["for=1.2.3.4"], TRUSTED),
        (TRUSTED, ['"[2001:db8::1]:80"'], TRUSTED),
        (TRUSTED, ["1.2.3"], TRUSTED),
        (TRUSTED, ["1.2.3.04"], TRUSTED),
        (TRUSTED, ["1.2.3.256"], TRUSTED),
        (TRUSTED, ["::ffff:1.2.3.4"], "1.2.3.4"),
        (TRUSTED, ["9.9.9.9, ::ffff:127.0.0.2"], "9.9.9.9"),
        (TRUSTED, ["2001:DB8::1"], "2001:db8::1"),
        ("::ffff:192.0.2.7", [], "192.0.2.7"),
        ("::ffff:127.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("::1", ["1.2.3.4"], "1.2.3.4"),
        ("fe80::1%eth0", [], "fe80::1"),
        ("", ["1.2.3.4"], "0.0.0.0"),
    ],
)
def test_the_client_is_the_rightmost_hop_that_is_not_trusted(peer: str, forwarded: list[str], found: str) -> None:
    assert client_ip(peer, *forwarded) == found


def test_an_entry_too_long_for_an_address_ends_the_walk_and_is_not_remembered() -> None:
    remembered = _address.cache_info().currsize
    for number in range(50):
        assert client_ip(TRUSTED, f"1.2.3.4, {number}{'9' * 8000}") == TRUSTED
    assert _address.cache_info().currsize <= remembered + 1


def test_without_trusted_proxies_nobody_speaks_for_another() -> None:
    assert client_ip(TRUSTED, "1.2.3.4", addresses=ClientAddress()) == TRUSTED


def test_a_forged_address_gets_no_bucket_of_its_own() -> None:
    names = {bucket_of(facts(("X-Forwarded-For", f"1.2.3.{n}")), "client_ip") for n in range(200)}
    assert names == {"example:p:192.0.2.7"}


hops = st.sampled_from(
    ["127.0.0.1", "127.9.9.9", "1.2.3.4", "10.0.0.1", "nonsense", "", "::1", "2001:db8::7", "1.2.3.4:80"]
)


@given(st.lists(hops, max_size=6), st.lists(hops, max_size=6))
def test_what_stands_left_of_the_first_untrusted_hop_changes_nothing(forged: list[str], rest: list[str]) -> None:
    believed = ["5.6.7.8", *rest]
    assert client_ip(TRUSTED, ",".join([*forged, *believed])) == client_ip(TRUSTED, ",".join(believed))


@pytest.mark.parametrize(
    ("peer", "prefix", "group"),
    [
        ("192.0.2.7", 64, "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:aaaa::", 64, "2001:db8:1:2::/64"),
        ("2001:db8:1:2:3:4:5:6", 56, "2001:db8:1::/56"),
        ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6"),
        ("::ffff:192.0.2.7", 64, "192.0.2.7"),
        ("", 64, "0.0.0.0"),
    ],
)
def test_addresses_are_grouped_by_network(peer: str, prefix: int, group: str) -> None:
    identity = PolicySet([], ClientAddress(ipv6_prefix=prefix), "").identity
    assert identity.client_group(facts(peer=peer)) == group


def test_an_address_is_written_as_any_value() -> None:
    assert bucket_of(facts(peer="2001:db8::1"), "client_ip") == "example:p:2001%3Adb8%3A%3A%2F64"


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [("127.0.0.1", True), ("::ffff:127.0.0.1", True), ("::1", True), ("10.0.0.1", False), ("", False)],
)
def test_only_trusted_peers_speak_for_others(peer: str, trusted: bool) -> None:
    assert PolicySet([], LOOPBACK, "").identity.trusts(peer) is trusted


def test_a_trusted_network_of_the_other_family_is_no_match() -> None:
    addresses = ClientAddress((ip_network("::/0"),))
    assert client_ip("192.0.2.7", "1.2.3.4", addresses=addresses) == "192.0.2.7"
    assert ip_address(client_ip("2001:db8::1", "1.2.3.4", addresses=addresses)) == ip_address("1.2.3.4")


# -- the other sources ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "part", "name"),
    [
        ("/api/users/7", "path", "%2Fapi%2Fusers%2F7"),
        ("/api//users/./7/?x", "path", "%2Fapi%2Fusers%2F7"),
        ("/api/users/7", "path:1", "api"),
        ("/api/users/7", "path:3", "7"),
        ("/api/users/7", "path:4", ANONYMOUS),
        ("/api/%75sers/7", "path:2", "users"),
        ("/api/users%2F7", "path:3", "7"),
        ("/", "path", "%2F"),
        ("/", "path:1", ANONYMOUS),
        ("http://app.test/api/users", "path:2", "users"),
        ("/?user=alice", "query:user", "alice"),
        ("/?a=1&user=al%69ce&b", "query:user", "alice"),
        ("/?%75ser=alice", "query:user", "alice"),
        ("/?user=a+b", "query:user", "a%20b"),
        ("/?User=alice", "query:user", ANONYMOUS),
        ("/?user=", "query:user", ANONYMOUS),
        ("/?user", "query:user", ANONYMOUS),
        ("/#?user=alice", "query:user", ANONYMOUS),
        ("/", "query:user", ANONYMOUS),
        ("/?user=%ff", "query:user", "%FF"),
        # Tornado strips a value, and reads control characters as spaces.
        ("/?user=+alice%09%c2%a0%00", "query:user", "alice"),
        ("/?user=a%01b", "query:user", "a%20b"),
        ("/?user=%20", "query:user", ANONYMOUS),
        ("/api/users/7;x=1", "path:3", "7"),
        ("/", "method", "GET"),
    ],
)
def test_a_key_is_read_from_the_target(target: str, part: str, name: str) -> None:
    assert bucket_of(facts(target=target), part) == f"example:p:{name}"


def test_head_has_the_bucket_of_get() -> None:
    assert bucket_of(facts(method="HEAD"), "method") == bucket_of(facts(method="GET"), "method")


@pytest.mark.parametrize("target", ["http://app.test/x", "http://APP.test:81/x", "http://user@app.test./x"])
def test_the_authority_of_an_absolute_target_is_the_host(target: str) -> None:
    assert bucket_of(facts(("Host", "other.test"), target=target), "host") == "example:p:app.test"


@pytest.mark.parametrize(
    "query",
    [
        "user=a&user=b",
        "user=a&%75ser=b",
        "user=a&user",
        "user=&user=",
        "user=a&%20user=b",
        "user=a&user[]=b",
        "user=a&user%5B0%5D=b",
        "user=a;user=b&user",
    ],
)
def test_a_parameter_given_twice_is_a_bad_request(query: str) -> None:
    with pytest.raises(BadRequest, match=r"user occurs|not all applications"):
        bucket_of(facts(target=f"/?{query}"), "query:user")


@pytest.mark.parametrize(
    "query",
    [
        *("%20user=alice", "+user=alice", "user[]=alice", "user%5bx%5d=alice", "a=1;user=alice", "user%00=alice"),
        # Rack strips brackets.
        *("[user=alice", "]user=alice", "user]=alice", "%5b%5Duser%5d=alice", "+[user=alice"),
        "?user=alice",  # Koa
    ],
)
def test_a_parameter_that_only_some_applications_read_is_a_bad_request(query: str) -> None:
    with pytest.raises(BadRequest, match="not all applications read"):
        bucket_of(facts(target=f"/?{query}"), "query:user")


@pytest.mark.parametrize("query", ["user_id=alice", "user%2Eid=alice", "user+id=alice", "user%20id=alice"])
def test_a_parameter_with_another_character_for_an_underscore_is_read_or_refused(query: str) -> None:
    try:
        assert bucket_of(facts(target=f"/?{query}"), "query:user_id") == "example:p:alice"
    except BadRequest:
        assert query != "user_id=alice"


def test_a_query_of_more_than_a_thousand_parameters_is_a_bad_request_where_one_is_the_key() -> None:
    many = "&".join(["%"] * MOST_PIECES)
    assert bucket_of(facts(target=f"/?user=alice&{many[:-2]}"), "query:user") == "example:p:alice"
    with pytest.raises(BadRequest, match="more than 1000 parameters"):
        bucket_of(facts(target=f"/?user=alice&{many}"), "query:user")
    assert bucket_of(facts(target=f"/?{many}&x"), "client_ip")


def test_a_request_of_more_than_a_thousand_cookies_is_a_bad_request_where_one_is_the_key() -> None:
    many = "a=b;" * MOST_PIECES
    assert bucket_of(facts(("Cookie", f"{many[:-8]}sid=1")), "cookie:sid")
    with pytest.raises(BadRequest, match="more than 1000 cookies"):
        bucket_of(facts(("Cookie", f"{many}sid=1")), "cookie:sid")


def test_a_chain_of_more_than_32_proxies_ends_the_walk() -> None:
    chain = ", ".join(["127.0.0.2"] * (MOST_HOPS - 1))
    assert client_ip(TRUSTED, f"1.2.3.4, {chain}") == "1.2.3.4"
    assert client_ip(TRUSTED, f"1.2.3.4, 127.0.0.3, {chain}") == "127.0.0.3"


def test_a_parameter_ends_at_a_semicolon_for_every_application() -> None:
    assert bucket_of(facts(target="/?user=alice;x=1"), "query:user") == "example:p:alice"


@pytest.mark.parametrize(
    ("cookies", "value"),
    [
        (["sid=%61bc"], "abc"),
        (['sid="abc"'], "abc"),
        (["sid=\tabc "], "abc"),
        (["sid=s%3Aabc.d%2Be"], "s:abc.d e"),
        (["sid=s:abc.d+e"], "s:abc.d e"),
        (["sid=a%zz"], "a%zz"),
        (["sid=1"], "1"),
        (["a=b; sid=1; c=d"], "1"),
        (["a=b", "sid=1"], "1"),
        (['sid="1"'], "1"),
        (["sid = 1"], "1"),
        (["sid=a=b"], "a=b"),
        (["SID=1"], ""),
        (["xsid=1"], ""),
        (["sid="], ""),
        (["sid"], ""),
        ([], ""),
    ],
)
def test_a_key_is_read_from_a_cookie(cookies: list[str], value: str) -> None:
    request = facts(*(("Cookie", text) for text in cookies))
    assert bucket_of(request, "cookie:sid") == "example:p:" + (hashed(value) if value else ANONYMOUS)


@pytest.mark.parametrize(
    "cookie",
    [
        'sid="\\141bc"',
        "sid=a\\bc",
        'sid=a"bc',
        'sid="abc',
        "sid=abc\xa0",
        "sid=abc\udca0",
        "sid=caf\xe9",
        "\xa0sid=abc",
        "%73id=abc",
        "sid[]=abc",
        '"sid"=abc',
        "a=b,sid=abc",
        "a=b sid=abc",
        "a\tsid = abc",
        "a=b; ,sid=abc",
        "__Host-sid=abc",
        "__secure-sid=abc",
        "sid=abc,sid=def",
        "sid=" + "%" * 101,
    ],
)
def test_a_cookie_that_applications_read_differently_is_a_bad_request(cookie: str) -> None:
    with pytest.raises(BadRequest, match=r"not all applications read alike|100 broken percent-escapes"):
        bucket_of(facts(("Cookie", cookie)), "cookie:sid")


@pytest.mark.parametrize(
    "cookie", ["sid-2=abc", "my.sid=abc", "xsid=1; sidx=2", "a=sid=1", "-sid=abc", "s id=abc", "sid%20=abc", "a=b sid"]
)
def test_a_cookie_of_another_name_is_not_the_key(cookie: str) -> None:
    assert bucket_of(facts(("Cookie", cookie)), "cookie:sid") == f"example:p:{ANONYMOUS}"


@pytest.mark.parametrize(
    "value",
    [
        *("Bearer tok", "bearer tok", "BEARER   tok", "bEarer\ttok", " Bearer tok ", "Bearer \t tok"),
        # Flask's request.authorization.token, Express's split(" ")[1], Sanic's request.token
        *("Key tok", "tok", "+Bearer tok", "ApiToken tok"),
        # Rails
        *(
            "Token tok",
            'Token token="tok"',
            "Token token=tok",
            'Token token="tok", other="1"',
            "Bearer tok;x",
            "Bearer ,tok",
        ),
    ],
)
def test_a_token_is_one_key_in_every_spelling_that_applications_read_alike(value: str) -> None:
    request = facts(("Authorization", value))
    assert bucket_of(request, "header:Authorization") == f"example:p:{hashed('tok')}"


@pytest.mark.parametrize(
    "value",
    [
        "Bearer tok other",
        "Key tok x=1",
        "B earerBearer tok",
        "Token xBearertok",
        "xBearertok",
        "Key xTokentok",
        "Bearer ,",
    ],
)
def test_credentials_in_which_applications_read_several_tokens_are_a_bad_request(value: str) -> None:
    with pytest.raises(BadRequest, match="the credentials"):
        bucket_of(facts(("Authorization", value)), "header:Authorization")


@pytest.mark.parametrize(
    ("scheme", "rest"),
    [
        ("Digest", 'username="alice", realm="a site", uri="/x?y=1", algorithm=SHA-256, nc=00000001, response="aGk="'),
        (
            "AWS4-HMAC-SHA256",
            "Credential=AKID/20260101/eu/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=fe5f",
        ),
        ("SCRAM-SHA-256", "sid=AAAA, data=biwsbj11c2VyLHI9ck9wck4=="),
        ("OAuth", 'oauth_consumer_key="k",oauth_nonce="n",oauth_signature="a%3D"'),
        ("Signature", 'keyId="k",headers="(request-target) host",signature="aGk=="'),
    ],
)
def test_lists_of_parameters_are_keys_as_they_are_written(scheme: str, rest: str) -> None:
    request = facts(("Authorization", f"{scheme} {rest}"))
    assert bucket_of(request, "header:Authorization") == f"example:p:{hashed(f'{scheme.lower()} {rest}')}"


@pytest.mark.parametrize(
    "rest", ["YIIJvwYGKwYBBQUCoIIJszCC==", "alice:c2lnbmF0dXJl=", "client_token=a;nonce=b;signature=c="]
)
def test_one_word_behind_any_scheme_is_the_key(rest: str) -> None:
    request = facts(("Authorization", f"Negotiate {rest}"))
    assert bucket_of(request, "header:Authorization") == f"example:p:{hashed(rest)}"


def test_case_within_credentials_counts() -> None:
    one, other = (facts(("Authorization", f"Bearer {token}")) for token in ("tok", "TOK"))
    assert bucket_of(one, "header:Authorization") != bucket_of(other, "header:Authorization")


@pytest.mark.parametrize("text", ["YWxpY2U6eA", "YW!xpY2U6eA==", "YWxpY2U6eB==", "YWxpY2U6eA==AAAA", "YWxp Y2U6eA=="])
def test_basic_credentials_in_another_spelling_of_their_bytes_are_a_bad_request(text: str) -> None:
    assert bucket_of(facts(("Authorization", "Basic YWxpY2U6eA==")), "header:Authorization")
    with pytest.raises(BadRequest, match="canonical base64"):
        bucket_of(facts(("Authorization", f"Basic {text}")), "header:Authorization")


@pytest.mark.parametrize("cookies", [["sid=1; sid=2"], ["sid=1", "sid=1"], ["sid=1; %73id=2"], ["sid=1;\xa0sid=2"]])
def test_a_cookie_given_twice_is_a_bad_request(cookies: list[str]) -> None:
    with pytest.raises(BadRequest, match=r"sid occurs|not all applications"):
        bucket_of(facts(*(("Cookie", text) for text in cookies)), "cookie:sid")


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM", "api.example.com"),
        ("api.example.com:8080", "api.example.com"),
        ("api.example.com.", "api.example.com"),
        ("api.example.com.:80", "api.example.com"),
        (" api.example.com ", "api.example.com"),
        ("[2001:DB8::1]:8080", "%5B2001%3Adb8%3A%3A1%5D"),
        ("[::1]", "%5B%3A%3A1%5D"),
        ("", ANONYMOUS),
    ],
)
def test_a_host_is_the_same_in_every_spelling(host: str, name: str) -> None:
    assert bucket_of(facts(("Host", host)), "host") == f"example:p:{name}"


@pytest.mark.parametrize(
    "text", ["header:X-User-ID", "client_ip", "path", "path:2", "query:user", "cookie:sid", "host"]
)
def test_a_source_is_told_as_the_configuration_writes_it(text: str) -> None:
    assert str(source(text)) == text
