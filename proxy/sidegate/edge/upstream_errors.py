"""Errors of the application's side, and the answer for each."""

from typing import ClassVar

from sidegate.edge.failures import Failure


class UpstreamError(Exception):
    """The application failed the request."""

    failure: ClassVar[Failure] = Failure.UPSTREAM_BROKEN


class ConnectFailed(UpstreamError):
    """No connection could be made: nothing was sent."""

    failure = Failure.UPSTREAM_CONNECT


class ConnectRefused(ConnectFailed):
    """Nobody listens at the application's address: it may be restarting."""


class ConnectTimedOut(ConnectFailed):
    """No connection was accepted in time: nothing was sent."""

    failure = Failure.UPSTREAM_CONNECT_TIMEOUT


class Busy(UpstreamError):
    """No connection became free in time: nothing was sent."""

    failure = Failure.UPSTREAM_BUSY


class QueueFull(Busy):
    """Too many requests wait for a connection already: nothing was sent."""

    failure = Failure.UPSTREAM_QUEUE_FULL


class TimedOut(UpstreamError):
    """No answer in time."""

    failure = Failure.UPSTREAM_TIMEOUT


class Stalled(UpstreamError):
    """The request or its answer began, and then nothing more of it moved in time."""

    failure = Failure.UPSTREAM_STALLED


class BrokenReply(UpstreamError):
    """The connection ended before the answer did, or what came was not valid HTTP."""
