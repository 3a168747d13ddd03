"""CPU of one check and memory of one bucket in the store: the figures under "Sizing" in docs/operations.md.

Counts the store's own CPU time (INFO cpu), which other work on the machine disturbs less than a rate would. Run it with
`.venv/bin/python -m benchmarks.store_sizing`.
"""

import random

import redis
from sidegate.decision.bucket import Charge, Limit, Rate
from sidegate.store.redis.batch import Batch
from sidegate.store.redis.script import SCRIPT

from tests.servers import StoreServer

LIMIT = Limit(Rate(1, 6_000_000), 1000, 1000, 3_600_000)
BUCKETS = 500_000
CHECKS = 100_000
BATCHES = (1, 4, 16, 64, 256)
CONNECTIONS = 200


def key(number: int) -> str:
    """A bucket's name as the demonstration makes it, for a user id of 32 characters."""
    return f"example:ratelimit:{number:032x}"


def cpu_s(client: redis.Redis) -> float:
    """CPU time that the server has used, in seconds."""
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def ask(client: redis.Redis, sha: str, numbers: list[int]) -> None:
    """One script call for all of them."""
    batch: Batch[None] = Batch()
    for number in numbers:
        batch.add([Charge(key(number), LIMIT, 1)], None)
    count, *rest = batch.arguments()
    client.evalsha(sha, int(count), *rest)


def connection_bytes(server: StoreServer) -> float:
    """Memory of one idle connection in the store."""
    before = int(server.client.info("memory")["mem_clients_normal"])
    others = [redis.Redis(unix_socket_path=str(server.socket_path)) for _ in range(CONNECTIONS)]
    for each in others:
        each.ping()
    after = int(server.client.info("memory")["mem_clients_normal"])
    for each in others:
        each.close()
    return (after - before) / CONNECTIONS


def main() -> None:
    """Fill the store, then ask it in batches of several sizes."""
    server = StoreServer()
    client = server.client
    try:
        sha = client.script_load(SCRIPT)
        empty = int(client.info("memory")["used_memory"])
        for first in range(0, BUCKETS, 250):
            ask(client, sha, list(range(first, first + 250)))
        full = int(client.info("memory")["used_memory"])
        print(f"{BUCKETS} buckets: {(full - empty) / BUCKETS:.0f} bytes each in all,", end=" ")
        print(f"MEMORY USAGE {client.memory_usage(key(1))} bytes")
        for size in BATCHES:
            before_s, calls = cpu_s(client), CHECKS // size
            for _ in range(calls):
                ask(client, sha, [random.randrange(BUCKETS) for _ in range(size)])
            each_us = (cpu_s(client) - before_s) / (calls * size) * 1e6
            print(
                f"{size:>4} checks a call: {each_us:5.1f} µs of the store's CPU a check, {1e6 / each_us:8.0f} a second"
            )
        print(f"{connection_bytes(server):.0f} bytes a connection")
    finally:
        server.stop()


if __name__ == "__main__":
    main()
