"""From the configuration to a store that can be asked."""

from proxy.config import StoreSettings
from proxy.config.store_url import Kind
from proxy.decision.record import ObserveStore
from proxy.store.cluster_store import ClusterStore
from proxy.store.dial import Dialer
from proxy.store.node import OnChange
from proxy.store.redis_store import RedisStore
from proxy.store.seam import Store


def open_store(
    settings: StoreSettings,
    on_change: OnChange,
    timeout_s: float | None = None,
    observe: ObserveStore | None = None,
) -> Store:
    """The store that the settings name; it connects once its `keep_connected` runs. `observe` is told of every call."""
    dialer = Dialer(settings, timeout_s or settings.timeout_s)
    if settings.address.kind is Kind.CLUSTER:
        return ClusterStore(dialer, on_change, observe)
    return RedisStore(dialer, on_change, observe)
