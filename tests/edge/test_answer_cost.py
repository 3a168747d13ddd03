"""The final cost that an answer states: in a field, in a JSON body, in an event stream."""

import json
from typing import Any

import pytest
from sidegate.decision.bucket import MAX_BURST, Charge, ChargeKind, Limit, Rate
from sidegate.decision.policy import Policy, PolicyMatch
from sidegate.decision.settling import SettleRule, final_cost
from sidegate.edge.answer_cost import TAIL_BYTES, AnswerCost, event_value, json_value
from sidegate.edge.heads import CHUNKED, ResponseHead

PATH = ("usage", "total")
LIMIT = Limit(Rate(1, 1_000_000), 100, 100, 1000)


class Settlements:
    """Records what is settled."""

    def __init__(self) -> None:
        self.found: dict[int, int | None] = {}
        self.final_costs: dict[int, int] = {}

    def settle(self, position: int, cost: int | None) -> None:
        assert self.found.setdefault(position, cost) == cost

    def leave(self) -> None: ...

    def move_places(self) -> None: ...

    def cancel(self) -> None: ...


def settled(rule: SettleRule, head: ResponseHead, *pieces: bytes) -> int | None:
    """The final cost of a request with a cost of 7."""
    policy = Policy("p", limit=LIMIT, settle=rule)
    settlements = Settlements()
    cost = AnswerCost(settlements, [PolicyMatch(policy, Charge("k", LIMIT, 7, kind=ChargeKind.HOLD))])
    cost.on_head(head)
    for piece in pieces:
        cost.received(piece)
    cost.ended()
    return settlements.found[0]


def answer(*lines: bytes, status: int = 200) -> ResponseHead:
    return ResponseHead(status, [b"HTTP/1.1 200 OK", *lines], CHUNKED, dated=False)


@pytest.mark.parametrize(
    ("written", "cost"),
    [("0", 0), ("663", 663), (663, 663), (str(MAX_BURST), MAX_BURST)]
    + [(wrong, None) for wrong in ("", "-1", -1, "1.5", 1.5, "many", None, True, "+3", "0x1", MAX_BURST + 1, [3], "٣")],
)
def test_a_cost_is_a_whole_number_up_to_the_largest_burst(written: object, cost: int | None) -> None:
    assert final_cost(written) == cost


@pytest.mark.parametrize(("status", "cost"), [(401, 7), (503, 7), (200, 0), (404, 0)])
def test_a_status_keeps_the_cost_or_gives_it_back(status: int, cost: int) -> None:
    rule = SettleRule(when=frozenset({401, *range(500, 600)}))
    assert settled(rule, answer(status=status)) == cost


@pytest.mark.parametrize(
    ("lines", "cost"),
    [([b"X-Used: 663"], 663), ([b"x-used:  9 "], 9), ([], None), ([b"X-Used: 1", b"X-Used: 1"], None)],
)
def test_a_field_states_the_cost_once_and_is_taken_out(lines: list[bytes], cost: int | None) -> None:
    head = answer(b"A: b", *lines)
    assert settled(SettleRule(header="x-used"), head) == cost
    assert head.lines == [b"HTTP/1.1 200 OK", b"A: b"]


def test_a_field_that_is_kept_stays_in_its_place() -> None:
    head = answer(b"X-Used: 3", b"A: b")
    assert settled(SettleRule(header="x-used", keep_header=True), head) == 3
    assert head.lines[1:] == [b"X-Used: 3", b"A: b"]


LONG = "x" * TAIL_BYTES
DOCUMENTS: list[tuple[Any, object]] = [
    ({"usage": {"total": 3}}, 3),
    ({"text": LONG, "usage": {"total": 3}}, 3),
    ({"usage": {"total": 3}, "text": LONG}, None),  # not in the tail
    ({"text": LONG, "usage": {"total": 4}, "more": [{"usage": {"total": 5}}]}, 4),
    ({"text": LONG, "more": {"usage": {"total": 5}}}, None),
    ({"text": LONG + '"usage": {"total": 5}}', "usage": {"total": 6}, "end": '}]"'}, 6),
    ({"text": LONG + '"usage": {"total": 5}}'}, None),
    ([LONG, {"usage": {"total": 5}}], None),
    ({"text": LONG, "usage": 5}, None),
    ({"text": LONG, "usage": None}, None),
    ([1], None),
]


@pytest.mark.parametrize(("document", "found"), DOCUMENTS)
def test_a_member_of_the_outermost_object_is_found_in_the_end_of_a_document(document: Any, found: object) -> None:
    for text in (json.dumps(document), json.dumps(document, indent=2)):
        assert json_value(text.encode()[-TAIL_BYTES:], PATH) == found


@pytest.mark.parametrize(
    "broken", [b"", b"{", b'{"usage": {"total": ', b"<html>", b"\xff\xfe", b'"usage": {"total": 5}']
)
def test_a_body_that_is_no_document_has_no_cost(broken: bytes) -> None:
    assert json_value(broken, PATH) is None


def test_a_body_nested_deeper_than_can_be_read_has_no_cost() -> None:
    deep = b'"usage": ' + b'{"total":' * 7_000
    for tail in (deep, b"x" + deep + b"1" + b"}" * 7_000, b"data: " + deep + b"\n\n"):
        assert (json_value(tail, PATH), event_value(tail, PATH)) == (None, None)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_last_event_that_has_the_value_counts(end: str) -> None:
    events = ['data: {"usage": {"total": 1}}', 'id: 7\ndata: {"usage":\ndata: {"total": 2}}', "data: [DONE]", ": ping"]
    text = "\n\n".join(events) + "\n\n"
    assert event_value(text.replace("\n", end).encode(), PATH) == 2


def test_an_event_stream_is_read_from_its_end_in_any_pieces() -> None:
    events = (
        b"".join(b'data: {"n": %d}\n\n' % number for number in range(20_000)) + b'data: {"usage": {"total": 9}}\n\n'
    )
    pieces = [events[begin : begin + 777] for begin in range(0, len(events), 777)]
    assert settled(SettleRule(json=PATH), answer(b"Content-Type: text/event-stream; charset=utf-8"), *pieces) == 9


def test_a_long_body_is_not_kept_beyond_its_tail() -> None:
    policy = Policy("p", limit=LIMIT, settle=SettleRule(json=PATH))
    cost = AnswerCost(Settlements(), [PolicyMatch(policy, Charge("k", LIMIT, 7, kind=ChargeKind.HOLD))])
    cost.on_head(answer())
    for _ in range(100):
        cost.received(bytes(TAIL_BYTES - 1))
        assert len(cost._tail) <= TAIL_BYTES
