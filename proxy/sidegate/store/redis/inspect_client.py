"""A plain redis-py client for the admin API: SCAN, HMGET, DEL.

It has a few connections of its own, opened on demand, so that decisions never wait for it.
"""

from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from sidegate.config import StoreSettings
from sidegate.config.store_url import StoreKind
from sidegate.store.redis.connector import credentials, sentinel, ssl

MOST_CONNECTIONS = 4

RedisClient = Redis | RedisCluster


def client(settings: StoreSettings, timeout_s: float = 2.0) -> RedisClient:
    """A client of the right kind, not connected yet; `await close(client)` when done.

    Keys and values are bytes. Where the store is a Cluster, `scan_iter` goes through all nodes, and a command with
    several keys may fail: send one for each key. Raises redis-py's RedisError when used, within about `timeout_s`.
    """
    url = settings.url
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "max_connections": MOST_CONNECTIONS,
        **credentials(settings),
    }
    if url.kind is StoreKind.CLUSTER:
        nodes = [ClusterNode(host, port) for host, port in url.addresses]
        return RedisCluster(startup_nodes=nodes, **options, **ssl(settings))
    options |= {"db": url.db, "retry": Retry(NoBackoff(), 1)}
    if url.kind is StoreKind.SENTINEL:
        master: Redis = sentinel(settings).master_for(url.service, **options, **ssl(settings))
        return master
    if url.kind is StoreKind.SOCKET:
        return Redis(unix_socket_path=url.path, **options)
    return Redis(host=url.addresses[0].host, port=url.addresses[0].port, **options, **ssl(settings))


async def close(client: RedisClient) -> None:
    """Close its connections, also those to the Sentinels."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        await pool.sentinel_manager.aclose()
