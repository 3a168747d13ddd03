"""What is given back to a bucket, on a real store: never more than was taken, less what grew meanwhile."""

from typing import Any

import pytest

from proxy.store.cluster_store import GIVE_BACK
from tests.servers import StoreServer

RATE = "1/6000000"
STOOD_US = 2_000_000
EARLY_US = 1_000_000


def give_back(store: StoreServer, *, cost: int = 3, burst: int = 10, rate: str = RATE, stood_us: int = STOOD_US) -> int:
    client: Any = store.client
    return int(client.eval(GIVE_BACK, 1, "k", store.time_us() - stood_us, cost, burst, rate))


def bucket(store: StoreServer, tokens: object = 4, since: object = EARLY_US, rate: str = RATE) -> None:
    client: Any = store.client
    client.hset("k", mapping={"tokens": tokens, "since": since, "rate": rate})


def found(store: StoreServer) -> tuple[int, int]:
    client: Any = store.client
    tokens, since = client.hmget("k", "tokens", "since")
    return int(tokens), int(since)


def test_tokens_come_back_and_the_time_they_stood_reserved_does_not(store_server: StoreServer) -> None:
    bucket(store_server)
    assert give_back(store_server) == 1
    tokens, since = found(store_server)
    assert tokens == 7
    assert STOOD_US <= since - EARLY_US < STOOD_US + 5_000_000  # the script runs a moment after the time was asked


def test_no_bucket_holds_more_than_its_burst(store_server: StoreServer) -> None:
    bucket(store_server, tokens=9)
    give_back(store_server, cost=3, burst=10)
    assert found(store_server)[0] == 10


def test_a_bucket_that_is_full_again_stays_as_it_is(store_server: StoreServer) -> None:
    bucket(store_server, tokens=10)
    assert give_back(store_server) == 0
    assert found(store_server) == (10, EARLY_US)


def test_a_burst_that_became_smaller_takes_nothing_away(store_server: StoreServer) -> None:
    bucket(store_server, tokens=8)
    give_back(store_server, burst=5)
    assert found(store_server)[0] == 8


def test_a_bucket_that_is_gone_is_not_made_again(store_server: StoreServer) -> None:
    assert give_back(store_server) == 0
    assert store_server.client.dbsize() == 0


@pytest.mark.parametrize("fields", [{"rate": "1/5000000"}, {"tokens": "x"}, {"tokens": "-1"}, {"tokens": "1.5"}])
def test_a_bucket_of_another_rate_or_a_broken_one_is_left_alone(
    store_server: StoreServer, fields: dict[str, Any]
) -> None:
    bucket(store_server, **fields)
    client: Any = store_server.client
    before = client.hgetall("k")
    assert give_back(store_server) == 0
    assert client.hgetall("k") == before


def test_a_key_of_another_type_is_left_alone(store_server: StoreServer) -> None:
    store_server.client.set("k", "a string")
    assert give_back(store_server) == 0
    assert store_server.client.get("k") == b"a string"


def test_a_clock_that_was_set_back_gives_nothing(store_server: StoreServer) -> None:
    bucket(store_server)
    assert give_back(store_server, stood_us=-60_000_000) == 0
    assert found(store_server) == (4, EARLY_US)
