"""One proxy's share of each limit, with a clock set by the test."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidegate.decision.bucket import Bucket, Charge, ChargeKind, Limit, Rate
from sidegate.decision.charging import decide
from sidegate.decision.policy import OnStoreFailure, Policy, PolicyMatch
from sidegate.store.local_store import LocalStore, OutageClock, share_of

SECOND = 1_000_000
HOUR_US = 3_600 * SECOND
LOCAL, ALLOW, DENY = OnStoreFailure.LOCAL, OnStoreFailure.ALLOW, OnStoreFailure.DENY
SIXTY_A_MINUTE = Limit(Rate(1, SECOND), 30, 30, 1)


def asking(
    key: str = "k",
    limit: Limit = SIXTY_A_MINUTE,
    cost: int = 1,
    *,
    shadow: bool = False,
    on_store_failure: OnStoreFailure = LOCAL,
) -> PolicyMatch:
    policy = Policy("p", limit=limit, cost=cost, shadow=shadow, on_store_failure=on_store_failure)
    return PolicyMatch(policy, Charge(key, limit, cost, shadow))


def passes(store: LocalStore, *applied: PolicyMatch, proxies: int = 3, now_us: int = 0) -> bool:
    return store.decide(applied, proxies, now_us)[2]


def admitted(stores: Sequence[LocalStore], entry: PolicyMatch, seconds: int, each_second: int) -> int:
    """How many of so many requests a second pass, spread evenly over the proxies."""
    passed = 0
    for number in range(seconds * each_second):
        store = stores[number % len(stores)]
        passed += passes(store, entry, proxies=len(stores), now_us=number * SECOND // each_second)
    return passed


# -- the share --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "proxies", "share"),
    [
        (Limit(Rate(1, SECOND), 30, 30, 1), 3, Limit(Rate(1, 3 * SECOND), 10, 10, 1)),
        (Limit(Rate(1, 6 * SECOND), 15, 10, 1), 3, Limit(Rate(1, 18 * SECOND), 5, 3, 1)),
        (Limit(Rate(9, SECOND), 10, 10, 1), 3, Limit(Rate(3, SECOND), 3, 3, 1)),
        (Limit(Rate(1, SECOND), 2, 2, 1), 3, Limit(Rate(1, 3 * SECOND), 1, 1, 1)),
        (Limit(Rate(1, SECOND), 5, 0, 1), 3, Limit(Rate(1, 3 * SECOND), 1, 0, 1)),
        (Limit(Rate(1, SECOND), 5, 4, 1), 1, Limit(Rate(1, SECOND), 5, 4, 1)),
    ],
)
def test_a_share_is_the_limit_by_the_number_of_proxies(limit: Limit, proxies: int, share: Limit) -> None:
    assert share_of(limit, proxies, 1) == share
    assert share_of(limit, proxies, 1) is share_of(limit, proxies, 1)  # fields of answers are made once for each


@given(
    st.builds(
        lambda burst, initial, tokens, period_us: Limit(Rate(tokens, period_us), burst, min(initial, burst), 1),
        *(st.integers(1, 10_000), st.integers(0, 10_000), st.integers(1, 1000), st.integers(1, 86_400 * SECOND)),
    ),
    st.integers(1, 50),
)
def test_all_shares_together_are_never_more_than_the_limit(limit: Limit, proxies: int) -> None:
    share = share_of(limit, proxies, 1)
    assert share.rate.tokens * proxies * limit.rate.period_us <= limit.rate.tokens * share.rate.period_us
    assert share.burst >= 1
    assert 0 <= share.initial <= share.burst
    if limit.burst >= proxies:
        assert limit.burst - proxies < share.burst * proxies <= limit.burst
    if limit.initial >= proxies or not limit.initial:
        assert share.initial * proxies <= limit.initial


def test_a_share_can_pay_the_policys_largest_cost() -> None:
    limit = Limit(Rate(1, SECOND), 10, 10, 1)
    assert share_of(limit, 3, 5).burst == 5
    store = LocalStore()
    assert not passes(store, asking(limit=limit, cost=5), proxies=3)  # a share begins with its third of the tokens
    assert passes(store, asking(limit=limit, cost=5), proxies=3, now_us=6 * SECOND)


def test_three_proxies_admit_together_what_the_limit_says() -> None:
    shared = SIXTY_A_MINUTE.burst + 60
    assert 0.8 * shared <= admitted([LocalStore() for _ in range(3)], asking(), 60, 10) <= shared
    demo = Limit(Rate(1, 6 * SECOND), 15, 10, 1)
    assert 16 <= admitted([LocalStore() for _ in range(3)], asking(limit=demo), 60, 10) <= 20


def test_another_number_of_proxies_is_another_share_of_the_same_bucket() -> None:
    store = LocalStore()
    assert sum(passes(store, asking(), proxies=3) for _ in range(30)) == 10
    assert not passes(store, asking(), proxies=1)
    assert sum(passes(store, asking(), proxies=1, now_us=5 * SECOND) for _ in range(30)) == 5
    assert not passes(store, asking(), proxies=3, now_us=5 * SECOND)
    assert sum(passes(store, asking(), proxies=3, now_us=10 * SECOND) for _ in range(30)) == 1


# -- several policies -------------------------------------------------------------------------------------------------


def test_a_request_is_charged_on_all_its_local_buckets_or_on_none() -> None:
    store = LocalStore()
    wide, narrow = asking("wide"), asking("narrow", Limit(Rate(1, SECOND), 3, 3, 1))
    assert [passes(store, wide, narrow) for _ in range(4)] == [True, False, False, False]
    shares, levels, _ = store.decide([wide, narrow], 3, 0)
    assert [level and (level.tokens, level.enough) for level in levels] == [(9, True), (0, False)]
    assert [entry.charge and entry.charge.limit.burst for entry in shares] == [10, 1]


def test_policies_that_are_not_local_have_no_effect() -> None:
    store = LocalStore()
    trial = asking("trial", Limit(Rate(1, SECOND), 1, 1, 1), shadow=True)
    applied = [asking(), asking("open", on_store_failure=ALLOW), asking("s", shadow=True, on_store_failure=DENY), trial]
    for left in (9, 8):
        shares, levels, passed = store.decide(applied, 3, 0)
        assert passed
        assert [level and level.tokens for level in levels] == [left, None, None, 0]
        assert shares[1:3] == applied[1:3]
    assert {charge.key for charge in store.debts(10)} == {"k", "trial"}


def test_a_look_charges_nothing_and_creates_no_debt() -> None:
    store = LocalStore()
    entry = asking()
    assert entry.charge is not None
    _, levels, passed = store.decide([entry._replace(charge=entry.charge._replace(cost=0))], 3, 0)
    assert passed
    assert [level and level.tokens for level in levels] == [10]
    assert not store.owes
    assert len(store) == 0


# -- what is owed -----------------------------------------------------------------------------------------------------


def test_admitted_requests_create_debts_and_refused_ones_do_not() -> None:
    store = LocalStore()
    for _ in range(12):
        passes(store, asking("k"))
    passes(store, asking("other", cost=4))
    debts = store.debts(10)
    assert debts == [
        Charge("k", SIXTY_A_MINUTE, 10, kind=ChargeKind.DEBIT),
        Charge("other", SIXTY_A_MINUTE, 4, kind=ChargeKind.DEBIT),
    ]
    assert not store.owes
    shared = {"k": Bucket(25, 0, SIXTY_A_MINUTE.rate), "other": Bucket(3, 0, SIXTY_A_MINUTE.rate)}
    decide([[debt] for debt in debts], shared, 0)
    assert [bucket.tokens for bucket in shared.values()] == [15, 0]


def test_debts_are_taken_in_portions_and_given_back_where_they_were_not_charged() -> None:
    store = LocalStore()
    for number in range(5):
        passes(store, asking(f"k{number}"))
    first = store.debts(2)
    assert [charge.key for charge in first] == ["k0", "k1"]
    passes(store, asking("k0"))
    store.owe_again(first)
    assert {charge.key: charge.cost for charge in store.debts(10)} == {"k0": 2, "k1": 1, "k2": 1, "k3": 1, "k4": 1}


def test_a_reset_bucket_starts_anew_without_a_debt() -> None:
    store = LocalStore()
    assert [passes(store, asking()) for _ in range(11)].count(True) == 10
    assert store.forget("k")
    assert not store.owes
    assert passes(store, asking())
    assert store.forget("never-seen") is False


def test_an_outage_that_comes_and_goes_refills_nothing() -> None:
    store = LocalStore()
    assert sum(passes(store, asking()) for _ in range(20)) == 10
    store.debts(10)
    assert not any(passes(store, asking()) for _ in range(20))


def test_a_debt_is_at_most_a_burst() -> None:
    store = LocalStore()
    for second in range(200):
        passes(store, asking(), proxies=1, now_us=second * SECOND)
    assert [charge.cost for charge in store.debts(10)] == [SIXTY_A_MINUTE.burst]


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_new_keys_never_take_the_place_of_a_spent_or_owing_bucket() -> None:
    store = LocalStore(most_buckets=100)
    for _ in range(10):
        passes(store, asking("victim"))
    admitted_keys = sum(passes(store, asking(f"attacker-{number}")) for number in range(1000))
    assert admitted_keys == 99
    assert not passes(store, asking("victim"))
    assert len(store) == 100
    assert len(store.debts(10_000)) == 100


def test_a_bucket_that_has_been_repaid_gives_way_to_a_new_key() -> None:
    store = LocalStore(most_buckets=2)
    assert passes(store, asking("a"))
    assert passes(store, asking("b"))
    assert not passes(store, asking("c"))
    (debt, _) = store.debts(2)
    store.repay(debt.key, debt.cost)
    assert passes(store, asking("c"))
    assert len(store) == 2


def test_a_large_cost_raises_the_burst_of_its_own_charge_only() -> None:
    limit = Limit(Rate(1, SECOND), 100, 100, 1)
    policy = Policy("p", limit=limit, costs={"POST": 50}, on_store_failure=LOCAL)
    get = PolicyMatch(policy, Charge("k", limit, 1))
    store = LocalStore()
    assert sum(passes(store, get, proxies=4, now_us=HOUR_US) for _ in range(200)) == 25


# -- the time of outages ----------------------------------------------------------------------------------------------


def test_the_outage_clock_stands_still_while_the_store_answers() -> None:
    clock = OutageClock()
    assert clock.failed(SECOND, 2 * SECOND, throughout=False) == SECOND
    assert clock.failed(5 * SECOND, 5 * SECOND, throughout=True) == 4 * SECOND
    clock.answered()
    assert clock.failed(100 * SECOND, 100 * SECOND, throughout=True) == 4 * SECOND
    # Calls that overlap count once; a gap without an open breaker does not count.
    assert clock.failed(99 * SECOND, 101 * SECOND, throughout=False) == 5 * SECOND
    assert clock.failed(200 * SECOND, 201 * SECOND, throughout=False) == 6 * SECOND


def test_any_number_of_outages_admits_one_burst_beyond_the_rate_during_them() -> None:
    limit = Limit(Rate(20, SECOND), 100, 100, 1)
    entry = asking(limit=limit)
    stores, clocks, shared = [LocalStore() for _ in range(3)], [OutageClock() for _ in range(3)], dict[str, Bucket]()
    total, outage_s = 0, 0
    for second in range(200):
        away = second % 8 == 7
        outage_s += away
        for part in range(120):
            now_us, number = second * SECOND + part * SECOND // 120, part % 3
            if away:
                time_us = clocks[number].failed(now_us, now_us, throughout=True)
                total += passes(stores[number], entry, now_us=time_us)
                continue
            clocks[number].answered()
            for debt in stores[number].debts(10):
                ((before, _),) = decide(
                    [[debt._replace(cost=0, shadow=True, kind=ChargeKind.TAKE), debt]], shared, now_us
                )
                paid = min(before.tokens, debt.cost)
                stores[number].repay(debt.key, paid)
                if paid < debt.cost:
                    stores[number].owe_again([debt._replace(cost=debt.cost - paid)])
            charge = [Charge("k", limit, 1)]
            (levels,) = decide([charge], shared, now_us)
            total += levels[0].enough
    assert 100 + 20 * 150 < total <= 100 + 20 * 200 + 100 + 20 * outage_s
