"""A short version of every scenario of `make chaos`. No bound here is one that a busy machine could break."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.chaos.lab import Lab, lab
from tests.chaos.local_share import admitted_without_store
from tests.chaos.many_keys import flooded
from tests.chaos.repeated_outages import repeated
from tests.chaos.scenarios import SCENARIOS, Bounds, Scenario, run
from tests.chaos.shares import CASES, Case, shares
from tests.chaos.storms import abandoned, departed, exactly_the_burst, shown_evicting, started_without

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TIMEOUT_S = 0.4
# A hung request would show, a slow machine does not.
PATIENT = Bounds(until_open_s=10.0, quiet_p99_s=10.0, recovery_s=15.0, unavailable=1000.0, greed=2.0)


@pytest.fixture(scope="module")
def made() -> Iterator[Lab]:
    with lab(f"{TIMEOUT_S * 1000:g}ms") as started:
        started.brief, started.span_s, started.timeout_s = True, 2.5, TIMEOUT_S
        yield started


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: f"{scenario.name} {scenario.title}")
def test_in_every_store_fault_callers_get_the_answer_of_their_policy(scenario: Scenario, made: Lab) -> None:
    made.span_s = 2.5 if scenario.opens and scenario.outage else 0.6
    report = asyncio.run(run(scenario, made, 90.0, calm_s=0.2, after_s=0.3, bounds=PATIENT))
    assert not report.faults
    assert report.statuses[200] > 0


def test_a_sidecar_starts_without_its_store_and_enforces_once_that_is_there() -> None:
    text, _ = asyncio.run(started_without(down_s=0.3))
    assert "503" in text


def test_a_store_that_evicts_is_warned_of() -> None:
    assert asyncio.run(shown_evicting())[1] == []


@pytest.mark.long
def test_a_stopping_sidecar_finishes_its_requests_and_the_others_go_on() -> None:
    assert asyncio.run(departed(rate_per_s=90.0, calm_s=0.5))[1] == []


@pytest.mark.timeout(300)
@pytest.mark.long
def test_a_flood_of_identities_grows_the_store_as_documented_and_the_sidecar_not_at_all() -> None:
    assert asyncio.run(flooded(users=50_000))[1] == []


def test_clients_that_reset_their_connections_cause_no_storm_on_the_store(made: Lab) -> None:
    assert asyncio.run(abandoned(made, clients=200))[1] == []


def test_requests_at_once_over_three_sidecars_get_exactly_the_burst(made: Lab) -> None:
    assert asyncio.run(exactly_the_burst(made, rounds=1, requests=150))[1] == []


@pytest.mark.long
def test_three_sidecars_without_their_store_admit_together_nearly_what_the_limit_says(made: Lab) -> None:
    assert asyncio.run(admitted_without_store(made, seconds=3.0))[1] == []


@pytest.mark.timeout(300)
@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_shares_add_up_to_one_limit_whatever_the_proxies_have_counted(case: Case) -> None:
    # A proxy that others drop from their count would show after 10 s.
    assert asyncio.run(shares(case, cut_off_s=12.0))[1] == []


@pytest.mark.long
def test_many_outages_add_one_burst_and_the_rate_over_their_time() -> None:
    assert asyncio.run(repeated(outages=3, lasting_s=0.5, apart_s=5.0))[1] == []
