"""Subscribes to the Sentinels' announcements of a new master.

Each Sentinel publishes `+switch-master` as soon as it knows the new master (Redis documentation, Sentinel, "Pub/Sub
messages"). A message may get lost with its connection, so the store also polls.
"""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from redis.asyncio import Redis

_CHANNEL = "+switch-master"
# The wait for one message; bounds how long an ended subscription holds its connection.
_LISTEN_S = 1.0
# The pause before a Sentinel that failed is subscribed to again.
_AGAIN_AFTER_S = 1.0


async def watch_switches(
    open_sentinel: Callable[[int], Redis], count: int, service: str, on_switch: Callable[[], None]
) -> None:
    """Call `on_switch` for each message about `service` from any of `count` Sentinels. Runs until cancelled.

    `open_sentinel` returns a client of the Sentinel of that number, with the credentials in force.
    """
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(_subscribed(partial(open_sentinel, number), service, on_switch))


async def _subscribed(open_sentinel: Callable[[], Redis], service: str, on_switch: Callable[[], None]) -> None:
    task, pause_s = asyncio.current_task(), 0.0
    while task is None or not task.cancelling():  # redis-py's handshake swallows a cancellation
        await asyncio.sleep(pause_s)
        pause_s = _AGAIN_AFTER_S
        # redis-py raises more than its own exceptions. Without a subscription the store polls; no failure may end it.
        with contextlib.suppress(Exception):
            await _listen(open_sentinel(), service, on_switch)


async def _listen(sentinel: Redis, service: str, on_switch: Callable[[], None]) -> None:
    task = asyncio.current_task()
    subscription: Any = sentinel.pubsub()  # untyped in redis-py
    async with sentinel, subscription:
        await subscription.subscribe(_CHANNEL)
        while task is None or not task.cancelling():
            message = await subscription.get_message(ignore_subscribe_messages=True, timeout=_LISTEN_S)
            if message is not None and _about(message) == service:
                on_switch()


def _about(message: dict[str, Any]) -> str:
    """The service of a message: the first of its five words."""
    data = message["data"]
    words = data.decode("utf-8", "replace").split() if isinstance(data, bytes) else str(data).split()
    return words[0] if words else ""
