"""What the limiter may ask of a store, whatever it is made of: one server, a Sentinel's master, a Cluster.

The limiter knows neither batches nor connections. Questions of one turn of the event loop travel together; each gets
its answer on its own.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sidegate.config import StoreSettings
from sidegate.decision.bucket import Charge, Level
from sidegate.store.breaker import Breaker


class StoreUnavailable(Exception):
    """The store gave no answer. `reason` is one word for logs and metrics; the text says more."""

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(text or reason)
        self.reason = reason


# One level a charge, in their order; None for a bucket that cannot be read.
Levels = Sequence[Level | None]

# Receives the levels, or why there are none, and when the question was sent (time.monotonic). An error that the store
# answered is StoreUnavailable too: its reason is the error's first word in small letters (`oom`, `readonly`).
OnLevels = Callable[[Levels | StoreUnavailable, float], None]

# A command as its words, and what receives its reply: what hiredis made of it, a ReplyError, or StoreUnavailable.
Command = tuple[str | int, ...]
OnReply = Callable[[object], None]


# The breakers of a store's nodes as they are now, by the node's address.
Breakers = Callable[[], Mapping[str, Breaker]]


class Store(Protocol):
    """One store. Every callback is called exactly once, within `store.timeout`, possibly before the call returns.

    Nothing is ever sent a second time unless the store said that it did not run. While there is no connection,
    questions fail at once. A store of several nodes may fail some questions and answer others.
    """

    # Whether the first attempt to connect has ended, either way.
    tried: asyncio.Event

    @property
    def failure(self) -> StoreUnavailable | None:
        """Why nothing can be asked at present; None while it can."""

    async def keep_connected(self) -> None:
        """Connect, and connect again whenever a connection is lost. Runs until cancelled."""

    def use(self, settings: StoreSettings) -> None:
        """Go over to connections opened with these credentials, where they are others; old ones are kept till then.

        It stays the same store: its URL is not looked at again.
        """

    def own_breakers(self, on_closed: Callable[[], None]) -> Breakers | None:
        """The breakers that it works itself, one a node, calling `on_closed` whenever one closes.

        None where it has none: then whoever asks it works one before the whole of it.
        """

    def ask(self, charges: Sequence[Charge], then: OnLevels) -> None:
        """Charge all buckets or none of them: a charge that lacks tokens and is no shadow's stands in the way of all.

        `charges` is not empty. What `then` raises is logged and reaches no other question.
        """

    def command(self, key: str, command: Command, on_reply: OnReply) -> None:
        """Send one command, to the node that has `key`."""

    def ping(self, on_reply: OnReply) -> None:
        """Ask for a sign of life."""
