"""Creates the store that the settings name."""

from sidegate.config import StoreSettings
from sidegate.config.store_url import StoreKind
from sidegate.decision.record import ObserveStore
from sidegate.store.cluster.cluster_store import ClusterStore
from sidegate.store.protocol import Store
from sidegate.store.redis.connector import Connector
from sidegate.store.redis.node import OnChange
from sidegate.store.redis.single_store import RedisStore


def open_store(
    settings: StoreSettings,
    on_change: OnChange,
    timeout_s: float | None = None,
    observe: ObserveStore | None = None,
) -> Store:
    """The store; it connects once its `keep_connected` runs. `observe` receives a record of every call."""
    connector = Connector(settings, timeout_s or settings.timeout_s)
    if settings.url.kind is StoreKind.CLUSTER:
        return ClusterStore(connector, on_change, observe)
    return RedisStore(connector, on_change, observe)
