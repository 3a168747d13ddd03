"""The redis-py client of the admin API, for every kind of store."""

import pytest
from sidegate.config import StoreSettings
from sidegate.store.redis.inspect_client import client

from tests.servers import StoreServer


@pytest.mark.parametrize("kind", ["tcp", "socket"])
async def test_a_client_scans_reads_and_deletes(store_server: StoreServer, kind: str) -> None:
    url = f"{store_server.url}/4" if kind == "tcp" else f"unix://{store_server.socket_path}?db=4"
    settings = StoreSettings.model_validate({"url": url, "username": "sidegate", "password": "sidegate"})
    found = client(settings)
    try:
        await found.execute_command("HSET", "example:p:k", "tokens", 3)
        assert [key async for key in found.scan_iter(match="example:*")] == [b"example:p:k"]
        assert await found.hmget("example:p:k", ["tokens", "since"]) == [b"3", None]
        assert await found.delete("example:p:k") == 1
    finally:
        await found.aclose()
    assert store_server.client.dbsize() == 0
