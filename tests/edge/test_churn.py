"""Clients and applications that connect and disconnect: no answer reaches another client, no request is sent twice, no state
is left behind."""

import asyncio
import os
import random
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest

from tests.raw_client import RawClient, get, request
from tests.recorder import Act, Recorder, eventually
from tests.servers import StoreServer
from tests.sidecar import Sidecar, spent

# hostile.md asks for 10,000 of each; a tenth finds what it finds at once.
MANY = 10_000 if os.environ.get("SIDEGATE_TEST_FULL") else 1_000
AT_ONCE = 100


def gauge(sidecar: Sidecar, name: str) -> float:
    lines = get(sidecar.admin_port, "/metrics").body.decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"sidegate_{name} "))


def open_files(sidecar: Sidecar) -> int:
    return len(list(Path(f"/proc/{sidecar.pid}/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_aborting_clients_do_not_affect_others_and_leave_no_state(
    sidecar: Sidecar, recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.always(0.005, Act.TARGET)
    assert get(sidecar.port, "/before").body == b"/before"
    connections = store_server.client.info("stats")["total_connections_received"]
    files, chance = open_files(sidecar), random.Random(14)

    async def abort(turns: asyncio.Semaphore, number: int, after_s: float) -> None:
        async with turns:
            _, writer = await asyncio.open_connection("127.0.0.1", sidecar.port)
            writer.write(request(f"/gone/{number}", "X-User-ID: gone"))
            await asyncio.sleep(after_s)
            linger_none = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)
            writer.transport.abort()

    async def abort_all() -> None:
        turns = asyncio.Semaphore(AT_ONCE)
        await asyncio.gather(*(abort(turns, number, chance.uniform(0.001, 0.02)) for number in range(MANY)))

    def stay(number: int) -> list[bytes]:
        with RawClient(sidecar.port) as client:
            return [client.get(f"/stays/{number}/{turn}", "X-User-ID: stays").body for turn in range(20)]

    with ThreadPoolExecutor(5) as threads:
        staying = [threads.submit(stay, number) for number in range(5)]
        asyncio.run(abort_all())
        for number, answers in enumerate(staying):
            assert answers.result() == [f"/stays/{number}/{turn}".encode() for turn in range(20)]

    eventually(lambda: gauge(sidecar, "client_connections") == 0, "the end of all connections")
    assert (gauge(sidecar, "upstream_waiting"), gauge(sidecar, "store_undecided")) == (0, 0)
    assert store_server.client.info("stats")["total_connections_received"] - connections <= 1
    charged = spent(store_server)
    assert charged["stays"] == 100
    assert charged.get("gone", 0) <= MANY
    recorder.close_all()
    eventually(lambda: open_files(sidecar) <= files, "the end of all that was opened")


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_is_sent_once_to_an_application_that_closes_connections_at_random(
    method: str, sidecar: Sidecar, recorder: Recorder
) -> None:
    chance = random.Random(17)
    for _ in range(2 * MANY):  # a third of all answers end their connection: after three requests on average
        recorder.answer(Act.TARGET, *([Act.CLOSE] if chance.random() < 0.33 else []))
    body = b"hello" if method == "POST" else None

    def ask(number: int) -> list[int]:
        with RawClient(sidecar.port) as client:
            targets = [f"/{number}/{turn}" for turn in range(MANY // 10)]
            replies = [client.get(target, method=method, body=body) for target in targets]
        assert all(
            reply.body == target.encode() for reply, target in zip(replies, targets, strict=True) if reply.status == 200
        )
        return [reply.status for reply in replies]

    with ThreadPoolExecutor(10) as threads:
        statuses = list(chain.from_iterable(threads.map(ask, range(10))))
    targets = [received.target for received in recorder.requests]
    if method == "GET":
        assert set(statuses) == {200}
    else:
        assert len(targets) == len(set(targets))
        # A connection may be closed between the last look at it and the first byte on it: then nobody can tell.
        assert statuses.count(200) > 0.5 * MANY
        assert set(statuses) <= {200, 502}
