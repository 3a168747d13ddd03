"""A Cluster for the tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.topologies import ClusterTrio


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[ClusterTrio]:
    cluster = ClusterTrio()
    yield cluster
    cluster.stop()


@pytest.fixture
def cluster(shared_cluster: ClusterTrio) -> ClusterTrio:
    """Three masters with the slots in equal parts, empty. Slots may be moved; nothing may be stopped."""
    shared_cluster.empty()
    return shared_cluster
