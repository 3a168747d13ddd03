"""Health of the sidecar by part, for probes, load balancers and operators."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum

from sidegate.admin.application_probe import ApplicationProbe
from sidegate.admin.response_types import ConfigState, HealthDocument, PartHealth
from sidegate.decision.policy import OnStoreFailure, PolicySet

# Probes may be frequent; application and store are checked no more often than this.
CHECK_EVERY_S = 0.5


class HealthState(Enum):
    """`degraded`: the store does not answer, but every policy lets traffic pass without it."""

    OK = "ok"
    DEGRADED = "degraded"
    DOWN = "down"
    DRAINING = "draining"


class HealthCheck:
    """Checks the application and the store. `ping_store` returns why the store does not answer, or None.

    A refused edit of the configuration is reported but does not make the sidecar unhealthy, since the last valid one
    stays active.
    """

    def __init__(
        self,
        probe: ApplicationProbe,
        ping_store: Callable[[], Awaitable[str | None]],
        policies: Callable[[], PolicySet],
        draining: Callable[[], bool],
        config: Callable[[], ConfigState],
    ) -> None:
        self._probe = probe
        self._ping_store = ping_store
        self._policies = policies
        self._draining = draining
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._checked_s = -CHECK_EVERY_S
        self._faults: tuple[str | None, str | None] = (None, None)
        self._lock = asyncio.Lock()

    async def page(self) -> tuple[int, HealthDocument]:
        """Status and content for operators: each part with its fault."""
        app, store = await self._check()
        state = self._state(app, store)
        content: HealthDocument = {
            "status": state.value,
            "app": _part(app),
            "store": _part(store),
            "config": self._config(),
        }
        return (200 if state in (HealthState.OK, HealthState.DEGRADED) else 503), content

    async def public_page(self) -> tuple[int, dict[str, object]]:
        """Status and content for the public port: which part is down, without addresses, paths and faults."""
        status, content = await self.page()
        parts = {"app": content["app"]["status"], "store": content["store"]["status"]}
        shown = {name: {"status": word} for name, word in {**parts, "config": content["config"]["status"]}.items()}
        return status, {"status": content["status"], **shown}

    def _state(self, app: str | None, store: str | None) -> HealthState:
        if self._draining():
            return HealthState.DRAINING
        if app is not None:
            return HealthState.DOWN
        if store is None:
            return HealthState.OK
        policies = [policy for policy in self._policies().policies if not policy.exempt and not policy.shadow]
        denies = any(policy.on_store_failure is OnStoreFailure.DENY for policy in policies)
        return HealthState.DOWN if denies else HealthState.DEGRADED

    async def _check(self) -> tuple[str | None, str | None]:
        async with self._lock:
            if self._loop.time() - self._checked_s >= CHECK_EVERY_S:
                app, store = await asyncio.gather(self._probe.fault(), self._ping_store())
                self._faults, self._checked_s = (app and app.text, store), self._loop.time()
            return self._faults


def _part(fault: str | None) -> PartHealth:
    return {"status": "ok"} if fault is None else {"status": "down", "reason": fault}
