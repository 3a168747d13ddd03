"""The identity of a worker, and its part of the sidecar's bounds."""

import pytest
from sidegate.config import Settings
from sidegate.workers.place import VARIABLE, WorkerId, place_in, usable_cores, worker_count


def test_a_worker_id_is_passed_in_the_environment_and_read_back() -> None:
    place = WorkerId(2, 4, 8080, 7)
    assert place_in({VARIABLE: place.variable()}) == place
    assert place_in({}) is None


def test_the_workers_bounds_never_add_up_to_more_than_the_sidecars() -> None:
    settings = Settings.model_validate({"listen": {"max_connections": 10}, "upstream": {"max_connections": 2}})
    own = WorkerId(0, 3, 8081, 7).share_of(settings)
    assert (own.listen.port, own.listen.max_connections, own.upstream.max_connections) == (8081, 3, 1)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000\n", 8), ("150000 100000\n", 2), ("100000 100000\n", 1), ("9999999 100000\n", 8), ("", 8), ("5", 8)],
)
def test_auto_counts_the_cores_that_the_container_may_use(quota: str, cores: int) -> None:
    assert usable_cores(8, quota) == cores


def test_a_number_of_workers_is_taken_as_it_is() -> None:
    assert worker_count(3) == 3
    assert worker_count("auto") >= 1
