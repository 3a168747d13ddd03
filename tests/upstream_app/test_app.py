"""The demonstration application, over TCP connections."""

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request
from multidict import CIMultiDict

from upstream_app.app import ECHO_MAX_BYTES, PIECE, make_app

ROOT = Path(__file__).parents[2]
Client = TestClient[Request, Application]


@pytest.fixture
async def client(aiohttp_client: Callable[[Application], Awaitable[Client]]) -> Client:
    return await aiohttp_client(make_app("app1"))


async def test_data_names_the_application_the_user_and_the_request(client: Client) -> None:
    answer = await client.get("/api/data", headers={"X-User-ID": "alice", "X-Request-ID": "r1"})
    assert answer.status == 200
    said = await answer.json()
    assert (said["app"], said["user"], said["request_id"]) == ("app1", "alice", "r1")


async def test_data_has_a_new_request_id_and_no_user_without_the_fields(client: Client) -> None:
    first, second = [await (await client.get("/api/data")).json() for _ in range(2)]
    assert first["user"] is None
    assert first["request_id"] != second["request_id"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PROPFIND"])
async def test_any_other_request_is_echoed_as_received(client: Client, method: str) -> None:
    fields = CIMultiDict([("X-Twice", "1"), ("X-Twice", "2")])
    answer = await client.request(method, "/any/path?q=a&q=b", headers=fields, data=b"12345")
    said = await answer.json()
    assert (said["method"], said["path"], said["body_bytes"]) == (method, "/any/path?q=a&q=b", 5)
    assert [value for name, value in said["headers"] if name == "X-Twice"] == ["1", "2"]


async def test_another_method_on_the_data_endpoint_is_echoed(client: Client) -> None:
    assert (await (await client.put("/api/data")).json())["method"] == "PUT"


async def test_an_echo_of_a_large_body_is_refused(client: Client) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(ECHO_MAX_BYTES // len(PIECE) + 1):
            yield PIECE

    try:
        status = (await client.post("/echo", data=body())).status
    except aiohttp.ClientOSError:  # the connection may be gone before all was written
        status = 413
    assert status == 413


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("length", [0, 1, len(PIECE), len(PIECE) * 2 + 3])
async def test_a_stream_has_the_requested_length(client: Client, length: int, chunked: bool) -> None:
    answer = await client.get(f"/api/stream?bytes={length}&chunked={int(chunked)}")
    assert ("Content-Length" in answer.headers) != chunked
    assert await answer.read() == (PIECE * 3)[:length]


async def test_head_of_a_stream_has_no_body(client: Client) -> None:
    answer = await client.head("/api/stream?bytes=5")
    assert (answer.headers["Content-Length"], await answer.read()) == ("5", b"")


async def test_an_upload_of_any_length_is_counted_and_hashed(client: Client) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield PIECE

    said = await (await client.post("/api/upload", data=body())).json()
    assert (said["bytes"], said["sha256"]) == (len(PIECE) * 3, hashlib.sha256(PIECE * 3).hexdigest())


async def test_a_slow_answer_arrives_after_its_delay(client: Client) -> None:
    assert (await client.get("/api/slow?seconds=0.01")).status == 200


@pytest.mark.parametrize(
    "target",
    ["/api/slow?seconds=31", "/api/slow?seconds=soon", "/api/slow?seconds=nan", "/api/stream?bytes=2147483649"],
)
async def test_numbers_out_of_bounds_are_refused(client: Client, target: str) -> None:
    answer = await client.get(target)
    assert answer.status == 400
    assert "expected a number from 0 to" in await answer.text()


async def test_healthz_answers(aiohttp_server: Callable[[Application], Awaitable[TestServer]]) -> None:
    server = await aiohttp_server(make_app("app2"))
    async with aiohttp.ClientSession() as session, session.get(server.make_url("/healthz")) as answer:
        assert await answer.json() == {"status": "ok", "app": "app2"}


# -- as a process -----------------------------------------------------------------------------------------------------


async def process(port: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    environment = os.environ | {"PORT": port, "HOST": "127.0.0.1", "NAME": "app3"}
    return await asyncio.create_subprocess_exec(
        sys.executable, "upstream_app/app.py", cwd=ROOT, env=environment, stdout=pipe, stderr=pipe
    )


@pytest.mark.slow
async def test_a_request_in_flight_is_answered_after_sigterm(unused_tcp_port: int) -> None:
    app = await process(str(unused_tcp_port))
    assert app.stdout is not None
    assert f"http://127.0.0.1:{unused_tcp_port}".encode() in await app.stdout.readline()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{unused_tcp_port}") as session:
        async with session.get("/api/stream?bytes=20000000") as answer:  # more than the buffers between us hold
            app.send_signal(signal.SIGTERM)
            body = await answer.read()
        assert len(body) == 20_000_000
    _, err = await app.communicate()
    assert (app.returncode, err) == (0, b"")


@pytest.mark.slow
@pytest.mark.parametrize("port", ["0", "65536", "http", "²"])
async def test_an_invalid_port_ends_the_start(port: str) -> None:
    app = await process(port)
    _, err = await app.communicate()
    assert app.returncode == 2
    assert b"PORT: expected 1 to 65535" in err
