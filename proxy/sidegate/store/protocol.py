"""The interface between limiter and store: one server, the master behind Sentinels, or a Cluster.

Batches and connections are hidden. Calls of one turn of the event loop are sent together; each has its own callback.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sidegate.config import StoreSettings
from sidegate.decision.bucket import Charge, Level
from sidegate.store.breaker import Breaker


class StoreUnavailable(Exception):
    """The store gave no valid answer. `reason` is one word for logs and metrics; the text has details."""

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(text or reason)
        self.reason = reason


# Failures after which it is unknown whether a call was carried out; after all others it was not.
FATE_UNKNOWN = frozenset({"timeout", "connection_lost", "protocol", "closed"})

# One level for each charge, in order; None for a bucket that cannot be read. Beside one nothing is charged, unless its
# own charge could not have refused.
Levels = Sequence[Level | None]


class PartlyUnavailable(StoreUnavailable):
    """Some buckets of a request passed, and the others gave no valid answer: their level is None. None refused.

    The charges stand until `give_back` is called; then `levels` are as if they had never been made.
    """

    def __init__(self, reason: str, levels: Levels, give_back: Callable[[], None]) -> None:
        super().__init__(reason)
        self.levels = levels
        self.give_back = give_back


class BadReply(Exception):
    """The store cannot have sent this reply to this command."""


# Receives the levels or the failure, and the time of sending (time.monotonic). An error reply is StoreUnavailable too:
# its reason is the first word of the error in lower case (`oom`, `readonly`).
OnLevels = Callable[[Levels | StoreUnavailable, float], None]

# A command as its words, and the callback for its reply: the parsed reply, a ReplyError, or StoreUnavailable.
Command = tuple[str | int, ...]
OnReply = Callable[[object], None]
# The replies of several servers, by address.
OnReplies = Callable[[Mapping[str, object]], None]
# Receives a reply that came too late to be used. Raises if it is the reply to another command.
CheckLate = Callable[[object], None]


# Returns the breakers of a store's nodes, by the node's address.
Breakers = Callable[[], Mapping[str, Breaker]]


class Store(Protocol):
    """One store. Every callback is called exactly once, within `store.timeout`, possibly before the call returns.

    A call is sent again only if the store replied that it did not run. Without a connection, calls fail at once. A
    store of several nodes may fail some calls and answer others.
    """

    # Set when the first attempt to connect has ended, with or without success.
    tried: asyncio.Event

    @property
    def key_prefix(self) -> str:
        """What all keys begin with, by the settings in force."""

    @property
    def failure(self) -> StoreUnavailable | None:
        """Why the store cannot be called at present; None while it can."""

    async def keep_connected(self) -> None:
        """Connect, and connect again whenever a connection is lost. Runs until cancelled."""

    def use(self, settings: StoreSettings) -> None:
        """Replace the connections where the credentials have changed; the old ones serve until then.

        The URL is not applied: it needs a restart.
        """

    def own_breakers(self, on_closed: Callable[[], None]) -> Breakers | None:
        """The breakers of a store that has one for each node; it calls `on_closed` whenever one closes.

        None for one server: then the limiter has the breaker.
        """

    def ask(self, charges: Sequence[Charge], then: OnLevels) -> None:
        """Charge all buckets or none: a charge without enough tokens refuses all, unless it is a shadow charge.

        Of several nodes some may fail: then the answer is PartlyUnavailable, if another one passed and none refused.
        `charges` is not empty. An exception from `then` is logged and does not affect other calls.
        """

    def unserved(self, key: str) -> StoreUnavailable | None:
        """Why calls for this bucket fail at once; None while they can be made."""

    def command(self, key: str, command: Command, on_reply: OnReply) -> None:
        """Send one command, to the node that has `key`."""

    def command_each(self, command: Command, on_replies: OnReplies) -> None:
        """Send one command to each master; `on_replies` is called once, with the replies by address: "" for one
        server, and none where a Cluster serves no slots.
        """

    def ping(self, on_reply: OnReply) -> None:
        """Send PING; `on_reply` receives b"PONG" or the failure."""
