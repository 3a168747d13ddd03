"""A request with buckets in several slots, for all answers of the slots in any order."""

from collections.abc import Sequence

import pytest
from sidegate.decision.bucket import Charge, Level
from sidegate.store.cluster.contention import Contention
from sidegate.store.cluster.reservation import Reservation
from sidegate.store.protocol import Levels, OnLevels, PartlyUnavailable, StoreUnavailable

from tests.store.sidecar import HOURLY

PAID, LACKING = Level(7, 0, True), Level(0, 0, False)
LOST = StoreUnavailable("timeout")
BACK = Level(9, 0, True)


class Asked:
    """A request of three buckets in slots 1, 2 and 3; `shadows` names those that never refuse."""

    def __init__(
        self, *shadows: int, cost: int = 2, first: int | None = None, failed: dict[int, StoreUnavailable] | None = None
    ) -> None:
        charges = [Charge(f"k{slot}", HOURLY, cost, slot in shadows) for slot in (1, 2, 3)]
        self.answers: list[tuple[Levels | StoreUnavailable, float]] = []
        self.given_back: list[tuple[int, list[str]]] = []
        self.asked: list[int] = []
        self._waiting: dict[int, OnLevels] = {}
        positions = {slot: [slot - 1] for slot in (1, 2, 3)}
        self.reservation = Reservation(
            charges, positions, lambda *answer: self.answers.append(answer), self._ask, self._give_back
        )
        self.reservation.begin(first, failed)

    def reply(self, **answers: Level | StoreUnavailable | None) -> "Asked":
        for at, (name, answer) in enumerate(answers.items()):
            slot = int(name.removeprefix("slot"))
            self._waiting[slot](answer if isinstance(answer, StoreUnavailable) else (answer,), 10.0 - at)
        return self

    def part(self) -> PartlyUnavailable:
        """The only answer: some slots passed."""
        ((answer, _),) = self.answers
        assert isinstance(answer, PartlyUnavailable)
        return answer

    def _ask(self, slot: int, charges: Sequence[Charge], then: OnLevels) -> None:
        assert [charge.key for charge in charges] == [f"k{slot}"]
        self.asked.append(slot)
        self._waiting[slot] = then

    def _give_back(self, slot: int, charges: Sequence[Charge], left: Sequence[Level]) -> None:
        assert list(left) == [PAID] * len(charges)
        self.given_back.append((slot, [charge.key for charge in charges]))


def test_a_request_that_all_slots_pass_is_charged_without_a_return() -> None:
    asked = Asked().reply(slot1=PAID, slot3=PAID, slot2=PAID)
    assert asked.given_back == []
    assert asked.answers == [([PAID, PAID, PAID], 8.0)]  # asked when the first of them was


def test_no_answer_is_given_before_all_slots_have_answered() -> None:
    assert Asked().reply(slot1=PAID, slot2=LACKING).answers == []


@pytest.mark.parametrize("order", [(1, 2, 3), (2, 1, 3), (3, 2, 1)])
def test_a_refusal_gives_back_the_other_charges_in_any_order_of_replies(order: tuple[int, ...]) -> None:
    said = {1: PAID, 2: LACKING, 3: PAID}
    asked = Asked().reply(**{f"slot{slot}": said[slot] for slot in order})
    assert sorted(asked.given_back) == [(1, ["k1"]), (3, ["k3"])]
    assert asked.answers[0][0] == [BACK, LACKING, BACK]


def test_a_shadow_charge_without_tokens_refuses_nothing() -> None:
    asked = Asked(2).reply(slot1=PAID, slot2=LACKING, slot3=PAID)
    assert asked.given_back == []
    assert asked.answers[0][0] == [PAID, LACKING, PAID]


def test_a_shadow_that_was_charged_gets_its_tokens_back_too() -> None:
    assert Asked(1).reply(slot1=PAID, slot2=LACKING, slot3=LACKING).given_back == [(1, ["k1"])]


def test_where_a_slot_fails_the_charges_of_the_others_stand_until_they_are_given_back() -> None:
    asked = Asked().reply(slot1=PAID, slot2=LOST, slot3=PAID)
    assert (asked.part().reason, list(asked.part().levels)) == ("timeout", [PAID, None, PAID])
    assert asked.given_back == []
    asked.part().give_back()
    assert asked.given_back == [(1, ["k1"]), (3, ["k3"])]
    assert list(asked.part().levels) == [BACK, None, BACK]


def test_a_request_whose_slots_all_fail_has_failed() -> None:
    asked = Asked().reply(slot1=LOST, slot2=LOST, slot3=LOST)
    assert asked.answers == [(LOST, 8.0)]


def test_a_slot_that_is_known_to_be_unavailable_is_not_charged() -> None:
    asked = Asked(failed={2: LOST})
    assert asked.asked == [1, 3]
    assert list(asked.reply(slot1=PAID, slot3=PAID).part().levels) == [PAID, None, PAID]
    assert Asked(first=2, failed={2: LOST}).asked == [1, 3]


def test_beside_a_bucket_that_cannot_be_read_nothing_stays_charged() -> None:
    asked = Asked().reply(slot1=PAID, slot2=None, slot3=PAID)
    assert asked.given_back == [(1, ["k1"]), (3, ["k3"])]
    assert asked.answers == [([BACK, None, BACK], 8.0)]


def test_a_bucket_that_cannot_be_read_leaves_its_whole_slot_without_charges() -> None:
    assert two_slots((PAID, None), (PAID,)) == ([PAID, None, BACK], [2])


def test_a_shadow_bucket_that_cannot_be_read_keeps_no_other_from_being_charged() -> None:
    assert two_slots((PAID, None), (PAID,), shadow=True) == ([PAID, None, PAID], [])


def test_a_shadow_bucket_that_cannot_be_read_is_given_back_with_its_slot() -> None:
    assert two_slots((PAID, None), (LACKING,), shadow=True) == ([BACK, None, LACKING], [1])


def two_slots(first: Levels, second: Levels, *, shadow: bool = False) -> tuple[object, list[int]]:
    """The answer to a request of two buckets in slot 1 and one in slot 2, and the slots that were given back.

    `shadow`: the second bucket never refuses.
    """
    heard: list[object] = []
    returned: list[int] = []
    calls: dict[int, OnLevels] = {}
    both = Reservation(
        [Charge(key, HOURLY, 2, key == "b" and shadow) for key in ("a", "b", "c")],
        {1: [0, 1], 2: [2]},
        lambda answer, _: heard.append(answer),
        lambda slot, _, then: calls.update({slot: then}),
        lambda slot, *_: returned.append(slot),
    )
    both.begin()
    calls[1](first, 1.0)
    calls[2](second, 1.0)
    (answer,) = heard
    return answer, returned


def test_a_refusal_stands_beside_a_failed_slot() -> None:
    asked = Asked().reply(slot1=PAID, slot2=LOST, slot3=LACKING)
    assert asked.given_back == [(1, ["k1"])]
    assert asked.answers[0][0] == [BACK, None, LACKING]


def test_a_look_takes_nothing_and_gives_nothing_back() -> None:
    asked = Asked(cost=0).reply(slot1=PAID, slot2=LOST, slot3=PAID)
    asked.part().give_back()
    assert asked.given_back == []


# -- one slot first ---------------------------------------------------------------------------------------------------


def test_the_other_slots_are_charged_once_the_first_has_passed() -> None:
    asked = Asked(first=2)
    assert asked.asked == [2]
    assert asked.reply(slot2=PAID).asked == [2, 1, 3]
    assert asked.reply(slot1=PAID, slot3=PAID).answers[0][0] == [PAID, PAID, PAID]
    assert asked.given_back == []


def test_a_first_slot_that_refuses_ends_the_request_without_other_charges() -> None:
    asked = Asked(first=2).reply(slot2=LACKING)
    assert (asked.asked, asked.given_back) == ([2], [])
    assert asked.answers == [([None, LACKING, None], 10.0)]


def test_a_first_slot_that_fails_leaves_the_decision_to_the_others() -> None:
    asked = Asked(first=2).reply(slot2=LOST)
    assert asked.asked == [2, 1, 3]
    assert list(asked.reply(slot1=PAID, slot3=PAID).part().levels) == [PAID, None, PAID]


def test_a_first_slot_that_is_slow_does_not_keep_the_others_from_deciding() -> None:
    asked = Asked(first=2)
    asked.reservation.hurry()
    assert asked.asked == [2, 1, 3]
    asked.reservation.hurry()
    assert asked.reply(slot1=PAID, slot3=PAID).answers == []
    asked.reservation.expire(LOST)
    assert list(asked.part().levels) == [PAID, None, PAID]
    asked.reply(slot2=PAID)
    assert asked.given_back == [(2, ["k2"])]  # its failure mode has decided


def test_a_refusal_after_the_first_slot_gives_its_charge_back() -> None:
    asked = Asked(first=2).reply(slot2=PAID)
    asked.reply(slot1=LACKING, slot3=PAID)
    assert sorted(asked.given_back) == [(2, ["k2"]), (3, ["k3"])]
    assert asked.answers[0][0] == [LACKING, BACK, BACK]


def test_a_request_that_expires_before_its_first_slot_answers_charges_no_others() -> None:
    asked = Asked(first=2)
    asked.reservation.expire(LOST)
    asked.reservation.hurry()
    assert asked.reply(slot2=PAID).given_back == [(2, ["k2"])]
    assert (asked.asked, asked.answers) == ([2], [(LOST, 0.0)])


def test_a_request_that_has_ended_does_not_expire() -> None:
    asked = Asked(first=2).reply(slot2=LACKING)
    asked.reservation.expire(LOST)
    assert len(asked.answers) == 1


# -- which slot first -------------------------------------------------------------------------------------------------


def charge(key: str, cost: int = 1) -> Charge:
    return Charge(key, HOURLY, cost)


def test_of_several_buckets_that_refused_the_latest_is_charged_first() -> None:
    known = Contention()
    assert known.latest(["a", "b"]) is None
    known.note([charge("a"), charge("b"), charge("c")], [LACKING, LACKING, PAID])
    assert known.latest(["a", "b", "c"]) == "b"
    known.note([charge("a")], [LACKING])
    assert known.latest(["a", "b", "c"]) == "a"
    assert known.latest(["c"]) is None


def test_a_bucket_is_forgotten_once_it_has_tokens_for_a_further_request() -> None:
    known = Contention()
    known.note([charge("a", 3)], [LACKING])
    for level in (None, Level(2, 0, True)):
        known.note([charge("a", 3)], [level])
        assert known.latest(["a"]) == "a"
    known.note([charge("a", 0)], [PAID])  # only read
    assert known.latest(["a"]) == "a"
    known.note([charge("a", 3)], [Level(3, 0, True)])
    assert known.latest(["a"]) is None


def test_the_bucket_that_refused_longest_ago_is_forgotten_for_a_new_one() -> None:
    known = Contention(2)
    known.note([charge("a"), charge("b"), charge("a"), charge("c")], [LACKING] * 4)
    assert [known.latest([key]) for key in "abc"] == ["a", None, "c"]
