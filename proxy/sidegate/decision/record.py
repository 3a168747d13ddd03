"""The record of one request, made at its end. Metrics and log line both come from it, so they agree."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from sidegate.decision.request import RequestFacts
from sidegate.decision.verdict import Verdict


class Record(NamedTuple):
    """What happened to one request.

    `status` is that of the answer sent, 499 where the client left before it. `verdict` is None where nothing was
    decided, since the request was no valid one. `error` is the reason of an answer that is ours for a fault
    (edge/replies), else empty. Times are in seconds: `total_s` from the head's arrival to the end of the answer,
    `decision_s` the part of it spent deciding. `request_id` is empty where requests have none.
    """

    facts: RequestFacts
    status: int
    verdict: Verdict | None
    error: str
    decision_s: float
    total_s: float
    request_id: str = ""


# Makes one of a tuple of all its members: a third of what naming them costs, for the one place that does so each time.
recorded = partial(tuple.__new__, Record)

Observe = Callable[[Record], None]


class StoreCall(NamedTuple):
    """One call of the store: the requests that it decided, its duration in seconds, and why it failed or ""."""

    requests: int
    took_s: float
    failure: str


ObserveStore = Callable[[StoreCall], None]
