"""A new connection where `listen.proxy_protocol` is set: reads the PROXY header of a load balancer, then HTTP.

Only peers of the named networks may send a header, and they must: the header decides whose address is limited.
"""

import asyncio
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

from sidegate.decision.identity import UNIX_PEER, Network
from sidegate.edge.client import ClientConnection
from sidegate.edge.client_socket import plain_address
from sidegate.edge.deadline import Deadline
from sidegate.edge.failures import BadMessage, Failure
from sidegate.edge.proxy_header import proxy_header


class ProxiedConnection(asyncio.Protocol):
    """See the module's text. `new_connection` makes the protocol that takes the transport over."""

    transport: Any  # uvloop's is no subclass of asyncio's

    def __init__(
        self,
        new_connection: Callable[[], ClientConnection],
        networks: Sequence[Network],
        timeout_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._new_connection = new_connection
        self._networks = networks
        self._timeout_s = timeout_s
        self._deadline = Deadline(loop, self._timed_out)
        self._held = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.get_extra_info("peername")
        if _is_in(plain_address(peer[0]) if isinstance(peer, tuple) else UNIX_PEER, self._networks):
            self._deadline.set(self._timeout_s)
        else:
            _ = self._hand_over("")

    def connection_lost(self, _: BaseException | None) -> None:
        self._deadline.close()

    def data_received(self, data: bytes) -> None:
        held = self._held = self._held + data
        try:
            header = proxy_header(held)
        except BadMessage:
            self._hand_over("").refuse(Failure.BAD_REQUEST)
            return
        if header is not None:
            connection = self._hand_over(header.source)
            if held[header.length :]:
                connection.data_received(held[header.length :])

    def _timed_out(self) -> None:
        self._hand_over("").refuse(Failure.HEAD_TIMEOUT)

    def _hand_over(self, source: str) -> ClientConnection:
        self._deadline.close()
        connection = self._new_connection()
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        if source:
            connection.socket.peer = plain_address(source)
        return connection


def _is_in(peer: str, networks: Sequence[Network]) -> bool:
    address = ip_address("127.0.0.1" if peer == UNIX_PEER else peer.partition("%")[0])
    return any(address in network for network in networks)
