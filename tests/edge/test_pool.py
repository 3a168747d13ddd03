"""The connection pool: which request gets which connection, how many exist, and how long requests wait."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from sidegate.config import UpstreamSettings
from sidegate.edge.failures import Failure
from sidegate.edge.field_names import response_names
from sidegate.edge.heads import ResponseHead
from sidegate.edge.pool import Pool
from sidegate.edge.upstream import UpstreamConnection, UpstreamState
from sidegate.edge.upstream_errors import Busy, ConnectFailed, ConnectRefused, ConnectTimedOut, QueueFull, UpstreamError

from tests.recorder import OK
from tests.servers import free_port

PATIENCE_S = 30.0


class Application:
    """Accepts connections, and answers every request at once."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.url = ""

    async def start(self, at: str = "") -> None:
        self.writers.clear()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", int(at.rpartition(":")[2] or 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self.writers:
            writer.close()
        await self._server.wait_closed()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


class Request:
    """A request that acquires a connection; `use` sends on it, `give_back` releases it after the answer."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.connection: UpstreamConnection | None = None
        self.error: UpstreamError | None = None
        self.told_ns = 0
        self._ended = asyncio.Event()
        self._answered = asyncio.Event()

    def on_connection(self, connection: UpstreamConnection) -> None:
        self.connection = connection
        self._ended.set()

    def on_upstream_error(self, error: UpstreamError) -> None:
        self.error = error
        self.told_ns = time.perf_counter_ns()
        self._ended.set()

    def on_answer(self, head: ResponseHead, content: bytes, ended: bool) -> None:
        assert ended
        self._answered.set()

    def on_interim(self, head: ResponseHead) -> None:
        raise AssertionError

    def on_answer_data(self, content: bytes, *, ended: bool) -> None:
        raise AssertionError

    def on_write_paused(self) -> None:
        raise AssertionError

    def on_write_resumed(self) -> None:
        raise AssertionError

    def give_up(self, _: Failure) -> None:
        raise AssertionError

    @property
    def waits(self) -> bool:
        return not self._ended.is_set()

    async def outcome(self) -> "Request":
        async with asyncio.timeout(PATIENCE_S):
            await self._ended.wait()
        return self

    async def connected(self) -> UpstreamConnection:
        await self.outcome()
        assert self.connection is not None, self.error
        return self.connection

    async def give_back(self) -> UpstreamConnection:
        connection = await self.connected()
        connection.send(
            self, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", head_only=False, timeout_s=PATIENCE_S, between_s=PATIENCE_S
        )
        async with asyncio.timeout(PATIENCE_S):
            await self._answered.wait()
        if (grant := self._pool.release(connection)) is not None:
            grant.deliver()
        return connection


class Bench:
    """An application, and pools that connect to it."""

    def __init__(self) -> None:
        self.application = Application()
        self.tasks: set[asyncio.Task[None]] = set()
        self.pools: list[Pool] = []

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def pool(self, url: str = "", **settings: Any) -> Pool:
        parsed = UpstreamSettings.model_validate({"url": url or self.application.url, **settings})
        self.pools.append(Pool(parsed, response_names(), self.spawn))
        return self.pools[-1]

    def want(self, pool: Pool, *, fresh: bool = False) -> Request:
        request = Request(pool)
        try:
            connection = pool.acquire(request, fresh=fresh)
        except QueueFull as error:
            request.on_upstream_error(error)
        else:
            if connection is not None:
                request.on_connection(connection)
        return request


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.application.start()
    yield bench
    for pool in bench.pools:
        pool.close()
    await bench.application.stop()
    await until(lambda: not bench.tasks)


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


# Which one


async def test_an_idle_connection_is_given_at_once(bench: Bench) -> None:
    pool = bench.pool()
    used = await bench.want(pool).give_back()
    again = bench.want(pool)
    assert (again.connection, used.reused) == (used, True)
    used.abort()


async def test_the_last_used_connection_is_used_first(bench: Bench) -> None:
    pool = bench.pool()
    first, second = bench.want(pool), bench.want(pool)
    await first.connected()
    await second.connected()
    await first.give_back()
    last = await second.give_back()
    assert bench.want(pool).connection is last
    last.abort()


async def test_a_fresh_connection_has_never_been_idle(bench: Bench) -> None:
    pool = bench.pool()
    used = await bench.want(pool).give_back()
    fresh = await bench.want(pool, fresh=True).connected()
    assert fresh is not used
    assert not fresh.reused
    fresh.abort()


async def test_a_request_that_needs_a_fresh_connection_gets_no_returned_one(bench: Bench) -> None:
    pool = bench.pool(max_connections=1)
    holding = bench.want(pool)
    used = await holding.connected()
    fresh, second = bench.want(pool, fresh=True), bench.want(pool)
    await holding.give_back()
    assert await second.connected() is used  # though the other one waits longer
    await second.give_back()
    assert await fresh.connected() is not used  # it made room
    await fresh.give_back()
    assert pool.open == 1


async def test_an_idle_connection_that_the_application_has_closed_unnoticed_is_not_used(bench: Bench) -> None:
    pool = bench.pool()
    used = await bench.want(pool).give_back()
    bench.application.writers[0].transport.abort()
    await asyncio.sleep(0)  # the transport closes; this side does not know it yet
    request = bench.want(pool)
    assert request.connection is not used
    (await request.connected()).abort()


async def test_an_idle_connection_that_has_something_to_read_is_not_used(bench: Bench) -> None:
    pool = bench.pool()
    used = await bench.want(pool).give_back()
    bench.application.writers[0].write(b"HTTP/1.1 200 OK\r\n")  # written to the socket at once
    request = bench.want(pool)
    assert request.connection is not used
    (await request.connected()).abort()


async def test_an_idle_connection_is_alive(bench: Bench) -> None:
    pool = bench.pool()
    used = await bench.want(pool).give_back()
    assert bench.want(pool).connection is used
    used.abort()


@pytest.mark.parametrize("unasked", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""])
async def test_an_idle_connection_that_receives_anything_is_dead(unasked: bytes, bench: Bench) -> None:
    pool = bench.pool()
    used = await bench.want(pool).give_back()
    if unasked:
        bench.application.writers[0].write(unasked)
    else:
        bench.application.writers[0].close()
    await until(lambda: used.state is UpstreamState.CLOSED)
    await until(lambda: pool.open == 0)


async def test_an_idle_connection_is_closed_after_its_time(bench: Bench) -> None:
    pool = bench.pool(idle_timeout="20ms")
    used = await bench.want(pool).give_back()
    await until(lambda: used.state is UpstreamState.CLOSED)
    await until(lambda: pool.open == 0)


async def test_a_connection_whose_answer_is_not_finished_is_not_kept(bench: Bench) -> None:
    pool = bench.pool()
    connection = await bench.want(pool).connected()
    pool.release(connection)
    assert connection.state is UpstreamState.CLOSED
    await until(lambda: pool.open == 0)


# How many


async def test_no_more_connections_are_made_than_allowed_and_the_first_to_wait_is_served_first(bench: Bench) -> None:
    pool = bench.pool(max_connections=2)
    holding = [bench.want(pool), bench.want(pool)]
    for request in holding:
        await request.connected()
    waiting = [bench.want(pool), bench.want(pool), bench.want(pool)]
    given = await holding[0].give_back()
    assert [request.waits for request in waiting] == [False, True, True]
    assert (waiting[0].connection, pool.open) == (given, 2)
    for request in [*waiting, holding[1]]:
        await request.give_back()
    assert len(bench.application.writers) == 2


async def test_a_connection_that_dies_makes_room_for_a_waiting_request(bench: Bench) -> None:
    pool = bench.pool(max_connections=1)
    (await bench.want(pool).connected()).abort()
    waiting = bench.want(pool)
    assert (await waiting.connected()).state is UpstreamState.IDLE
    await waiting.give_back()


async def test_requests_beyond_the_queue_fail_at_once(bench: Bench) -> None:
    pool = bench.pool(max_connections=1, max_waiting=4)
    holding = bench.want(pool)
    await holding.connected()
    waiting = [bench.want(pool) for _ in range(4)]
    one_too_many = bench.want(pool)
    assert isinstance(one_too_many.error, QueueFull)
    assert all(request.waits for request in waiting)
    for request in [holding, *waiting]:
        await request.give_back()


@pytest.mark.slow
async def test_requests_that_wait_too_long_fail_in_the_order_of_waiting(bench: Bench) -> None:
    pool = bench.pool(max_connections=1, queue_timeout="300ms")
    holding = bench.want(pool)
    await holding.connected()
    order: list[Request] = []

    async def append(request: Request) -> None:
        order.append(await request.outcome())

    first = bench.want(pool)
    await asyncio.sleep(0.2)
    second = bench.want(pool)
    await asyncio.gather(append(second), append(first))
    assert order == [first, second]
    assert isinstance(first.error, Busy)
    assert isinstance(second.error, Busy)
    await holding.give_back()


async def test_a_request_waits_as_long_as_its_connection_may_take_to_be_made(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, contextlib.ExitStack() as fill:
        for _ in range(2):  # a backlog of 0 takes one or two, and no more
            filler = fill.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        pool = bench.pool(url, max_connections=1, queue_timeout="20ms", connect_timeout="100ms")
        first, second = bench.want(pool), bench.want(pool)
        assert isinstance((await second.outcome()).error, Busy)
        assert isinstance((await first.outcome()).error, ConnectTimedOut)


async def test_a_cancelled_request_gets_no_connection(bench: Bench) -> None:
    pool = bench.pool(max_connections=1)
    holding = bench.want(pool)
    await holding.connected()
    gone, next_one = bench.want(pool), bench.want(pool)
    pool.cancel(gone)
    await holding.give_back()
    assert gone.waits
    await next_one.give_back()


async def test_an_unused_connection_is_kept_for_the_next_request_until_its_timeout(bench: Bench) -> None:
    pool = bench.pool(idle_timeout="50ms")
    gone = bench.want(pool)
    pool.cancel(gone)
    await until(lambda: not bench.tasks)
    assert (gone.waits, pool.open) == (True, 1)
    await until(lambda: pool.open == 0)


async def test_all_waiting_requests_fail_when_the_application_is_unreachable(bench: Bench) -> None:
    pool = bench.pool(f"http://127.0.0.1:{free_port()}", max_connections=1)
    for request in [bench.want(pool) for _ in range(3)]:
        assert isinstance((await request.outcome()).error, ConnectFailed)
    assert pool.open == 0


# An application that refuses connections, as while it restarts


async def test_a_refused_connection_is_tried_again_until_the_application_is_back(bench: Bench) -> None:
    pool = bench.pool(retry="30s", max_connections=2)
    await bench.application.stop()
    requests = [bench.want(pool) for _ in range(5)]  # three of them wait for the other two
    await until(lambda: pool.retries >= 4)
    assert all(request.waits for request in requests)
    await bench.application.start(at=bench.application.url)
    for request in requests:
        await request.give_back()
    assert (pool.open, len(bench.application.writers)) == (2, 2)


@pytest.mark.slow
async def test_requests_fail_in_order_when_the_application_stays_away(bench: Bench) -> None:
    pool = bench.pool(f"http://127.0.0.1:{free_port()}", retry="250ms", max_connections=1)
    began_ns = time.perf_counter_ns()
    first = bench.want(pool)
    await asyncio.sleep(0.1)
    second = bench.want(pool)
    assert isinstance((await first.outcome()).error, ConnectRefused)
    assert isinstance((await second.outcome()).error, ConnectRefused)
    assert (first.told_ns - began_ns >= 250e6, second.told_ns - first.told_ns >= 50e6) == (True, True)
    await until(lambda: not bench.tasks)
    assert pool.open == 0


async def test_nothing_is_tried_again_for_requests_that_have_left(bench: Bench) -> None:
    pool = bench.pool(f"http://127.0.0.1:{free_port()}", retry="30s")
    gone = bench.want(pool)
    await until(lambda: pool.retries)
    pool.cancel(gone)
    await until(lambda: not bench.tasks)
    assert (pool.open, pool.waiting, gone.waits) == (0, 0, True)


async def test_after_a_restart_the_queue_has_its_own_timeout_again(bench: Bench) -> None:
    pool = bench.pool(retry="30s", queue_timeout="20ms", max_connections=1)
    await bench.application.stop()
    holding, waiting = bench.want(pool), bench.want(pool)
    await until(lambda: pool.retries)
    await bench.application.start(at=bench.application.url)
    await holding.connected()
    assert isinstance((await waiting.outcome()).error, Busy)
    await holding.give_back()


async def test_a_connection_timeout_is_not_tried_again(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, contextlib.ExitStack() as fill:
        for _ in range(2):
            filler = fill.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        pool = bench.pool(f"http://127.0.0.1:{deaf.getsockname()[1]}", retry="30s", connect_timeout="50ms")
        assert isinstance((await bench.want(pool).outcome()).error, ConnectTimedOut)
        assert pool.retries == 0


# The end


async def test_closing_the_pool_ends_idle_and_returned_connections(bench: Bench) -> None:
    pool = bench.pool()
    idle, busy = bench.want(pool), bench.want(pool)
    await busy.connected()
    idle_connection = await idle.give_back()
    pool.close()
    assert idle_connection.state is UpstreamState.CLOSED
    assert (await busy.give_back()).state is UpstreamState.CLOSED
    await until(lambda: pool.open == 0)


async def test_a_connection_that_is_made_after_closing_is_ended(bench: Bench) -> None:
    pool = bench.pool()
    request = bench.want(pool)
    pool.close()
    await until(lambda: pool.open == 0)
    assert request.waits
