"""From the configuration to a store that can be asked."""

from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import ConnectionPool, SSLConnection

from proxy.config import StoreSettings
from proxy.decision.record import ObserveStore
from proxy.store.redis_store import RedisStore
from proxy.store.seam import Store, StoreUnavailable


def open_store(
    settings: StoreSettings,
    on_change: Callable[[StoreUnavailable | None], None],
    timeout_s: float | None = None,
    observe: ObserveStore | None = None,
) -> Store:
    """The store that the settings name; it connects once its `keep_connected` runs. `observe` is told of every call."""
    return RedisStore(connection_pool(settings), timeout_s or settings.timeout_s, on_change, observe)


def connection_pool(settings: StoreSettings, **more: Any) -> ConnectionPool:
    """How redis-py opens connections to the store: RESP2, no retries of its own, no time-outs but ours or `more`."""
    options: dict[str, Any] = {"protocol": 2, "retry": None, **more}
    username, password = settings.credentials
    if username:
        options["username"] = username
    if password:
        options["password"] = password
    url = settings.normalised_url
    if url.startswith("rediss://"):
        options |= {
            "connection_class": SSLConnection,
            "ssl_ca_certs": settings.ca_file,
            "ssl_certfile": settings.cert_file,
            "ssl_keyfile": settings.key_file,
        }
    return ConnectionPool.from_url(url, **options)
