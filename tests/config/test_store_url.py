"""The store's URL, in every spelling."""

import pytest
from sidegate.config.store_url import Address, StoreKind, parse, split_credentials


@pytest.mark.parametrize(
    ("url", "in_full"),
    [
        ("localhost", "redis://localhost:6379/0"),
        ("h:7/3", "redis://h:7/3"),
        ("redis://h/", "redis://h:6379/0"),
        ("rediss://[::1]:7", "rediss://[::1]:7/0"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock?db=0"),
        ("redis+sentinel://a,b:2,[::1]/my.master", "redis+sentinel://a:26379,b:2,[::1]:26379/my.master/0"),
        ("rediss+sentinel://a/m/3", "rediss+sentinel://a:26379/m/3"),
        ("redis+cluster://a,b:7/", "redis+cluster://a:6379,b:7"),
        ("rediss+cluster://a/0", "rediss+cluster://a:6379"),
    ],
)
def test_a_complete_store_url_is_parsed_to_itself(url: str, in_full: str) -> None:
    assert str(parse(url)) == in_full
    assert parse(in_full) == parse(url)


def test_a_store_url_is_split_into_the_parts_of_a_connection() -> None:
    url = parse("rediss+sentinel://[2001:db8::1]:1,b/m/2")
    assert url.kind is StoreKind.SENTINEL
    assert url.addresses == (Address("2001:db8::1", 1), Address("b", 26379))
    assert (url.tls, url.service, url.db) == (True, "m", 2)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "redis+cluster"])
def test_credentials_are_removed_from_every_kind_of_url(scheme: str) -> None:
    assert split_credentials(f"{scheme}://me:p%40ss@a:1,b:2/m") == (f"{scheme}://a:1,b:2/m", "me", "p@ss")


@pytest.mark.parametrize(
    "url",
    [
        *("", "a b", "http://h", "unix://run", "redis://", "redis://a,b", "redis://h:0", "redis://h:65536"),
        *("redis+sentinel://a", "redis+sentinel:///m", "redis+cluster://", "redis+cluster://a,"),
        *("redis+cluster://a/1", "redis://u:p@h"),
    ],
)
def test_a_url_that_is_no_store_gets_an_example(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected"):
        parse(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rediss://cache.example.:6380", "rediss://cache.example:6380/0"),
        ("REDISS+Sentinel://a.example.,b.example./svc", "rediss+sentinel://a.example:26379,b.example:26379/svc/0"),
        ("rediss+cluster://a.example.:1", "rediss+cluster://a.example:1"),
        ("redis://cache.example.:6380", "redis://cache.example.:6380/0"),  # where DNS alone reads it, it stays
    ],
)
def test_under_tls_the_dot_at_the_end_of_a_host_is_left_out_since_certificates_have_none(url: str, shown: str) -> None:
    assert str(parse(url)) == shown
