"""Clients, logs, metrics and the admin API agree on every request."""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.admin.admin_client import ask
from tests.raw_client import RawClient, get
from tests.recorder import Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import Config, Sidecar, configuration
from tests.telemetry.scraped import scraped

# Of each of three sidecars: 10,000 in all.
REQUESTS = 3334

POLICIES = [
    {"name": "staff", "match": {"header": {"X-Staff": "yes"}}, "exempt": True},
    {
        "name": "users",
        "match": {"path": ["/api/**"]},
        "key": "header:X-User-ID | client_ip",
        "limit": "1/day",
        "burst": 40,
        "overrides": [{"key": ["mallory"], "blocked": True}],
    },
    {"name": "writes", "match": {"method": ["POST"]}, "key": "header:X-User-ID", "limit": "1/day", "burst": 15},
    {"name": "trial", "match": {"path": ["/api/**"]}, "key": "method", "limit": "1/day", "burst": 60, "shadow": True},
]
DOUBTFUL = "/api/%2e%252e"
PATHS = ("/api/data", "/api/other", "/free", DOUBTFUL, "/api/data?secret=1")
USERS = ("alice", "bob", "carol", "mallory")


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


def send(port: int, seed: int, count: int) -> Counter[int]:
    """Mixed requests over one client's connections; the statuses that came back."""
    choose = random.Random(seed)
    statuses: Counter[int] = Counter()
    with RawClient(port) as client:
        for _ in range(count):
            user, path = choose.choice(USERS), choose.choice(PATHS)
            fields = [f"X-User-ID: {user}"] + (["X-Staff: yes"] if choose.random() < 0.1 else [])
            method = choose.choice(("GET", "GET", "POST"))
            body = b"" if method == "POST" else None
            if path == DOUBTFUL:  # its answer ends the connection
                statuses[get(port, path, *fields, method=method, body=body).status] += 1
            else:
                statuses[client.get(path, *fields, method=method, body=body).status] += 1
    return statuses


def under_policies(sidecar: Sidecar) -> Counter[tuple[str, ...]]:
    policies = ask(sidecar, "/policies")[2]["policies"]
    return Counter({(outcome, each["name"]): n for each in policies for outcome, n in each["outcomes"].items()})


def in_timeline(sidecar: Sidecar) -> Counter[tuple[str, ...]]:
    found: Counter[tuple[str, ...]] = Counter()
    for second in ask(sidecar, "/timeline?seconds=900")[2]["seconds"]:
        for policy, outcomes in second["policies"].items():
            found.update({(outcome, policy): count for outcome, count in outcomes.items()})
    return found


@pytest.mark.slow
@pytest.mark.long
def test_metrics_log_and_admin_api_agree_with_the_answers_of_three_sidecars(
    store_server: StoreServer, recorder: Recorder
) -> None:
    def config() -> Config:
        return configuration(store_server.url, recorder.url, policies=POLICIES, log={"requests": "all"})

    with Sidecar(config()) as first, Sidecar(config()) as second, Sidecar(config()) as third:
        sidecars = (first, second, third)
        with ThreadPoolExecutor(3) as pool:
            seen = list(pool.map(send, [each.port for each in sidecars], range(3), [REQUESTS] * 3))
        for sidecar, statuses in zip(sidecars, seen, strict=True):

            def lines(sidecar: Sidecar = sidecar) -> list[dict[str, object]]:
                return [line for line in list(sidecar.lines) if line["event"] in ("request", "refused")]

            eventually(lambda: len(lines()) >= REQUESTS, "a line for every request")
            metrics = scraped(sidecar)
            logged = lines()

            assert Counter(line["status"] for line in logged) == statuses
            by_class: Counter[tuple[str, ...]] = Counter()
            for status, count in statuses.items():
                by_class["429" if status == 429 else f"{status // 100}xx",] += count
            assert metrics["sidegate_responses_total"] == by_class

            outcomes: Counter[tuple[str, ...]] = Counter()
            for line in logged:
                for policy, outcome in dict(line.get("policies") or {}).items():  # type: ignore[call-overload]
                    outcomes[outcome, policy] += 1
            counted = metrics["sidegate_requests_total"]
            unlimited = counted.pop(("allowed", "none"))
            assert counted == outcomes
            assert unlimited == sum("policies" not in line and not line.get("error") for line in logged)

            decided = sum(metrics["sidegate_decisions_total"].values())
            assert decided == REQUESTS - statuses[400]
            assert metrics["sidegate_decision_duration_seconds_count"][()] == decided
            assert metrics["sidegate_request_duration_seconds_count"][()] == REQUESTS
            assert metrics["sidegate_upstream_duration_seconds_count"][()] == statuses[200]
            assert +metrics["sidegate_errors_total"] == Counter({("bad_request",): statuses[400]})
            assert metrics["sidegate_refusals_total"][()] == statuses[429]
            assert metrics["sidegate_log_lines_dropped_total"][()] == 0
            assert {"200", "400", "429"} <= {str(status) for status in statuses}, "the mix must hold every kind"
            assert not any("secret" in str(line) for line in logged), "a query does not belong in a log"

            outcomes["allowed", "none"] = unlimited
            assert under_policies(sidecar) == Counter({key: n for key, n in outcomes.items() if key[1] != "none"})
            eventually(lambda: in_timeline(sidecar) == outcomes, "the last second to be over")  # noqa: B023
            refused = Counter(bucket for line in logged for bucket in line.get("refused_buckets") or ())  # type: ignore[attr-defined]
            listed = ask(sidecar, "/top?limit=256")[2]["refused"]
            assert {entry["bucket"]: (entry["count"], entry["error"]) for entry in listed} == {
                bucket: (count, 0) for bucket, count in refused.items()
            }
        assert len(recorder.requests) == sum(statuses[200] for statuses in seen)
