"""Opens one connection to the application, and translates its errors."""

import asyncio
import errno
import ssl
from collections.abc import Callable

from sidegate.config import UpstreamSettings
from sidegate.edge.upstream import UpstreamConnection
from sidegate.edge.upstream_errors import Busy, ConnectFailed, ConnectRefused, ConnectTimedOut

# Nobody listens, as while an application restarts.
_REFUSED = frozenset({errno.ECONNREFUSED, errno.ENOENT})


async def dial(
    settings: UpstreamSettings, new_connection: Callable[[], UpstreamConnection], tls: ssl.SSLContext | None
) -> UpstreamConnection:
    """A new connection. Raises ConnectRefused, ConnectTimedOut or ConnectFailed; Busy where no descriptor is left."""
    url = settings.url
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            if url.socket:
                _, connection = await loop.create_unix_connection(new_connection, url.socket)
            else:
                _, connection = await loop.create_connection(
                    new_connection, url.host, url.port, ssl=tls, server_hostname=url.host.rstrip(".") if tls else None
                )
    except TimeoutError as error:
        raise ConnectTimedOut(f"{url.place} did not accept a connection in time") from error
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):  # our own lack of file descriptors is not the application's
            raise Busy("no file descriptor is left for a connection to the application") from error
        failed = ConnectRefused if error.errno in _REFUSED else ConnectFailed
        raise failed(f"{url.place}: {error.strerror or error}") from error
    connection.tls = tls
    return connection
