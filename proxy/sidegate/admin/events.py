"""What changes from second to second, as JSON and as a stream of server-sent events for the dashboard."""

import asyncio
from collections.abc import Callable

import orjson
from aiohttp import web

from sidegate.admin.access import Problem, json_answer
from sidegate.telemetry.timeline import Timeline

# Each holds a connection and a task; a dashboard needs one.
MOST_STREAMS = 16
# A reader that takes nothing for so long has gone.
WRITE_TIMEOUT_S = 10.0

State = Callable[[], dict[str, object]]


class Live:
    """Serves the timeline. `state` is what is true at the moment: store, configuration, most refused keys."""

    def __init__(self, timeline: Timeline, state: State) -> None:
        self._timeline = timeline
        self._state = state
        self._streams: set[asyncio.Task[object]] = set()

    def page(self, seconds: int) -> web.Response:
        """The last seconds, and the state."""
        return json_answer({"seconds": list(self._timeline.seconds)[-seconds:], "state": self._state()})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """History once, then every second as it is closed, until the reader leaves or the sidecar stops."""
        if len(self._streams) >= MOST_STREAMS:
            raise Problem(503, f"{MOST_STREAMS} readers are served already; close a dashboard.")
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
        """End all streams, which would otherwise hold up the stop."""
        for task in list(self._streams):
            task.cancel()


async def _send(response: web.StreamResponse, event: str, content: object) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(b"event: %b\ndata: %b\n\n" % (event.encode(), orjson.dumps(content)))
