"""Lists, reads and resets buckets in the store, for the admin API."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from redis.asyncio import RedisCluster
from redis.exceptions import RedisError

from sidegate.config import CREDENTIALS, StoreSettings
from sidegate.decision.stored import Found, Stored, StoreSilent
from sidegate.store.redis.inspect_client import MOST_CONNECTIONS, client, close

# Names of one SCAN step, which blocks the store for 0.1 to 0.2 ms (measured with a million buckets; 1,000 names take
# 0.4 to 2 ms), and steps of one answer: a hundred answers go through a million buckets.
NAMES_A_STEP = 200
STEPS = 50
# Buckets are read in portions of 1.5 ms of CPU; between them this process handles requests.
READ_AT_ONCE = 100


class Buckets:
    """Implements `decision.stored.BucketStore` for one store, within two seconds."""

    def __init__(self, settings: StoreSettings) -> None:
        self._client: Any = client(settings)  # redis-py's types say bytes or str
        self._is_cluster = isinstance(self._client, RedisCluster)
        self._turns = asyncio.Semaphore(MOST_CONNECTIONS)
        self._settings = settings
        self._outdated = False

    def use(self, settings: StoreSettings) -> None:
        """Use these credentials from now on. The URL is not applied: it needs a restart."""
        before, self._settings = self._settings, settings.model_copy(update={"url": self._settings.url})
        self._outdated |= any(getattr(before, name) != getattr(settings, name) for name in CREDENTIALS)

    async def find(self, prefix: str, part: str, cursor: str, most: int) -> Found:
        """One page of the buckets whose names begin with `prefix` and contain `part` after it, and the next cursor.

        Takes at most STEPS steps; a page may be empty, or hold up to one step more than `most`. In a Cluster the
        masters are scanned in the order of their addresses: while slots move, buckets may be missed or found twice.
        """
        pattern = f"{_literal(prefix)}*{_literal(part)}*" if part else f"{_literal(prefix)}*"
        names: list[bytes] = []
        async with self._turn():
            for _ in range(STEPS):
                found, cursor = await self._step(cursor, pattern, min(NAMES_A_STEP, most * 10))
                names += found
                if not cursor or len(names) >= most:
                    break
            return Found(await self._read(names), cursor)

    async def read(self, name: str) -> Stored | None:
        """One bucket as stored; None where there is none."""
        async with self._turn():
            (found,) = await self._read([name.encode()])
        return found if found.ttl_s is not None or found.tokens is not None else None

    async def reset(self, name: str) -> bool:
        """Delete a bucket; its next request starts a new one. Returns whether there was one."""
        async with self._turn():
            return bool(await self._client.delete(name))

    async def close(self) -> None:
        """Close the connections."""
        await close(self._client)

    async def _step(self, cursor: str, pattern: str, count: int) -> tuple[list[bytes], str]:
        """One SCAN step and the next cursor, which in a Cluster includes the node: `17@10.0.0.1:6379`."""
        position, _, name = cursor.partition("@")
        if not self._is_cluster:
            after, names = await self._client.scan(int(position or 0), match=pattern, count=count)
            return names, str(after) if after else ""
        await self._client.initialize()
        nodes: list[Any] = sorted(self._client.get_primaries(), key=lambda node: node.name)
        node = next((each for each in nodes if each.name >= name), None)
        if node is None:  # the remaining nodes have left the Cluster
            return [], ""
        begin = int(position or 0) if node.name == name else 0
        cursors, names = await self._client.scan(begin, match=pattern, count=count, target_nodes=node)
        if after := cursors[node.name]:
            return names, f"{after}@{node.name}"
        following = next((each.name for each in nodes if each.name > node.name), None)
        return names, f"0@{following}" if following else ""

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Limits concurrent use of the client, and translates redis-py's exceptions."""
        try:
            async with self._turns:
                if self._outdated:
                    await self._renew()
                yield
        except (RedisError, OSError, TimeoutError) as error:
            raise StoreSilent(str(error) or type(error).__name__) from error

    async def _renew(self) -> None:
        """Replace the client once all other uses have ended."""
        self._outdated = False
        async with AsyncExitStack() as others:
            for _ in range(MOST_CONNECTIONS - 1):
                await others.enter_async_context(self._turns)
            await close(self._client)
            self._client = client(self._settings)

    async def _read(self, names: list[bytes]) -> list[Stored]:
        found: list[Stored] = []
        for begin in range(0, len(names), READ_AT_ONCE):
            found += await self._read_portion(names[begin : begin + READ_AT_ONCE])
            await asyncio.sleep(0)
        return found

    async def _read_portion(self, names: list[bytes]) -> list[Stored]:
        async with self._client.pipeline(transaction=False) as asked:
            for name in names:
                asked.hget(name, "tokens")
                asked.pttl(name)
                asked.zcard(name)
            # A key of another type gives an error; the other buckets are still shown.
            replies = await asked.execute(raise_on_error=False)
        return [
            Stored(
                name.decode("utf-8", "backslashreplace"),
                _whole(tokens),
                ttl_ms / 1000 if ttl_ms >= 0 else None,
                places or None if isinstance(places, int) else None,
            )
            for name, tokens, ttl_ms, places in zip(names, replies[::3], replies[1::3], replies[2::3], strict=True)
        ]


def _literal(text: str) -> str:
    """A glob pattern that matches the text literally."""
    return re.sub(r"([*?\[\]\\^-])", r"\\\1", text)


def _whole(reply: object) -> int | None:
    return int(reply) if isinstance(reply, bytes) and reply.removeprefix(b"-").isdigit() else None
