"""Passwords and certificates between sidecar and store, and their change at run time."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from sidegate.config import StoreSettings
from sidegate.decision.verdict import Answer

from tests.conftest import StartStore
from tests.servers import StoreServer
from tests.store.sidecar import PATIENCE_S, Sidecar, asking, hourly, sidecar

ROOMY = hourly(1_000_000)


@contextlib.asynccontextmanager
async def tls_before(server: StoreServer, certificate: trustme.LeafCert, clients: trustme.CA) -> AsyncIterator[str]:
    """A store that speaks TLS and asks for a client's certificate: the embedded one is built without."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    clients.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_store, to_store = await asyncio.open_unix_connection(server.socket_path)
        try:
            await asyncio.gather(pump(reader, to_store), pump(from_store, writer))
        finally:
            writer.transport.abort()
            to_store.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    front = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield f"rediss://127.0.0.1:{front.sockets[0].getsockname()[1]}"
    finally:
        front.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await front.wait_closed()


def written(folder: Path, ca: trustme.CA, own: trustme.LeafCert) -> dict[str, Any]:
    """The settings of a sidecar that trusts `ca` and has a certificate."""
    ca.cert_pem.write_to_path(folder / "ca.pem")
    own.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    own.private_key_pem.write_to_path(folder / "key.pem")
    return {f"{name}_file": str(folder / f"{name}.pem") for name in ("ca", "cert", "key")}


# -- TLS --------------------------------------------------------------------------------------------------------------


async def test_a_store_and_a_sidecar_prove_themselves_by_certificates(
    store_server: StoreServer, tmp_path: Path
) -> None:
    ca = trustme.CA()
    files = written(tmp_path, ca, ca.issue_cert("sidecar@example.com"))
    async with tls_before(store_server, ca.issue_cert("127.0.0.1"), ca) as url, sidecar(url, **files) as proxy:
        assert (await proxy.ask(asking("k"))).answer is Answer.PASS
        assert proxy.failures == [None]


@pytest.mark.parametrize(
    "wrong", ["the store's authority", "the store's name", "the sidecar's authority", "no certificate"]
)
async def test_a_peer_without_a_valid_certificate_is_refused(
    store_server: StoreServer, tmp_path: Path, wrong: str
) -> None:
    ca, other = trustme.CA(), trustme.CA()
    own = (other if wrong == "the sidecar's authority" else ca).issue_cert("sidecar@example.com")
    files = written(tmp_path, other if wrong == "the store's authority" else ca, own)
    if wrong == "no certificate":
        files = {"ca_file": files["ca_file"]}
    name = "store.example.com" if wrong == "the store's name" else "127.0.0.1"
    async with (
        tls_before(store_server, ca.issue_cert(name), ca) as url,
        sidecar(url, connected=False, **files) as proxy,
    ):
        async with asyncio.timeout(PATIENCE_S):
            # A handshake that a busy machine does not end in time is tried again.
            while (verdict := await proxy.ask(asking("k"))).reason != "connect":
                assert verdict.answer is Answer.UNAVAILABLE
                await asyncio.sleep(0.01)
        assert verdict.answer is Answer.UNAVAILABLE
        assert store_server.calls("evalsha") == 0


# -- users and passwords ----------------------------------------------------------------------------------------------


async def test_the_documented_user_may_touch_no_other_keys(start_store: StartStore) -> None:
    server = start_store()
    client: Any = server.client
    client.execute_command("ACL SETUSER", "sidegate", "resetkeys", "~example:*")
    async with sidecar(server.url) as proxy:
        assert (await proxy.ask(asking("example:p:k"))).answer is Answer.PASS
        assert (await proxy.ask(asking("another:k"))).reason == "noperm"
    denied: Any = server.client.acl_log()
    assert {entry["object"] for entry in denied} == {"another:k"}  # nothing else was even tried


def grant(server: StoreServer, *words: str) -> None:
    """Change what the store knows of the user `rotated`."""
    client: Any = server.client
    client.execute_command("ACL SETUSER", "rotated", *words)


def who(server: StoreServer, user: str) -> list[str]:
    """The ids of a user's connections."""
    return [str(client["id"]) for client in server.client.client_list() if client["user"] == user]


def settings(server: StoreServer, password: str) -> StoreSettings:
    return StoreSettings.model_validate({"url": server.url, "username": "rotated", "password": password})


async def asked_while_waiting(proxy: Sidecar, server: StoreServer, before: list[str]) -> None:
    """Ask without a pause until another connection serves; everything must be decided."""
    async with asyncio.timeout(PATIENCE_S):
        while not (now := who(server, "rotated")) or now == before or len(now) > 1:
            verdicts = await asyncio.gather(*(proxy.ask(asking("k", ROOMY)) for _ in range(20)))
            assert {verdict.answer for verdict in verdicts} == {Answer.PASS}


async def test_another_password_is_taken_over_without_a_failed_request(start_store: StartStore) -> None:
    server = start_store()
    grant(server, "on", "~*", "+@all", ">old")
    async with sidecar(server.url, username="rotated", password="old") as proxy:
        before = who(server, "rotated")
        grant(server, ">new", "<old")
        proxy.store.use(settings(server, "new"))
        await asked_while_waiting(proxy, server, before)
        assert proxy.failures == [None]
        proxy.store.use(settings(server, "new"))  # nothing new: the connection stays
        now = who(server, "rotated")
        await proxy.ask(asking("k", ROOMY))
        assert who(server, "rotated") == now


@pytest.mark.slow
async def test_a_new_password_is_retried_until_the_store_accepts_it(start_store: StartStore) -> None:
    server = start_store()
    grant(server, "on", "~*", "+@all", ">old")
    async with sidecar(server.url, username="rotated", password="old") as proxy:
        before = who(server, "rotated")
        proxy.store.use(settings(server, "new"))
        async with asyncio.timeout(PATIENCE_S):
            while not server.client.acl_log():
                assert (await proxy.ask(asking("k", ROOMY))).answer is Answer.PASS
        assert who(server, "rotated") == before
        grant(server, ">new")
        await asked_while_waiting(proxy, server, before)
        assert proxy.failures == [None]
