"""One call of the bucket script for one batch, from sending to the callbacks of its requests."""

import asyncio
import logging
import time
from collections.abc import Callable
from hashlib import sha1
from importlib.resources import files

from sidegate.decision.record import ObserveStore, StoreCall
from sidegate.store.protocol import BadReply, OnLevels, StoreUnavailable
from sidegate.store.redis.batch import Batch
from sidegate.store.redis.connection import ReplyError
from sidegate.store.redis.node import Node

SCRIPT = files(__package__).joinpath("bucket.lua").read_text("utf-8")
SCRIPT_SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

# Handles the error reply of a call; returns whether it did.
OnErrorReply = Callable[["ScriptCall", str], bool]

logger = logging.getLogger(__name__)


class ScriptCall:
    """A batch under way. Sent again only if the store replied that it did not run, with the first deadline.

    `redirect` receives every error reply but NOSCRIPT.
    """

    __slots__ = (
        "_arguments",
        "_evaluated",
        "_observe",
        "_redirect",
        "_timer",
        "asked_s",
        "asking",
        "batch",
        "done",
        "due_s",
        "hops",
        "node",
        "size",
    )

    def __init__(
        self,
        batch: Batch[OnLevels],
        node: Node,
        timeout_s: float,
        redirect: "OnErrorReply",
        observe: ObserveStore | None,
    ) -> None:
        self.batch = batch
        self.node = node
        self.asked_s = time.monotonic()
        self.due_s = self.asked_s + timeout_s
        self.size = batch.charges
        self.done = False
        # How often it was redirected, and whether the last time with ASKING.
        self.hops = 0
        self.asking = False
        self._arguments = batch.arguments()
        self._redirect = redirect
        self._observe = observe
        self._evaluated: Node | None = None
        self._timer: asyncio.TimerHandle | None = None

    def send(self) -> None:
        """Send the call to the node, in its turn; to a node that has just become known, once it is connected."""
        if self.node.tried.is_set():
            self.node.queue.send(self)
        else:
            self._expire_in_time()
            self.node.once_tried(lambda: None if self.done else self.node.queue.send(self))

    def begin(self) -> None:
        """Send the call now."""
        if self.asking:  # applies to the next command only
            self.node.ask(("ASKING",), _ignore)
        self.node.ask(("EVALSHA", SCRIPT_SHA, *self._arguments), self._on_reply, self._check_late)

    def send_on(self, node: Node, *, asking: bool = False) -> None:
        """Send the call to another node, after the last one replied that it did not run the script."""
        self._expire_in_time()
        self.node, self.asking = node, asking
        self.hops += 1
        self.send()

    def send_again_in(self, pause_s: float) -> None:
        """Send the call to the same node again after a pause."""
        self._expire_in_time()
        asyncio.get_running_loop().call_later(pause_s, lambda: None if self.done else self.send())

    def send_part(self, part: Batch[OnLevels], redirect: "OnErrorReply") -> "ScriptCall":
        """Send a part of the batch as a call of its own; this call ends without callbacks."""
        self.done = True
        call = ScriptCall(part, self.node, 0, redirect, self._observe)
        call.asked_s, call.due_s, call.hops, call.asking = self.asked_s, self.due_s, self.hops, self.asking
        call._expire_in_time()
        call.send()
        return call

    def _expire_in_time(self) -> None:
        """Keep the first deadline: the connection's own starts again with each command."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, self.due_s - time.monotonic()), self._expire)

    def finish(self, reply: object) -> None:
        """Call all callbacks of the batch, once. Raises BadReply where the script cannot have sent the reply."""
        if self.done:
            return
        self.done = True
        if self._timer is not None:
            self._timer.cancel()
        if isinstance(reply, StoreUnavailable):
            self._fail(reply)
            return
        try:
            pairs = self.batch.deliver(reply)
        except BadReply as error:
            self._fail(StoreUnavailable("protocol", str(error)))
            raise  # closes the connection: its further replies cannot be trusted
        self._report("")
        asked_s = self.asked_s
        for then, levels in pairs:
            try:
                then(levels, asked_s)
            except Exception:  # the boundary of one request: the others of its batch continue
                logger.exception("a request failed after its decision")

    def _on_reply(self, reply: object) -> None:
        self.node.queue.ended(self, reply)
        self._use(reply)

    def _use(self, reply: object) -> None:
        if not isinstance(reply, ReplyError):
            self.finish(reply)
        elif not self.done:
            self._on_error(str(reply))

    def _check_late(self, reply: object) -> None:
        """Raise BadReply for the reply of another call: one that was lost has shifted all others."""
        if not isinstance(reply, ReplyError):
            self.batch.deliver(reply)

    def _on_error(self, text: str) -> None:
        word = text.partition(" ")[0]
        if word == "NOSCRIPT" and self._evaluated is not self.node:
            self._evaluated = self.node
            self._expire_in_time()
            if self.asking:
                self.node.ask(("ASKING",), _ignore)
            self.node.ask(("EVAL", SCRIPT, *self._arguments), self._use, self._check_late)
        elif not self._redirect(self, text):
            self.finish(StoreUnavailable(word.lower(), text))

    def _expire(self) -> None:
        self.finish(StoreUnavailable("timeout", "no reply in time, with the connection to a new node or redirections"))

    def _report(self, failure: str) -> None:
        if self._observe is not None:
            self._observe(StoreCall(len(self.batch), time.monotonic() - self.asked_s, failure))

    def _fail(self, failure: StoreUnavailable) -> None:
        self._report(failure.reason)
        fail(self.batch, failure, self.asked_s)


def fail(batch: Batch[OnLevels], failure: StoreUnavailable, asked_s: float) -> None:
    """Call all callbacks of a batch with a failure."""
    for then in batch.waiters():
        try:
            then(failure, asked_s)
        except Exception:  # the boundary of one request, as in `ScriptCall.finish`
            logger.exception("a request failed after its decision")


def _ignore(reply: object) -> None:
    """The reply to ASKING; the next reply has the result."""
