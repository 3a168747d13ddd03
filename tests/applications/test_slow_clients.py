"""Slow clients do not hold the workers of a real application server: `make applications` installs it first."""

import sys
from collections.abc import Iterator

import pytest

from benchmarks import slow_clients
from benchmarks.bench.laboratory import Laboratory, free_port
from benchmarks.slow_clients import KIB, Row, SlowClients, latencies, percentile, start

pytestmark = [pytest.mark.slow, pytest.mark.long]

UPLOADS = DOWNLOADS = 200
# So long that no slow request ends during a test: only these are under way, whatever the machine can do.
PAUSE_S = 4.0


@pytest.fixture
def laboratory() -> Iterator[Laboratory]:
    if not slow_clients.GUNICORN.exists():
        pytest.skip("gunicorn is not installed (make applications)")
    with Laboratory() as laboratory:
        yield laboratory


def beside_slow_clients(laboratory: Laboratory, upstream: dict[str, object]) -> tuple[int, list[float], list[float]]:
    """How many slow requests have ended, and the times of fast requests without slow ones and beside them."""
    row = Row("", 256 * KIB, upstream)
    laboratory.start_store(store := free_port())
    quiet, _ = start(laboratory, "quiet", store, row)
    port, admin = start(laboratory, "slow", store, row)
    latencies([quiet, port], 1)
    with SlowClients(port, UPLOADS, DOWNLOADS, row.answer_bytes, PAUSE_S) as slow:
        slow.wait_until_begun()
        slow_clients.settle(admin, 20)
        without, beside = latencies([quiet, port], 8)
        return slow.ended, without, beside


def test_slow_uploads_and_downloads_hold_no_worker(laboratory: Laboratory, capsys: pytest.CaptureFixture[str]) -> None:
    ended, without, beside = beside_slow_clients(laboratory, {})
    ratios = {share: percentile(beside, share) / percentile(without, share) for share in (0.5, 0.99)}
    with capsys.disabled():
        sys.stdout.write(f"\n{len(beside)} fast requests beside {UPLOADS + DOWNLOADS} slow clients: {ratios} times\n")
    assert ended == 0
    # A busy machine delays some of them; behind a slow client nearly all would wait, for as long as it takes.
    assert ratios[0.5] < 3
    assert len(beside) > 10


def test_without_buffers_slow_clients_hold_all_workers(laboratory: Laboratory) -> None:
    """What the test above would see if the buffers did nothing."""
    _, without, beside = beside_slow_clients(laboratory, {"request_buffer": 0, "response_buffer": 0})
    assert percentile(beside, 0.5) > 5 * percentile(without, 0.5)
