"""A new connection before HTTP: the PROXY header of a load balancer, then the handshake of TLS, as configured.

    HEADER ── a whole header ──► HANDSHAKE ── done ──► the client's connection (edge/client)
       │                             └── failed ──► closed
       ├── without TLS ─────────────────────────────► the client's connection
       └── no header, or not in time ──► 400 or 408; with TLS, where nothing can be answered, closed

Only peers of the networks of `listen.proxy_protocol` may send a header, and they must: the header decides whose address
is limited. It comes in plain text, and what begins TLS may come in the same segment: those bytes are given to TLS
first, by the calls with which the event loop gives it all others (asyncio.BufferedProtocol).

An arriving connection counts in `listen.max_connections`, and ends after `listen.header_timeout` in either state. Where
the sidecar is full it ends at once with TLS, since a handshake would cost more than the answer is worth.
"""

import asyncio
import logging
import ssl
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

from sidegate.decision.identity import UNIX_PEER, Network
from sidegate.edge.client import IDLE_GRACE_S, ClientConnection
from sidegate.edge.client_socket import peer_address, plain_address
from sidegate.edge.deadline import Deadline
from sidegate.edge.failures import BadMessage, Failure
from sidegate.edge.pending_request import record_no_request
from sidegate.edge.proxy_header import proxy_header
from sidegate.edge.runtime import Listener, Runtime

logger = logging.getLogger(__name__)


class Arrival(asyncio.Protocol):
    """See the module's text. `state` and `tunnel` are those of a connection without a request."""

    state = tunnel = None
    transport: Any  # uvloop's is no subclass of asyncio's
    _shaking_hands = False

    def __init__(
        self, runtime: Runtime, listener: Listener, tls: ssl.SSLContext | None, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._runtime = runtime
        self._listener = listener
        self._tls = tls
        self._loop = loop
        self._deadline = Deadline(loop, self._timed_out)
        self._held = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if not self._listener.admit(self):
            self._refuse(Failure.TOO_MANY_CONNECTIONS)
        elif _is_in(peer_address(transport), self._runtime.started.proxy_protocol):
            self._deadline.set(self._runtime.started.header_timeout_s)
        else:
            self._go_on("", b"")

    def connection_lost(self, _: BaseException | None) -> None:
        self._leave()

    def drain_and_close(self) -> None:
        """Close unless a request comes soon."""
        self._deadline.set(IDLE_GRACE_S)

    def break_off(self) -> None:
        """End the connection at once."""
        self._leave()
        self.transport.abort()

    # The header

    def data_received(self, data: bytes) -> None:
        held = self._held = self._held + data
        if self._shaking_hands:  # not begun yet: what has come by then is given to it
            return
        try:
            header = proxy_header(held)
        except BadMessage:
            self._refuse(Failure.BAD_REQUEST)
            return
        if header is not None:
            self._go_on(header.source, held[header.length :])

    def _timed_out(self) -> None:
        if self._listener.draining:
            self.break_off()
        else:
            self._refuse(Failure.HEAD_TIMEOUT)

    def _refuse(self, failure: Failure) -> None:
        """End the connection; with an answer where that can be given without TLS."""
        if self._tls is not None:
            record_no_request(self._runtime, peer_address(self.transport), failure)
            self.break_off()
        else:
            connection = self._hand_over(self.transport, "")
            if failure is not Failure.TOO_MANY_CONNECTIONS:  # which it has found out again
                connection.refuse(failure)

    # What follows it

    def _go_on(self, source: str, rest: bytes) -> None:
        """Speak HTTP, within TLS if configured; `rest` has come behind the header."""
        self._held = rest
        if self._tls is not None:
            self._shaking_hands = True
            self.transport.pause_reading()
            _ = self._runtime.spawn(self._shake_hands(self._tls, source))
            return
        connection = self._hand_over(self.transport, source)
        if rest:
            connection.data_received(rest)

    async def _shake_hands(self, tls: ssl.SSLContext, source: str) -> None:
        if self.transport.is_closing():
            self._handshake_failed(ConnectionResetError())
            return
        self.transport.pause_reading()  # again: within `connection_made` uvloop does not
        if not self._listener.draining:
            self._deadline.clear()  # TLS has one
        _ = self._runtime.spawn(self._speak_tls(tls, source))
        # Its first step sets the protocol of TLS, and queues the beginning of TLS and the end of the pause, in this
        # order. What is to come before any byte that is read later has to be queued directly behind these two.
        await asyncio.sleep(0)
        _ = self._loop.call_soon(self._feed)

    async def _speak_tls(self, tls: ssl.SSLContext, source: str) -> None:
        within_s = self._runtime.started.header_timeout_s
        try:
            transport: Any = await self._loop.start_tls(
                self.transport, self, tls, server_side=True, ssl_handshake_timeout=within_s
            )
        except OSError as error:
            self._handshake_failed(error)
            return
        except BaseException:  # the event loop's, or the sidecar's end: the connection is not to be counted for good
            self.break_off()
            raise
        # Without another await: what the client sent behind the handshake is received next.
        if transport is None or transport.is_closing():
            self._leave()
        else:
            _ = self._hand_over(transport, source)

    def _handshake_failed(self, error: OSError) -> None:
        reason = self._runtime.failed_handshakes.note(error)
        logger.debug("a TLS handshake failed (%s): %s", reason, error)
        self.break_off()

    def _feed(self) -> None:
        """Give TLS what came behind the header."""
        rest, self._held = self._held, b""
        if rest and not self.transport.is_closing():
            protocol = self.transport.get_protocol()
            protocol.get_buffer(len(rest))[: len(rest)] = rest
            protocol.buffer_updated(len(rest))

    def _hand_over(self, transport: Any, source: str) -> ClientConnection:
        """Let the client's connection have the transport; its peer is `source`, or the transport's if that is empty."""
        self._leave()
        connection = ClientConnection(self._runtime, self._listener, self._loop)
        transport.set_protocol(connection)
        connection.connection_made(transport)
        if source:
            connection.socket.peer = plain_address(source)
        if self._listener.draining:
            connection.drain_and_close()
        return connection

    def _leave(self) -> None:
        self._deadline.close()
        self._listener.forget(self)


def _is_in(peer: str, networks: Sequence[Network]) -> bool:
    if not networks:
        return False
    address = ip_address("127.0.0.1" if peer == UNIX_PEER else peer.partition("%")[0])
    return any(address in network for network in networks)
