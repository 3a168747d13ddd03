"""The answer of `GET /refusals`."""

from collections.abc import Sequence

from typing_extensions import TypedDict


class RefusalDocument(TypedDict):
    """Refusals of one bucket within one second; client, method, path and wait are those of the newest."""

    time: str
    policy: str
    key: str
    bucket: str
    count: int
    client: str
    method: str
    path: str
    retry_after_s: float | None


class RefusalsDocument(TypedDict):
    """`last` is the number of the newest entry."""

    last: int
    refusals: Sequence[RefusalDocument]
