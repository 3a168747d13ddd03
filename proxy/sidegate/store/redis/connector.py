"""Opens connections with redis-py: TLS, credentials, database, and the present master behind Sentinels."""

import re
from collections.abc import Callable
from ssl import create_default_context
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from sidegate.config import CREDENTIALS, StoreSettings
from sidegate.config.store_url import Address, StoreKind
from sidegate.store.protocol import StoreUnavailable
from sidegate.store.redis.connection import MultiplexedConnection
from sidegate.store.redis.handshake import heed_cancellation, open_connection
from sidegate.store.redis.switches import watch_switches

_CLIENT = re.compile(r"<redis\.asyncio\.client\.Redis\(.*?,host=([^,]*),port=([0-9]*),.*?\)>\)>\)> - ")
# The wait for one Sentinel before the next one is queried.
SENTINEL_TIMEOUT_S = 0.2


class StoreTlsConnection(SSLConnection):
    """Verifies the server by `store.ca_file` alone, as the file is now.

    redis-py trusts the system's authorities too, and keeps what it has read for all connections of a client.
    """

    def _connection_arguments(self) -> Any:
        context = create_default_context(cafile=self.ca_certs)
        if self.certfile:
            context.load_cert_chain(self.certfile, self.keyfile)
        self.ssl_context.context = context
        return super()._connection_arguments()


class Connector:
    """Opens connections to the store with the settings in force."""

    def __init__(self, settings: StoreSettings, timeout_s: float) -> None:
        self.settings = settings
        self.timeout_s = timeout_s
        # The master of the last connection.
        self.connected_to: Address | None = None
        self._sentinels: Sentinel | None = None
        self._sentinels_of = settings

    def use(self, settings: StoreSettings) -> bool:
        """Open the next connections with these credentials; returns whether they have changed."""
        before, self.settings = self.settings, settings.model_copy(update={"url": self.settings.url})
        return any(getattr(before, name) != getattr(settings, name) for name in CREDENTIALS)

    async def close(self) -> None:
        """Close the connections to the Sentinels."""
        sentinels, self._sentinels = self._sentinels, None
        if sentinels is not None:
            await sentinels.aclose()

    async def open(self) -> MultiplexedConnection:
        """A connection to the server, or to the Sentinels' master. Raises StoreUnavailable."""
        url = self.settings.url
        if url.kind is StoreKind.SOCKET:
            return await self._open({"connection_class": UnixDomainSocketConnection, "path": url.path})
        self.connected_to = await self.master() if url.kind is StoreKind.SENTINEL else url.addresses[0]
        return await self.open_at(self.connected_to)

    async def open_at(self, address: Address, *, any_role: bool = False) -> MultiplexedConnection:
        """A connection to one server; it must be a master unless `any_role`. Raises StoreUnavailable."""
        options = {**transport(self.settings), "host": address.host, "port": address.port}
        return await self._open(options, any_role=any_role)

    async def master(self) -> Address:
        """The master's address according to the Sentinels. Raises StoreUnavailable."""
        if self._sentinels is None or self._sentinels_of is not self.settings:
            await self.close()
            self._sentinels, self._sentinels_of = sentinel(self.settings), self.settings
        service = self.settings.url.service
        try:
            host, port = await self._sentinels.discover_master(service)
        except Exception as error:  # redis-py raises more than its own exceptions
            heed_cancellation()
            faults = sentinel_faults(str(error))
            raise StoreUnavailable("no_master", f"no Sentinel names a master of {service}{faults}") from error
        heed_cancellation()
        return Address(host, port)

    async def watch_switches(self, on_switch: Callable[[], None]) -> None:
        """Call `on_switch` whenever a Sentinel announces a new master. Runs until cancelled."""

        def open_sentinel(number: int) -> Redis:
            found: Redis = sentinel(self.settings).sentinels[number]
            return found

        url = self.settings.url
        await watch_switches(open_sentinel, len(url.addresses), url.service, on_switch)

    async def _open(self, options: dict[str, Any], *, any_role: bool = False) -> MultiplexedConnection:
        options = {**options, **credentials(self.settings), "db": self.settings.url.db}
        pool = ConnectionPool(protocol=2, retry=None, driver_info=None, **options)
        return await open_connection(pool, self.timeout_s, any_role=any_role)


def sentinel(settings: StoreSettings) -> Sentinel:
    """The Sentinels of a store, queried one after the other. They have their own credentials."""
    options: dict[str, Any] = {
        "socket_timeout": SENTINEL_TIMEOUT_S,
        "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "username": settings.sentinel_username or None,
        "password": settings.sentinel_password.get_secret_value() or None,
    }
    untyped: Any = Sentinel
    found: Sentinel = untyped(settings.url.addresses, sentinel_kwargs={**options, **ssl(settings)})
    if settings.url.tls:
        for each in found.sentinels:
            each.connection_pool.connection_class = StoreTlsConnection
    return found


def sentinel_faults(text: str) -> str:
    """The errors in the text of redis-py's MasterNotFoundError, without the representations of its clients."""
    faults = text.partition(" : ")[2] if text.startswith("No master found") else text
    shown = _CLIENT.sub(r"\1:\2: ", faults)
    return f": {shown}" if shown else ""


def credentials(settings: StoreSettings) -> dict[str, str]:
    """User name and password as arguments for redis-py; absent where there are none."""
    username, password = settings.credentials
    return {name: text for name, text in (("username", username), ("password", password)) if text}


def transport(settings: StoreSettings) -> dict[str, Any]:
    """TCP or TLS, as arguments for a connection pool of redis-py."""
    if not settings.url.tls:
        return {"connection_class": Connection}
    return {"connection_class": StoreTlsConnection, **_certificates(settings)}


def ssl(settings: StoreSettings) -> dict[str, Any]:
    """TCP or TLS, as arguments for a client of redis-py."""
    return {"ssl": True, **_certificates(settings)} if settings.url.tls else {}


def _certificates(settings: StoreSettings) -> dict[str, Any]:
    return {
        "ssl_ca_certs": settings.ca_file,
        "ssl_certfile": settings.cert_file,
        "ssl_keyfile": settings.key_file,
    }
