"""One listener: accepts and registers client connections, and drains them at the end."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator

from sidegate.config.tls_settings import CurrentTls, no_tls
from sidegate.decision.reading import Reading
from sidegate.edge.arrival import Arrival
from sidegate.edge.client import ClientConnection, ClientState
from sidegate.edge.file_limit import raise_file_limit
from sidegate.edge.listening import BACKLOG, inode_of, listening_sockets, remove_socket
from sidegate.edge.runtime import Runtime

logger = logging.getLogger(__name__)


class Server:
    """All client connections of one listener. Fulfils `runtime.Listener`."""

    def __init__(self, runtime: Runtime, tls: CurrentTls = no_tls) -> None:
        self.settings = runtime.started
        self.runtime = runtime
        self._tls = tls
        self.draining = False
        self.connections: set[ClientConnection | Arrival] = set()
        self._lingering: dict[ClientConnection | Arrival, None] = {}  # the longest first
        self._loop = asyncio.get_running_loop()
        self._listeners: list[asyncio.Server] = []
        self._inode = 0  # of the Unix socket
        self._empty = asyncio.Event()

    async def listen(self, *, shared: bool = False) -> int:
        """Accept connections, on a port of its own or one shared with other workers; returns the port.

        It is 0 for a Unix socket. Raises OSError where the address cannot be had.
        """
        wanted = self.settings.max_connections + self.runtime.live.upstream.max_connections
        if (most := raise_file_limit(wanted)) < wanted:
            # Beyond it, libuv accepts and closes what comes: nothing spins, but clients get no answer.
            logger.warning("few_file_descriptors", extra={"fields": {"limit": most, "connections": wanted}})
        for each in listening_sockets(self.settings, shared=shared):
            create = self._loop.create_unix_server if self.settings.socket else self._loop.create_server
            self._listeners.append(await create(self._new_protocol, sock=each, backlog=BACKLOG))
        self._inode = inode_of(self.settings.socket)
        name = self._listeners[0].sockets[0].getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    def _new_protocol(self) -> asyncio.Protocol:
        tls = self._tls()
        if tls is None and not self.settings.proxy_protocol:
            return ClientConnection(self.runtime, self, self._loop)
        return Arrival(self.runtime, self, tls, self._loop)

    async def drain(self) -> int:
        """Accept nothing new, let the requests under way finish, then end. Returns how many had to be cut off."""
        self.draining = True
        remove_socket(self.settings.socket, self._inode)
        for listener in self._listeners:
            for accepted in _close_listener(listener):
                await self._loop.connect_accepted_socket(self._new_protocol, accepted)
        for connection in list(self.connections):
            connection.drain_and_close()
        try:
            async with asyncio.timeout(self.settings.drain_timeout_s):
                while self.connections:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            pass
        cut_off = list(self.connections)
        for connection in cut_off:
            connection.break_off()
        return len(cut_off)

    @property
    def in_flight(self) -> int:
        """How many requests are being answered. Counted when asked, which no request pays for."""
        return sum(connection.state is ClientState.REQUEST for connection in self.connections)

    @property
    def tunnels(self) -> int:
        """How many of the connections are WebSockets by now."""
        return sum(connection.tunnel is not None for connection in self.connections)

    def readings(self) -> Iterator[Reading]:
        """Gauges of the client side."""
        yield Reading("websockets", "Open WebSockets, each also a connection of either side.", lambda: self.tunnels)
        yield Reading("client_connections", "Open client connections.", lambda: len(self.connections))
        yield Reading("requests_in_flight", "Requests being answered.", lambda: self.in_flight)
        yield Reading("draining", "Whether the sidecar is stopping.", lambda: self.draining)

    def admit(self, connection: ClientConnection | Arrival) -> bool:
        """Register a new connection; where there are as many as there may be, one that lingers makes room.

        False where there is no room.
        """
        full = len(self.connections) >= self.settings.max_connections
        if full and self._lingering:
            oldest = next(iter(self._lingering))
            self.forget(oldest)
            oldest.break_off()
            full = False
        self.connections.add(connection)
        return not full

    def lingers(self, connection: ClientConnection) -> None:
        """See runtime.Listener."""
        self._lingering[connection] = None

    def forget(self, connection: ClientConnection | Arrival) -> None:
        """See runtime.Listener."""
        self.connections.discard(connection)
        self._lingering.pop(connection, None)
        if not self.connections:
            self._empty.set()


def _close_listener(listener: asyncio.Server) -> list[socket.socket]:
    """Stop listening; returns connections that the kernel has established and that were not accepted yet.

    Their clients may have sent requests already: closing the listener alone resets them. What is left to chance are the
    microseconds between the last look into the kernel's queue and the end of the socket.
    """
    accepted: list[socket.socket] = []
    copies = [socket.socket(fileno=os.dup(each.fileno())) for each in listener.sockets]
    listener.close()
    for copy in copies:
        copy.setblocking(False)
        with copy, contextlib.suppress(OSError):  # BlockingIOError: there are no more
            while True:
                accepted.append(copy.accept()[0])
    return accepted
