"""Parsing of the slot map and of redirections."""

from typing import Any

import pytest
from sidegate.config.store_url import Address
from sidegate.store.cluster.slots import BadSlots, Redirect, SlotRange, read_redirect, read_slots

ASKED = Address("10.0.0.9", 7000)


def test_a_map_names_the_master_of_every_range() -> None:
    reply: list[Any] = [
        [0, 8191, [b"10.0.0.1", 7001, b"id", []], [b"10.0.0.2", 7002, b"id"]],
        [8192, 16383, [b"2001:db8::1", 7003]],
    ]
    assert read_slots(reply, ASKED) == [
        SlotRange(0, 8191, Address("10.0.0.1", 7001)),
        SlotRange(8192, 16383, Address("2001:db8::1", 7003)),
    ]


@pytest.mark.parametrize("host", [b"", None])
def test_a_node_that_does_not_know_its_address_has_that_of_the_query(host: bytes | None) -> None:
    assert read_slots([[0, 1, [host, 7001]]], ASKED) == [SlotRange(0, 1, Address("10.0.0.9", 7001))]


@pytest.mark.parametrize(
    "reply",
    [
        *(None, 7, b"OK", [1], [[0, 1]], [[0, 1, b"host"]], [[0, 16384, [b"h", 1]]], [[2, 1, [b"h", 1]]]),
        *([[-1, 1, [b"h", 1]]], [["0", "1", [b"h", 1]]], [[0, 1, [b"\xff", 1]]], [[0, 1, [b"h", b"x"]]]),
    ],
    ids=repr,
)
def test_a_reply_that_is_no_map_is_refused(reply: object) -> None:
    with pytest.raises(BadSlots):
        read_slots(reply, ASKED)


@pytest.mark.parametrize(
    ("text", "redirect"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirect(3999, Address("127.0.0.1", 6381), False)),
        ("ASK 3999 127.0.0.1:6381", Redirect(3999, Address("127.0.0.1", 6381), True)),
        ("MOVED 1 :6381", Redirect(1, Address("10.0.0.9", 6381), False)),
        ("MOVED 1 2001:db8::1:6381", Redirect(1, Address("2001:db8::1", 6381), False)),
        ("MOVED 1 node.example.com:6381", Redirect(1, Address("node.example.com", 6381), False)),
        ("MOVED 16384 127.0.0.1:6381", None),
        ("MOVED x 127.0.0.1:6381", None),
        ("MOVED 1", None),
        ("ASK", None),
        ("CLUSTERDOWN The cluster is down", None),
        ("ERR MOVED 1 127.0.0.1:1", None),
    ],
)
def test_only_a_redirection_is_read_as_one(text: str, redirect: Redirect | None) -> None:
    assert read_redirect(text, ASKED) == redirect
