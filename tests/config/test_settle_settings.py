"""The key `settle` of a policy: what is accepted, and the errors."""

import pytest
from sidegate.config import ConfigError, compile_policies
from sidegate.config.load import parse
from sidegate.decision.bucket import MOST_DEBT_BURSTS
from sidegate.decision.explanation import settle_text
from sidegate.decision.policy import Policy


def policy_of(more: str) -> Policy:
    (policy,) = compile_policies(parse(f"policies: [{{name: a, key: client_ip, {more}}}]", "c.yaml", {})).policies
    return policy


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("when: 401", "401 keep it, all others give it back"),
        ("when: [5xx, 403, 401]", "401, 403, 5xx keep it, all others give it back"),
        ("header: X-Used", "its field x-used, which is removed states the final one"),
        ("header: X-Used, keep: true", "its field x-used states the final one"),
        ("json: usage.total", "usage.total in its body states the final one"),
    ],
)
def test_a_settlement_is_explained(more: str, sentence: str) -> None:
    policy = policy_of(f"limit: 5/s, settle: {{{more}}}")
    assert settle_text(policy) == f"the cost is held until the answer; {sentence}"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("{}", "settle: expected exactly one of when, header and json"),
        ("{when: 401, json: a}", "settle: expected exactly one of when, header and json"),
        ("{when: []}", "settle.when: the list is empty; expected e.g. [401, 403]"),
        ("{when: [200, 99]}", "settle.when[1]: 99 is not a status; expected 100 to 599, or a class, e.g. 5xx"),
        ("{when: 6xx}", "settle.when: '6xx' is not a status"),
        ("{when: true}", "settle.when: true is not a status"),
        ("{when: 401, keep: true}", "settle: keep goes with header"),
        ("{header: Content-Length}", "settle.header: 'Content-Length' is not a field that can hold a cost"),
        ("{header: 'a b'}", "settle.header: 'a b' is not a field that can hold a cost"),
        ("{json: a..b}", "settle.json: 'a..b' is not a path of keys; expected e.g. usage.total_tokens"),
        ("{status: 401}", "settle.status: unknown key"),
    ],
)
def test_a_fault_names_its_place_and_what_was_expected(more: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policy_of(f"limit: 5/s, settle: {more}")
    assert message in str(caught.value).replace("policies[0].", "")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("limit: 5/s, settle: {when: 401}, wait: 1s", "wait: does not go with settle"),
        ("in_flight: 3, wait: 1s", "wait: this policy counts requests in flight"),
        ("in_flight: 3, limit: 5/s", "limit: this policy counts requests in flight"),
        ("in_flight: 3, cost: 2", "cost: this policy counts requests in flight"),
        ("in_flight: 0", "in_flight: 0 is not a whole number from 1 to 1000000"),
        ("in_flight: 3, overrides: [{key: 192.0.2.1, limit: 1/s}]", "overrides[0].limit: this policy counts requests"),
        ("limit: 3/s, overrides: [{key: 192.0.2.1, in_flight: 1}]", "overrides[0].in_flight: this policy has a limit"),
        ("limit: 5/s, wait: 2m", "wait: '2m' is out of bounds; expected a duration from 1ms to 1m"),
        ("limit: 1/h, burst: 2000000, wait: 1s", "wait: '1/hour' is too slow for a wait with a burst of 2000000"),
    ],
)
def test_kinds_of_limits_do_not_mix_in_one_policy(more: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policy_of(more)
    assert message in str(caught.value).replace("policies[0].", "")


def test_an_invalid_count_of_requests_in_flight_is_one_fault() -> None:
    with pytest.raises(ConfigError) as caught:
        policy_of("in_flight: 0, overrides: [{key: 192.0.2.1, in_flight: 1}]")
    assert len(str(caught.value).splitlines()) == 1


def test_a_rate_holds_the_largest_debt_exactly() -> None:
    limit = policy_of("limit: 7/13m, burst: 100000, settle: {json: a}").limit
    assert limit is not None
    assert limit.burst * (MOST_DEBT_BURSTS + 1) * limit.rate.period_us <= 2**53


def test_a_rate_that_is_too_slow_for_debts_is_refused() -> None:
    with pytest.raises(ConfigError, match="too slow to pay the debts of a burst of 1000000"):
        policy_of("limit: 1/h, burst: 1000000, settle: {json: a}")
