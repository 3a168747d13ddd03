"""Health, as JSON that names each part: the sidecar's own word for people, probes and load balancers."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum

from sidegate.config import UpstreamSettings
from sidegate.decision.policy import OnStoreFailure, PolicySet

# Probes may come often; the parts are looked at no more often than this.
LOOK_EVERY_S = 0.5


class State(Enum):
    """`degraded`: the store does not answer, but every policy lets traffic pass without it."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILING = "failing"
    DRAINING = "draining"


class Health:
    """Looks at the application and the store. `ping_store` returns why the store does not answer, or None.

    A configuration that could not be taken over is shown, but does not make the sidecar unhealthy: the last good one is
    in force.
    """

    def __init__(
        self,
        upstream: UpstreamSettings,
        ping_store: Callable[[], Awaitable[str | None]],
        policies: Callable[[], PolicySet],
        draining: Callable[[], bool],
        config: Callable[[], Mapping[str, object]],
    ) -> None:
        self._upstream = upstream
        self._ping_store = ping_store
        self._policies = policies
        self._draining = draining
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._looked_s = -LOOK_EVERY_S
        self._parts: tuple[str | None, str | None] = (None, None)
        self._lock = asyncio.Lock()

    async def page(self) -> tuple[int, Mapping[str, object]]:
        """Status and content of the health page."""
        app, store = await self._look()
        state = self._state(app, store)
        content = {"status": state.value, "app": _part(app), "store": _part(store), "config": self._config()}
        return (200 if state in (State.OK, State.DEGRADED) else 503), content

    def _state(self, app: str | None, store: str | None) -> State:
        if self._draining():
            return State.DRAINING
        if app is not None:
            return State.FAILING
        if store is None:
            return State.OK
        policies = [policy for policy in self._policies().policies if not policy.exempt and not policy.shadow]
        denies = any(policy.on_store_failure is OnStoreFailure.DENY for policy in policies)
        return State.FAILING if denies else State.DEGRADED

    async def _look(self) -> tuple[str | None, str | None]:
        async with self._lock:
            if self._loop.time() - self._looked_s >= LOOK_EVERY_S:
                app, store = await asyncio.gather(self._look_at_app(), self._ping_store())
                self._parts, self._looked_s = (app, store), self._loop.time()
            return self._parts

    async def _look_at_app(self) -> str | None:
        host, port = self._upstream.url
        try:
            async with asyncio.timeout(self._upstream.connect_timeout_s):
                _, writer = await asyncio.open_connection(host, port)
        except TimeoutError:
            return f"{host}:{port} does not accept connections in time"
        except OSError as error:
            return f"{host}:{port}: {error.strerror or error}"
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return None


def _part(failure: str | None) -> Mapping[str, object]:
    return {"status": "ok"} if failure is None else {"status": "failing", "reason": failure}
