"""Every phase of a request has a limit with its own answer and its own reason in the log."""

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sidegate.config import Settings, compile_policies
from sidegate.decision.request import RequestFacts
from sidegate.edge.body_rate import BodyAllowance
from sidegate.edge.buffers import BufferBudget
from sidegate.edge.field_names import response_names
from sidegate.edge.pool import Pool
from sidegate.edge.runtime import Runtime, live_rules
from sidegate.edge.server import Server

from tests.raw_client import Broken, RawClient, Reply, get, request
from tests.recorder import OK, Act, ReadBody, Recorder, Step, Zeros, eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import Sidecar, configuration

MIB = 2**20


def logged(sidecar: Sidecar, target: str) -> str:
    """The reason in the log line of the one request with this target."""
    eventually(lambda: [line for line in sidecar.lines if line.get("path") == target], f"a log line for {target}")
    (line,) = [line for line in sidecar.lines if line.get("path") == target]
    return str(line["error"])


@pytest.fixture(scope="module")
def shared_strict_sidecar(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[Sidecar]:
    config = configuration(
        shared_store_server.url,
        shared_recorder.url,
        listen={"max_body_bytes": "1KiB", "body_timeout": "300ms", "min_body_bytes_per_s": 1000, "write_timeout": "1s"},
        upstream={
            "total_timeout": "700ms",
            "between_bytes_timeout": "300ms",
            "response_timeout": "400ms",
            "request_buffer": 0,
        },
        log={"requests": "all"},
    )
    with Sidecar(config) as sidecar:
        yield sidecar


@pytest.fixture
def strict_sidecar(store_server: StoreServer, recorder: Recorder, shared_strict_sidecar: Sidecar) -> Sidecar:
    """A sidecar with a low value for every limit, which logs all requests."""
    return shared_strict_sidecar


# How large a request may be


@pytest.mark.parametrize("fields", [(), ("Expect: 100-continue",)], ids=["", "expecting 100"])
def test_a_body_announced_too_large_is_refused_before_any_of_it_is_read(
    fields: tuple[str, ...], strict_sidecar: Sidecar, recorder: Recorder
) -> None:
    with RawClient(strict_sidecar.port) as client:
        client.send(request("/announced", "Content-Length: 1025", *fields, method="POST"))
        reply = client.reply()
        assert (reply.status, reply.interim, reply.says_close) == (413, [], True)
        assert reply.json()["error"] == "body_too_large"
        assert client.ends()
    assert recorder.requests == []


def test_a_body_of_the_largest_size_passes(strict_sidecar: Sidecar, recorder: Recorder) -> None:
    assert get(strict_sidecar.port, method="POST", body=bytes(1024)).status == 200
    assert recorder.only().body_bytes == 1024


def test_a_chunked_body_that_is_too_large_as_a_whole_never_reaches_the_application(
    strict_sidecar: Sidecar, recorder: Recorder
) -> None:
    with RawClient(strict_sidecar.port) as client:
        chunked = request("/whole", "Transfer-Encoding: chunked", method="POST")
        client.send(chunked + b"401\r\n%b\r\n0\r\n\r\n" % bytes(1025))
        assert client.reply().status == 413
    assert recorder.requests == []
    assert logged(strict_sidecar, "/whole") == "body_too_large"


def test_a_chunked_body_that_becomes_too_large_is_broken_off_at_the_application(
    strict_sidecar: Sidecar, recorder: Recorder
) -> None:
    with RawClient(strict_sidecar.port) as client:
        client.send(request("/grows", "Transfer-Encoding: chunked", method="POST") + b"1\r\na\r\n")
        (received,) = recorder.wait_for(1)
        client.send(b"400\r\n%b\r\n" % bytes(1024))
        reply = client.reply()
        assert (reply.status, reply.says_close) == (413, True)
    eventually(lambda: received.connection not in recorder.open, "the end of the upstream connection")
    assert not received.complete
    assert received.body_bytes <= 1024


# How slow a client may be


def test_the_time_for_a_body_is_a_bucket_of_waiting_time() -> None:
    allowance = BodyAllowance(10.0, 100)
    assert allowance.left_s == 10.0
    allowance.received(500, 4.0)  # five seconds' worth in four
    assert allowance.left_s == 10.0
    allowance.received(100, 4.0)
    assert allowance.left_s == 7.0
    allowance.received(10**9, 0.0)  # a fast start buys no long stall later
    assert allowance.left_s == 10.0
    allowance.received(0, 10.5)
    assert allowance.left_s < 0


def test_without_a_rate_each_piece_has_the_whole_time() -> None:
    allowance = BodyAllowance(10.0, 0)
    allowance.received(1, 9.0)
    allowance.received(1, 9.0)
    assert allowance.left_s == 10.0


@pytest.mark.slow
def test_a_body_that_drips_below_the_rate_is_answered_408(strict_sidecar: Sidecar, recorder: Recorder) -> None:
    with RawClient(strict_sidecar.port, patience_s=0.05) as client:
        client.send(request("/drips", "Content-Length: 1000", method="POST"))

        replies: list[Reply] = []

        def answered() -> bool:
            client.send(b"a")  # never 300 ms without a byte
            with contextlib.suppress(TimeoutError):
                replies.append(client.reply())
            return bool(replies)

        eventually(answered, "an answer to a dripping body")
        assert (replies[0].status, replies[0].json()["error"]) == (408, "body_timeout")
    (received,) = recorder.wait_for(1)
    eventually(lambda: received.connection not in recorder.open, "the end of the upstream connection")


@pytest.mark.slow
def test_a_client_that_does_not_take_its_answer_is_cut_off(impatient_sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.always(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MIB), Zeros(64 * MIB))
    with RawClient(impatient_sidecar.port, receive_buffer_bytes=4096) as client:
        client.send(request("/unread"))
        assert client.head().status == 200
        eventually(lambda: not recorder.open, "the end of the upstream connection")
        assert logged(impatient_sidecar, "/unread") == "write_timeout"
        with pytest.raises(Broken):
            client.count_rest_of_answer()


async def test_a_client_that_does_not_take_its_last_answer_keeps_no_connection() -> None:
    async def large_page(_: RequestFacts) -> tuple[int, dict[str, object]]:
        return 200, {"large": "a" * 16 * MIB}  # more than the kernel takes: the rest waits in the sidecar

    tasks: set[asyncio.Task[None]] = set()

    def spawn(coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        tasks.add(task := asyncio.get_running_loop().create_task(coroutine))
        return task

    listen = {"host": "127.0.0.1", "port": 0, "write_timeout": "50ms"}
    settings = Settings.model_validate({"listen": listen, "policies": []})
    live = live_rules(settings, compile_policies(settings))
    unused: Any = None  # a page needs no decision and no record
    pool = Pool(settings.upstream, response_names(), spawn)
    runtime = Runtime(
        live, unused, unused, pool, spawn, settings.listen, b"app:1", {"/large": large_page}, BufferBudget(0)
    )
    server = Server(runtime)
    port = await server.listen()
    with RawClient(port) as client:
        client.send(request("/large", "Connection: close"))
        async with asyncio.timeout(5):
            while not server.connections:
                await asyncio.sleep(0)
            while server.connections:
                await asyncio.sleep(0.01)
    assert await server.drain() == 0


# How slow the application may be


def test_an_application_that_does_not_begin_to_answer(strict_sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(Act.HOLD)
    reply = get(strict_sidecar.port, "/first-byte")
    assert (reply.status, logged(strict_sidecar, "/first-byte")) == (504, "upstream_timeout")


@pytest.mark.slow
def test_an_application_whose_head_drips(strict_sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 200 OK\r\n", 0.2, b"X-A: a\r\n", 0.2, b"X-B: b\r\n", 0.2, b"\r\n")
    reply = get(strict_sidecar.port, "/dripping-head")
    assert (reply.status, logged(strict_sidecar, "/dripping-head")) == (504, "upstream_timeout")


@pytest.mark.slow
def test_an_interim_answer_extends_the_response_timeout(strict_sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(0.25, b"HTTP/1.1 102 Processing\r\n\r\n", 0.25, OK)
    assert get(strict_sidecar.port).status == 200


def test_an_application_that_stops_in_its_answer(strict_sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", Act.HOLD)
    reply = get(strict_sidecar.port, "/stops")
    assert (reply.status, reply.complete, logged(strict_sidecar, "/stops")) == (200, False, "upstream_stalled")


@pytest.mark.slow
def test_an_application_that_stops_in_an_early_answer(strict_sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello", Act.HOLD, body=ReadBody.NONE)
    with RawClient(strict_sidecar.port) as client:
        client.send(request("/early", "Content-Length: 1000", method="POST") + bytes(10))
        recorder.wait_for(1)
        client.send(bytes(800))
        assert not client.reply().complete
    assert logged(strict_sidecar, "/early") in ("upstream_stalled", "body_timeout")


@pytest.mark.slow
def test_an_answer_that_takes_too_long_as_a_whole(strict_sidecar: Sidecar, recorder: Recorder) -> None:
    drops: list[Step] = [b"a", 0.1]
    recorder.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", *drops * 20)
    reply = get(strict_sidecar.port, "/endless")
    assert (reply.status, reply.complete, logged(strict_sidecar, "/endless")) == (200, False, "total_timeout")
    eventually(lambda: not recorder.open, "the end of the upstream connection")


def test_an_application_that_accepts_no_connection_in_time(store_server: StoreServer) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf, contextlib.ExitStack() as fill:
        for _ in range(2):
            filler = fill.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with Sidecar(configuration(store_server.url, url, upstream={"connect_timeout": "100ms"})) as sidecar:
            reply = get(sidecar.port)
    assert (reply.status, reply.json()["error"]) == (504, "upstream_connect_timeout")


# What is no request is logged too


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ", "head_timeout"),
        (b"nonsense\r\n\r\n", "bad_request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 40_000, "head_too_large"),
    ],
    ids=["unfinished", "nonsense", "too large"],
)
def test_an_invalid_request_is_logged_with_its_reason(sent: bytes, reason: str, impatient_sidecar: Sidecar) -> None:
    with RawClient(impatient_sidecar.port) as client:
        client.send(sent)
        assert client.reply().json()["error"] == reason
    lines = impatient_sidecar.lines
    eventually(lambda: [line for line in lines if line.get("error", line.get("subject")) == reason], "a log line")


# When file descriptors run out


def cpu_s(sidecar: Sidecar) -> float:
    fields = Path(f"/proc/{sidecar.pid}/stat").read_text("ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def test_without_file_descriptors_cpu_and_log_stay_quiet(store_server: StoreServer, recorder: Recorder) -> None:
    clients: list[socket.socket] = []
    with Sidecar(configuration(store_server.url, recorder.url)) as sidecar:
        assert get(sidecar.port).status == 200
        limits = resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(sidecar.pid, resource.RLIMIT_NOFILE, (80, limits[1]))
        lines, busy_s, since_s = len(sidecar.lines), cpu_s(sidecar), time.monotonic()
        for _ in range(300):
            client = socket.create_connection(("127.0.0.1", sidecar.port))
            client.settimeout(5)
            clients.append(client)
        turned_away = sum(is_closed(client) for client in clients[-100:])
        assert turned_away == 100
        time.sleep(0.3)
        took_s = time.monotonic() - since_s
        assert cpu_s(sidecar) - busy_s < 0.3 * took_s + 0.1
        assert len(sidecar.lines) - lines <= 1 + took_s
        for client in clients:
            client.close()
        eventually(lambda: answers(sidecar), "an answer once there are descriptors again")


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def answers(sidecar: Sidecar) -> bool:
    try:
        return get(sidecar.port).status == 200
    except (Broken, OSError):
        return False


def test_a_soft_limit_of_file_descriptors_is_raised_and_a_low_hard_one_logged(
    store_server: StoreServer, recorder: Recorder
) -> None:
    config = configuration(store_server.url, recorder.url, listen={"max_connections": 1000})
    limits: Mapping[str, Any] = {"soft": (200, 4096), "hard": (200, 200)}
    warnings = {}
    for name, (soft, hard) in limits.items():
        with Sidecar(config | {"admin": {"port": free_port()}}, file_limits=(soft, hard)) as sidecar:
            warnings[name] = sidecar.events("few_file_descriptors")
            assert get(sidecar.port).status == 200
    assert warnings["soft"] == []
    (line,) = warnings["hard"]
    assert (line["limit"], line["connections"]) == (136, 1256)
