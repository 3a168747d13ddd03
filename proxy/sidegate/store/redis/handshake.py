"""Opens a connection with redis-py, and makes sure that its server is a master."""

import asyncio
from typing import Any, cast

from redis.asyncio.connection import ConnectionPool
from redis.exceptions import AuthenticationError, BusyLoadingError, InvalidResponse, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from sidegate.store.protocol import StoreUnavailable
from sidegate.store.redis.connection import MultiplexedConnection

# Opening may take a TLS handshake and several round trips; no request waits for it.
OPENING_TIMEOUT_S = 1.0


async def open_connection(pool: ConnectionPool, timeout_s: float, *, any_role: bool = False) -> MultiplexedConnection:
    """Open a connection with redis-py and take over its transport. Raises StoreUnavailable.

    Raises it for a replica too, unless `any_role`.
    """
    try:
        return await _open(pool, timeout_s, any_role=any_role)
    except _RoleUnknown:
        return await _open(pool, timeout_s, any_role=True)


def heed_cancellation() -> None:
    """Raise CancelledError if the present task is to end: redis-py's handshake may have swallowed that."""
    if (task := asyncio.current_task()) is not None and task.cancelling():
        raise asyncio.CancelledError


class _RoleUnknown(Exception):
    """The connection was closed upon ROLE, as some proxies do for commands that they do not know."""


async def _open(pool: ConnectionPool, timeout_s: float, *, any_role: bool) -> MultiplexedConnection:
    link = cast(Any, pool).make_connection()  # untyped in redis-py
    try:
        async with asyncio.timeout(OPENING_TIMEOUT_S):
            await link.connect()
            # An older server accepts wrong credentials and refuses the next command: one PING shows it.
            await link.send_command("PING")
            await link.read_response()
            if not any_role:
                await _require_master(link)
        heed_cancellation()
    except BaseException as error:  # redis-py raises more than its own exceptions while a server comes and goes
        await link.disconnect(nowait=True)
        heed_cancellation()
        if isinstance(error, StoreUnavailable | _RoleUnknown):
            raise
        if isinstance(error, TimeoutError):
            raise StoreUnavailable("timeout", f"no connection within {OPENING_TIMEOUT_S:g} s") from error
        if isinstance(error, Exception):
            raise StoreUnavailable(_reason_of(error), str(error)) from error
        raise
    return MultiplexedConnection.adopting(link, timeout_s)


async def _require_master(link: Any) -> None:
    """Raise StoreUnavailable for a replica, which accepts no charges, and for a Sentinel.

    ROLE is optional: with any error reply the role is unknown, and the first charge shows what the server is.
    """
    try:
        await link.send_command("ROLE")
        role = await link.read_response()
    except AuthenticationError:
        raise
    except ResponseError:
        return
    except RedisConnectionError as error:
        raise _RoleUnknown from error
    name = role[0] if isinstance(role, list) and role else b"master"
    if name == b"sentinel":
        text = "the server is a Sentinel, not a store: the URL is redis+sentinel://HOST:PORT/SERVICE"
        raise StoreUnavailable("wrong_role", text)
    if name != b"master":
        raise StoreUnavailable("readonly", "the server is a replica")


def _reason_of(error: Exception) -> str:
    """Why a connection could not be opened, as one word."""
    if isinstance(error, AuthenticationError):
        return "noauth" if "required" in str(error) else "wrongpass"
    if isinstance(error, BusyLoadingError):
        return "loading"
    if isinstance(error, InvalidResponse):
        return "protocol"
    return "connect"
