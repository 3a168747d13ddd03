"""An ordinary redis-py client of the store, for what no request waits for: looking through the buckets."""

from redis.asyncio import Redis

from proxy.config import StoreSettings
from proxy.store.topology import connection_pool

# A person waits, not a request.
PATIENCE_S = 2.0
# More questions than this at a time wait for their turn.
CONNECTIONS = 4


def client(settings: StoreSettings) -> Redis:
    """A client with a connection of its own, so that nothing it does can disturb the decisions."""
    return Redis(connection_pool=connection_pool(settings, socket_timeout=PATIENCE_S, max_connections=CONNECTIONS))
