"""A request with buckets in several slots, for all answers of the slots in any order."""

from collections.abc import Sequence

import pytest
from sidegate.decision.bucket import Charge, Level
from sidegate.store.cluster.reservation import Reservation
from sidegate.store.protocol import Levels, StoreUnavailable

from tests.store.sidecar import HOURLY

PAID, LACKING = Level(7, 0, True), Level(0, 0, False)
LOST = StoreUnavailable("timeout")


class Asked:
    """A request of three buckets in slots 1, 2 and 3; `shadows` names those that never refuse."""

    def __init__(self, *shadows: int, cost: int = 2) -> None:
        charges = [Charge(f"k{slot}", HOURLY, cost, slot in shadows) for slot in (1, 2, 3)]
        self.answers: list[tuple[Levels | StoreUnavailable, float]] = []
        self.given_back: list[tuple[int, list[str]]] = []
        positions = {slot: [slot - 1] for slot in (1, 2, 3)}
        reservation = Reservation(charges, positions, lambda *answer: self.answers.append(answer), self._give_back)
        self._heard = {slot: heard for slot, _, heard in reservation.parts()}

    def hear(self, **answers: Level | StoreUnavailable | None) -> "Asked":
        for at, (name, answer) in enumerate(answers.items()):
            slot = int(name.removeprefix("slot"))
            self._heard[slot](answer if isinstance(answer, StoreUnavailable) else (answer,), 10.0 - at)
        return self

    def _give_back(self, slot: int, charges: Sequence[Charge], left: Sequence[Level]) -> None:
        assert not self.answers  # before the request is answered
        assert list(left) == [PAID] * len(charges)
        self.given_back.append((slot, [charge.key for charge in charges]))


def test_a_request_that_all_slots_pass_is_charged_without_a_return() -> None:
    asked = Asked().hear(slot1=PAID, slot3=PAID, slot2=PAID)
    assert asked.given_back == []
    assert asked.answers == [([PAID, PAID, PAID], 8.0)]  # asked when the first of them was


def test_the_callback_waits_for_every_slot() -> None:
    asked = Asked().hear(slot1=PAID, slot2=LACKING)
    assert (asked.answers, asked.given_back) == ([], [])


@pytest.mark.parametrize("order", [(1, 2, 3), (2, 1, 3), (3, 2, 1)])
def test_a_refusal_gives_back_the_other_charges_in_any_order_of_replies(order: tuple[int, ...]) -> None:
    said = {1: PAID, 2: LACKING, 3: PAID}
    asked = Asked().hear(**{f"slot{slot}": said[slot] for slot in order})
    assert sorted(asked.given_back) == [(1, ["k1"]), (3, ["k3"])]
    assert asked.answers[0][0] == [Level(9, 0, True), LACKING, Level(9, 0, True)]


def test_a_shadow_charge_without_tokens_refuses_nothing() -> None:
    asked = Asked(2).hear(slot1=PAID, slot2=LACKING, slot3=PAID)
    assert asked.given_back == []
    assert asked.answers[0][0] == [PAID, LACKING, PAID]


def test_a_shadow_that_was_charged_gets_its_tokens_back_too() -> None:
    assert Asked(1).hear(slot1=PAID, slot2=LACKING, slot3=LACKING).given_back == [(1, ["k1"])]


def test_a_slot_that_fails_fails_the_request_and_the_others_get_their_tokens_back() -> None:
    asked = Asked().hear(slot1=PAID, slot2=LOST, slot3=PAID)
    assert asked.given_back == [(1, ["k1"]), (3, ["k3"])]
    assert asked.answers[0][0] is LOST


def test_a_refusal_stands_beside_a_failed_slot() -> None:
    asked = Asked().hear(slot1=PAID, slot2=LOST, slot3=LACKING)
    assert asked.given_back == [(1, ["k1"])]
    assert asked.answers[0][0] == [Level(9, 0, True), None, LACKING]


def test_a_slot_of_shadows_may_fail() -> None:
    asked = Asked(2).hear(slot1=PAID, slot2=LOST, slot3=PAID)
    assert asked.given_back == []
    assert asked.answers[0][0] == [PAID, None, PAID]


def test_a_look_takes_nothing_and_gives_nothing_back() -> None:
    assert Asked(cost=0).hear(slot1=PAID, slot2=None, slot3=PAID).given_back == []
