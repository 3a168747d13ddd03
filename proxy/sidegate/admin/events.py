"""The timeline as JSON, and as a stream of server-sent events for the dashboard."""

import asyncio
from collections.abc import Callable, Mapping

import orjson
from aiohttp import web

from sidegate.admin.response_types import TimelineDocument
from sidegate.admin.responses import Problem
from sidegate.telemetry.timeline import TrafficTimeline

# Each stream holds a connection and a task; a dashboard needs one.
MOST_STREAMS = 16
# A client that does not read for this long is disconnected.
WRITE_TIMEOUT_S = 10.0


class EventStream:
    """Serves the timeline. `state` returns the present state: store, configuration, keys refused most."""

    def __init__(self, timeline: TrafficTimeline, state: Callable[[], Mapping[str, object]]) -> None:
        self._timeline = timeline
        self._state = state
        self._streams: set[asyncio.Task[object]] = set()

    def page(self, seconds: int) -> TimelineDocument:
        """The last seconds, and the state."""
        return {"seconds": list(self._timeline.seconds)[-seconds:], "state": self._state()}  # type: ignore[typeddict-item]

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Event `history` once, then `second` each second, until the client leaves or the sidecar stops."""
        if len(self._streams) >= MOST_STREAMS:
            raise Problem(503, f"{MOST_STREAMS} streams are open already; close a dashboard.")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  (a handler runs in a task)
        self._streams.add(task)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        try:
            await response.prepare(request)
            history = {"seconds": list(self._timeline.seconds), "state": self._state()}
            await _send(response, "history", history)
            while True:
                second = await self._timeline.next()
                await _send(response, "second", {"second": second, "state": self._state()})
        except (ConnectionError, TimeoutError):
            return response
        finally:
            self._streams.discard(task)

    def end(self) -> None:
        """End all streams, which would otherwise delay the stop."""
        for task in list(self._streams):
            task.cancel()


async def _send(response: web.StreamResponse, event: str, content: object) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(b"event: %b\ndata: %b\n\n" % (event.encode(), orjson.dumps(content)))
