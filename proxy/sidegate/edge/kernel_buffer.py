"""Reads the bytes that the kernel still holds for a connection that is about to be closed."""

import asyncio
import contextlib
import os
import socket

# An early answer is short; more than this is not worth holding.
MOST_ARRIVED_BYTES = 256 * 1024


def read_arrived(transport: asyncio.BaseTransport) -> bytes:
    """The bytes that have arrived and were not received yet. Call it within `connection_lost`, while the file
    descriptor is still the connection's own.
    """
    if transport.get_extra_info("ssl_object") is not None:
        return b""  # what the kernel holds is encrypted
    received = b""
    with (
        contextlib.suppress(OSError),
        socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as copy,
    ):
        copy.setblocking(False)
        while len(received) < MOST_ARRIVED_BYTES and (data := copy.recv(65536)):
            received += data
    return received
