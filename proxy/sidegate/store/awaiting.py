"""Awaits what a function passes to its callback."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

Given = TypeVar("Given")


async def answer_of(ask: Callable[[Callable[[Given], None]], None]) -> Given:
    """Call `ask` with a callback and return the callback's first argument.

    The callback may be called before `ask` returns, and after the caller was cancelled, which has no effect.
    """
    answer: asyncio.Future[Given] = asyncio.get_running_loop().create_future()
    ask(lambda given: None if answer.done() else answer.set_result(given))
    return await answer
