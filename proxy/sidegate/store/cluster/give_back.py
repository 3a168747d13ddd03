"""Gives charges of one call back to their buckets, without waiting for the result. See give_back.lua."""

from collections.abc import Sequence
from functools import partial
from hashlib import sha1
from importlib.resources import files
from weakref import WeakSet

from sidegate.decision.bucket import Charge, Level
from sidegate.store.protocol import Command
from sidegate.store.redis.connection import ReplyError
from sidegate.store.redis.node import Node
from sidegate.store.redis.script import ScriptCall

GIVE_BACK = files(__package__).joinpath("give_back.lua").read_text("utf-8")
GIVE_BACK_SHA = sha1(GIVE_BACK.encode(), usedforsecurity=False).hexdigest()


class GiveBack:
    """Sends the script; the whole of it to a node that has not run it yet, so that no other call comes before it."""

    def __init__(self) -> None:
        self._loaded: WeakSet[Node] = WeakSet()

    def send(self, call: ScriptCall, taken: Sequence[tuple[Charge, Level]]) -> None:
        """Give back charges of a returnable batch; each with the level that it left.

        They are sent to the node that made the charges, whose clock measures the time since then. If it has lost the
        slot, nothing is given back.
        """
        words: list[str | int] = [len(taken), *(charge.key for charge, _ in taken), call.batch.charged_us]
        for charge, level in taken:
            rate = charge.limit.rate
            words += [charge.cost, charge.limit.burst, f"{rate.tokens}/{rate.period_us}"]
            words += [level.tokens, level.age_us, call.batch.returned_to(charge.key)]
        node = call.node
        whole: Command = ("EVAL", GIVE_BACK, *words)
        if call.asking:
            node.ask(("ASKING",), _ignore)
            node.ask(whole, _ignore)
        elif node not in self._loaded:
            self._loaded.add(node)
            node.ask(whole, _ignore)
        else:
            node.ask(("EVALSHA", GIVE_BACK_SHA, *words), partial(_send_whole, node, whole))


def _send_whole(node: Node, whole: Command, reply: object) -> None:
    """Send the whole script where the node has lost it, by a restart or by SCRIPT FLUSH."""
    if isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT"):
        node.ask(whole, _ignore)


def _ignore(reply: object) -> None:
    """A reply without use: a command that may have run is never sent again."""
