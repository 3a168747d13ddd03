"""The identity of a worker: its number, the count of workers, and its part of each bound."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sidegate.config import Settings

# The environment variable in which a parent passes the identity; internal.
VARIABLE = "SIDEGATE_WORKER"
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True, slots=True)
class WorkerId:
    """Worker `number` (from 0) of `count`, on the port that the parent holds; `channel` is the socket to the parent.

    `proxies` is the count of proxies at the store that a worker reported last; 0 where none has.
    """

    number: int
    count: int
    port: int
    channel: int
    proxies: int = 0

    @property
    def is_leader(self) -> bool:
        """Whether this worker has the admin listener."""
        return self.number == 0

    def variable(self) -> str:
        """The identity as the value of VARIABLE."""
        return f"{self.number},{self.count},{self.port},{self.channel},{self.proxies}"

    def share_of(self, settings: Settings) -> Settings:
        """The settings with the worker's part of the bounds of the whole sidecar."""
        listen = settings.listen.model_copy(
            update={"port": self.port, "max_connections": self._part(settings.listen.max_connections)}
        )
        upstream = settings.upstream.model_copy(
            update={
                "max_connections": self._part(settings.upstream.max_connections),
                "buffer_total": settings.upstream.buffer_total // self.count,
            }
        )
        return settings.model_copy(update={"listen": listen, "upstream": upstream})

    def _part(self, whole: int) -> int:
        """Rounded down, so that the parts never add up to more than the whole, but at least 1."""
        return max(1, whole // self.count)


def place_in(environ: Mapping[str, str]) -> WorkerId | None:
    """The identity that the parent has passed; None without a parent."""
    text = environ.get(VARIABLE)
    return WorkerId(*map(int, text.split(","))) if text else None


def worker_count(wanted: int | Literal["auto"]) -> int:
    """The number of workers; `auto` is one for each core that this process may use."""
    return usable_cores(len(os.sched_getaffinity(0)), _quota_text()) if wanted == "auto" else wanted


def usable_cores(cores: int, quota: str) -> int:
    """The cores, or fewer where a container's quota ("MAX PERIOD" in µs, cgroup v2) grants fewer, rounded up."""
    granted, _, period = quota.partition(" ")
    if granted.isdigit() and period.strip().isdigit() and int(period):
        return max(1, min(cores, -(-int(granted) // int(period))))
    return cores


def _quota_text() -> str:
    try:
        return _CPU_QUOTA.read_text("ascii")
    except OSError:
        return ""
