"""The Date field of an answer (RFC 9110 §6.6.1), formatted once a second."""

import time
from email.utils import formatdate


class _Clock:
    """The line that was formatted last, and the second it is for."""

    __slots__ = ("line", "second")

    def __init__(self) -> None:
        self.second = 0
        self.line = b""


_clock = _Clock()


def date_line() -> bytes:
    """`Date: …` of the present second, with its line end."""
    second = int(time.time())  # noqa: TID251  (the time of day is what the field holds)
    if second != _clock.second:
        _clock.second = second
        _clock.line = f"Date: {formatdate(second, usegmt=True)}\r\n".encode()
    return _clock.line
