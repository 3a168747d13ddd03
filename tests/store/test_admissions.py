"""Ends of admissions that could not be sent: each is tried again in bounded portions, until it has no more effect."""

import asyncio
from collections.abc import Sequence

import pytest
from sidegate.decision.bucket import Charge, ChargeKind, places_limit
from sidegate.decision.policy import Policy, PolicyMatch
from sidegate.store.admissions import KEPT_S, PORTION, Admissions
from sidegate.store.local_store import LocalStore
from sidegate.store.protocol import OnLevels, StoreUnavailable

LIMIT = places_limit(3)
COUNT = 2 * PORTION + 10


class Asked:
    """The part of a store that admissions use; it answers at once."""

    def __init__(self) -> None:
        self.answer: StoreUnavailable | tuple[None] = StoreUnavailable("connect")
        self.charges: list[Charge] = []

    def ask(self, charges: Sequence[Charge], then: OnLevels) -> None:
        self.charges += charges
        then(self.answer, 0.0)


def left_unsent(store: Asked) -> Admissions:
    """Admissions with COUNT places to free, of calls whose replies were lost."""
    made = Admissions(store, LocalStore(), lambda: True, lambda _, __: None)  # type: ignore[arg-type]
    policy = Policy("p", limit=LIMIT)
    for number in range(COUNT):
        charge = Charge(f"k{number}", LIMIT, 1, kind=ChargeKind.PLACE, detail=(f"lease-{number}",))
        made.abandon([PolicyMatch(policy, charge)])
    assert made.unsent == COUNT
    return made


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_could_not_be_sent_is_sent_a_portion_in_each_turn_of_the_loop() -> None:
    store = Asked()
    made = left_unsent(store)
    store.answer = (None,)
    made.resume()
    assert len(store.charges) == PORTION
    made.resume()  # while the first round goes on
    await turns(4)
    assert [charge.key for charge in store.charges] == [f"k{number}" for number in range(COUNT)]
    assert {charge.kind for charge in store.charges} == {ChargeKind.LEAVE}
    assert made.unsent == 0


async def test_a_round_tries_each_end_once_while_the_store_is_away() -> None:
    store = Asked()
    made = left_unsent(store)
    made.resume()
    await turns(20)
    assert (len(store.charges), made.unsent) == (COUNT, COUNT)
    made.resume()
    await turns(20)
    assert (len(store.charges), made.unsent) == (2 * COUNT, COUNT)


async def test_an_end_that_has_no_more_effect_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KEPT_S, ChargeKind.LEAVE, -1.0)
    store = Asked()
    made = left_unsent(store)
    made.resume()
    await turns(4)
    assert (store.charges, made.unsent) == ([], 0)
