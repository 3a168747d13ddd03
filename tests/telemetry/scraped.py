"""The metrics of a sidecar, as a scrape reads them."""

from collections import Counter

from prometheus_client.parser import text_string_to_metric_families

from tests.raw_client import get
from tests.sidecar import Sidecar

Labels = tuple[str, ...]


def scraped(sidecar: Sidecar) -> dict[str, Counter[Labels]]:
    """All samples: name → values of the labels, in the order of their names → value."""
    found: dict[str, Counter[Labels]] = {}
    reply = get(sidecar.admin_port, "/metrics", "Connection: close")
    assert reply.status == 200
    for family in text_string_to_metric_families(reply.body.decode()):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, Counter())[labels] += sample.value  # type: ignore[assignment]
    return found
