"""WebSockets: limited at the handshake, forwarded as bytes, ended by the sidecar's stop or the idle timeout."""

import contextlib
import os
import struct
from collections.abc import Iterator

import pytest
from sidegate.edge.tunnel import Frames

from tests.raw_client import Broken, RawClient, Reply, get, request
from tests.recorder import Act, Recorder, Step, eventually
from tests.servers import StoreServer
from tests.sidecar import Sidecar, configuration, spent

MIB = 2**20
ASKING = (
    "Connection: keep-alive, Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
AGREED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
GOING_AWAY = struct.pack(">H", 1001)
CLOSE, PING = 8, 9


def frame(body: bytes, opcode: int = 2, mask: bytes = b"") -> bytes:
    """One whole frame (RFC 6455 §5.2)."""
    size = len(body)
    if size < 126:
        length, extended = size, b""
    elif size < 2**16:
        length, extended = 126, struct.pack(">H", size)
    else:
        length, extended = 127, struct.pack(">Q", size)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(body)) if mask else body
    return bytes([0x80 | opcode, (0x80 if mask else 0) | length]) + extended + mask + masked


def handshake(client: RawClient, target: str = "/ws", *fields: str) -> Reply:
    client.send(request(target, *ASKING, *fields))
    return client.reply()


@pytest.fixture(scope="module")
def shared_restless_sidecar(shared_store_server: StoreServer, shared_recorder: Recorder) -> Iterator[Sidecar]:
    listen = {"websocket_idle_timeout": "300ms"}
    with Sidecar(configuration(shared_store_server.url, shared_recorder.url, listen=listen)) as sidecar:
        yield sidecar


@pytest.fixture
def restless_sidecar(store_server: StoreServer, recorder: Recorder, shared_restless_sidecar: Sidecar) -> Sidecar:
    """A sidecar with a short idle timeout of WebSockets."""
    return shared_restless_sidecar


# The handshake


def test_the_answer_to_a_handshake_has_the_applications_and_the_rate_limit_fields(
    sidecar: Sidecar, recorder: Recorder, store_server: StoreServer
) -> None:
    recorder.answer(AGREED, Act.ECHO)
    with RawClient(sidecar.port) as client:
        reply = handshake(client)
        assert (reply.status, reply.value("Upgrade"), reply.value("Connection")) == (101, "websocket", "Upgrade")
        assert reply.value("Sec-WebSocket-Accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert reply.value("RateLimit").startswith('"roomy"')
        client.send(frame(b"hello", mask=b"abcd"))
        assert client.read(11) == frame(b"hello", mask=b"abcd")
    received = recorder.only()
    assert (received.value("upgrade"), received.value("connection")) == (b"websocket", b"Upgrade")
    assert received.value("sec-websocket-key") == b"dGhlIHNhbXBsZSBub25jZQ=="
    assert spent(store_server) == {"client_ip=127.0.0.1": 1}


def test_a_handshake_over_the_limit_is_refused_and_never_reaches_the_application(
    sidecar: Sidecar, recorder: Recorder
) -> None:
    user = "X-User-ID: socket"
    assert [get(sidecar.port, "/tight/ws", user).status for _ in range(2)] == [200, 200]
    with RawClient(sidecar.port) as client:
        assert handshake(client, "/tight/ws", user).status == 429
    assert len(recorder.requests) == 2


def test_a_handshake_that_the_application_refuses_leaves_http_as_it_was(
    sidecar: Sidecar, recorder: Recorder, store_server: StoreServer
) -> None:
    with RawClient(sidecar.port) as client:
        client.send(request("/ws", *ASKING) + request("/behind"))
        assert [client.reply().status, client.reply().status] == [200, 200]
        assert client.get("/later").status == 200
    assert [received.target for received in recorder.requests] == [b"/ws", b"/behind", b"/later"]
    assert spent(store_server) == {"client_ip=127.0.0.1": 3}


@pytest.mark.parametrize(
    "raw",
    [
        request("/ws", "Connection: Upgrade", "Upgrade: h2c"),
        request("/ws", "Connection: Upgrade", "Upgrade: websocket, h2c"),
        request("/ws", "Upgrade: websocket"),
        request("/ws", *ASKING, method="POST"),
        request("/ws", *ASKING, body=b"hello"),
        request("/ws", *ASKING).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["another protocol", "one of two", "not in Connection", "POST", "a body", "HTTP/1.0"],
)
def test_a_request_without_a_valid_handshake_gets_no_websocket(
    raw: bytes, sidecar: Sidecar, recorder: Recorder
) -> None:
    recorder.answer(AGREED, Act.SINK)
    with RawClient(sidecar.port) as client:
        client.send(raw)
        assert client.reply().status == 502  # a 101 that nobody asked for
    assert recorder.only().values("upgrade") == []


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    ],
    ids=["another protocol", "no protocol", "not in Connection"],
)
def test_an_upgrade_to_another_protocol_is_refused(answer: bytes, sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(answer, Act.SINK)
    with RawClient(sidecar.port) as client:
        assert handshake(client).status == 502
    eventually(lambda: not recorder.open, "the end of the upstream connection")


def test_an_early_hint_may_precede_the_upgrade(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + AGREED + frame(b"hi"), Act.ECHO)
    with RawClient(sidecar.port) as client:
        reply = handshake(client)
        assert (reply.status, [hint.status for hint in reply.interim]) == (101, [103])
        assert client.read(4) == frame(b"hi")


# Bytes


def test_bytes_behind_the_handshake_of_either_side_are_forwarded_first(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(AGREED + frame(b"from the application"), Act.ECHO)
    with RawClient(sidecar.port) as client:
        client.send(request("/ws", *ASKING) + frame(b"early", mask=b"abcd"))
        assert client.reply().status == 101
        assert client.read(22 + 11) == frame(b"from the application") + frame(b"early", mask=b"abcd")


@pytest.mark.parametrize(
    "sent",
    [
        frame(b"", PING, b"abcd") + frame(b"x" * 125, PING, b"abcd"),
        frame(b"x" * 70_000, mask=b"\x00\xff\x0d\x0a"),
        frame(GOING_AWAY + b"bye", CLOSE, b"abcd"),
        b"GET /smuggled HTTP/1.1\r\nHost: app.test\r\n\r\n",
        os.urandom(100_000),
    ],
    ids=["pings", "a large frame", "a close", "HTTP", "noise"],
)
def test_all_bytes_are_forwarded_unchanged_both_ways(sent: bytes, sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(AGREED, Act.ECHO)
    with RawClient(sidecar.port) as client:
        assert handshake(client).status == 101
        client.send(sent)
        assert client.read(len(sent)) == sent
    assert recorder.only().body == sent


@pytest.mark.parametrize("steps", [(Act.CLOSE,), (frame(b"last"), Act.CLOSE)], ids=["at once", "after words"])
def test_a_close_of_the_application_closes_the_client(
    steps: tuple[Step, ...], sidecar: Sidecar, recorder: Recorder
) -> None:
    recorder.answer(AGREED, *steps)
    with RawClient(sidecar.port) as client:
        assert handshake(client).status == 101
        assert client.rest() == b"".join(step for step in steps if isinstance(step, bytes))


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
def test_a_close_of_the_client_closes_the_application(reset: bool, sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(AGREED, Act.SINK)
    with RawClient(sidecar.port) as client:
        assert handshake(client).status == 101
        client.send(b"hello")
        eventually(lambda: recorder.only().body == b"hello", "the last words")
        if reset:
            client.reset()
    eventually(lambda: not recorder.open, "the end of the upstream connection")
    assert get(sidecar.port).status == 200


@pytest.mark.slow
def test_a_side_that_does_not_read_stops_the_other_from_writing(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(AGREED, Act.ECHO)
    before = sidecar.rss_bytes()
    sent = 0
    with RawClient(sidecar.port, receive_buffer_bytes=4096, patience_s=0.3) as client:
        assert handshake(client).status == 101
        with contextlib.suppress(TimeoutError):  # nobody takes so much
            for _ in range(128):
                client.send(bytes(MIB))
                sent += MIB
        assert sent < 64 * MIB
        assert sidecar.rss_bytes() - before < 16 * MIB


def test_websockets_are_counted_among_the_connections(sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.always(AGREED, Act.SINK)
    with RawClient(sidecar.port) as first, RawClient(sidecar.port) as second:
        assert (handshake(first).status, handshake(second).status) == (101, 101)
        text = get(sidecar.admin_port, "/metrics").body.decode().splitlines()
        assert "sidegate_websockets 2.0" in text
        assert "sidegate_upstream_connections 2.0" in text
    eventually(
        lambda: "sidegate_websockets 0.0" in get(sidecar.admin_port, "/metrics").body.decode().splitlines(),
        "the end of both",
    )


# The end


@pytest.mark.slow
def test_a_silent_websocket_is_closed_with_1001_on_both_sides(restless_sidecar: Sidecar, recorder: Recorder) -> None:
    recorder.answer(AGREED, Act.SINK)
    with RawClient(restless_sidecar.port) as client:
        assert handshake(client).status == 101
        assert client.rest() == frame(GOING_AWAY, CLOSE)
    assert recorder.only().body == frame(GOING_AWAY, CLOSE, bytes(4))


@pytest.mark.slow
def test_a_websocket_with_occasional_bytes_of_either_side_stays_open(
    restless_sidecar: Sidecar, recorder: Recorder
) -> None:
    pings: list[Step] = [frame(b"", PING), 0.05]
    recorder.answer(AGREED, *pings * 12, Act.ECHO)
    with RawClient(restless_sidecar.port) as client:
        assert handshake(client).status == 101
        assert client.read(24) == frame(b"", PING) * 12


def test_a_stop_sends_close_frames_to_both_sides_between_two_frames(
    store_server: StoreServer, recorder: Recorder
) -> None:
    whole = frame(b"x" * 10_000)
    recorder.answer(AGREED + whole[:5_000], Act.HOLD, whole[5_000:] + frame(b"too late"), Act.SINK)
    with (
        Sidecar(configuration(store_server.url, recorder.url)) as sidecar,
        RawClient(sidecar.port) as client,
    ):
        assert handshake(client).status == 101
        client.send(frame(b"mine", mask=b"abcd"))
        assert client.read(5_000) == whole[:5_000]
        sidecar.ask_to_stop()
        sidecar.wait_for_event("draining")
        recorder.release()
        assert client.rest() == whole[5_000:] + frame(GOING_AWAY, CLOSE)
        assert sidecar.wait() == 0
        assert sidecar.events("stopped")[0]["cut_off"] == 0
    eventually(lambda: not recorder.open, "the end of the upstream connection")
    assert recorder.only().body == frame(b"mine", mask=b"abcd") + frame(GOING_AWAY, CLOSE, bytes(4))


def test_a_client_that_answers_the_close_frame_ends_the_websocket_at_once(
    store_server: StoreServer, recorder: Recorder
) -> None:
    recorder.answer(AGREED, Act.SINK)
    with (
        Sidecar(configuration(store_server.url, recorder.url)) as sidecar,
        RawClient(sidecar.port) as client,
    ):
        assert handshake(client).status == 101
        sidecar.ask_to_stop()
        assert client.read(4) == frame(GOING_AWAY, CLOSE)
        client.send(frame(GOING_AWAY, CLOSE, b"abcd"))
        client.finish_sending()
        with pytest.raises(Broken):
            client.read(1)
        assert sidecar.wait() == 0


# Where frames end


FRAMES = frame(b"") + frame(b"a" * 125, mask=b"abcd") + frame(b"b" * 126) + frame(b"c" * 70_000, mask=b"abcd")
ENDS = {2, 2 + 131, 2 + 131 + 130, len(FRAMES)}


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1000, len(FRAMES)])
def test_the_ends_of_frames_are_found_however_they_are_cut(piece: int) -> None:
    frames, found = Frames(), {0}
    for at in range(0, len(FRAMES), piece):
        data = FRAMES[at : at + piece]
        assert frames.feed(data) == len(data)
        if frames.between:
            found.add(at + len(data))
    cuts = {min(at + piece, len(FRAMES)) for at in range(0, len(FRAMES), piece)}
    assert found - {0} == ENDS & cuts


@pytest.mark.parametrize("cut", [1, 2, 3, 50, 130])
def test_the_frame_begun_is_followed_to_its_end_and_no_further(cut: int) -> None:
    frames = Frames()
    begun, behind = frame(b"a" * 125, mask=b"abcd"), frame(b"behind")
    assert frames.feed(begun[:cut]) == cut
    assert not frames.between
    assert frames.feed(begun[cut:] + behind, only_this_frame=True) == len(begun) - cut
    assert frames.between
