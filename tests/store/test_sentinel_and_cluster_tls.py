"""`rediss+sentinel://` and `rediss+cluster://`: every connection under TLS, to servers that ask for a certificate.

The embedded store is built without TLS; these need a redis-server that has it.
"""

import asyncio
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from sidegate.config import StoreSettings
from sidegate.decision.verdict import Answer
from sidegate.store.cluster.slots import slot_of
from sidegate.store.redis.inspect import Buckets

from tests.servers import StoreServer, free_port
from tests.store.sidecar import all_of, asking, sidecar
from tests.topologies import SERVICE, ClusterTrio, SentinelServer

REDIS = os.environ.get("SIDEGATE_TEST_REDIS_SERVER") or shutil.which("redis-server")
pytestmark = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed: apt-get install redis-server")

KEYS = [f"example:p:{number}" for number in range(60)]


@pytest.fixture(scope="module", autouse=True)
def with_tls() -> Iterator[None]:
    """All servers of this file run from the binary that has TLS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIDEGATE_TEST_REDIS_SERVER", str(REDIS))
        yield


class Papers:
    """An authority, and files of certificates that it gave out."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        authority = trustme.CA()
        self._folder = folder
        authority.cert_pem.write_to_path(folder / "ca.pem")
        for name, of in (("server", "127.0.0.1"), ("client", "sidecar@example.com")):
            certificate = authority.issue_cert(of)
            certificate.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")

    def path(self, name: str) -> str:
        return str(self._folder / f"{name}.pem")

    @property
    def of_servers(self) -> list[tuple[str, str]]:
        """Options of a server that has TLS alone, also between servers, and asks for certificates."""
        return [
            ("port", "0"),
            ("tls-cert-file", self.path("server")),
            ("tls-key-file", self.path("server")),
            ("tls-ca-cert-file", self.path("ca")),
            ("tls-replication", "yes"),
        ]

    @property
    def of_sidecars(self) -> dict[str, Any]:
        """Settings of a sidecar."""
        return {"ca_file": self.path("ca"), "cert_file": self.path("client"), "key_file": self.path("client")}


class TlsServer(StoreServer):
    """A store that listens for TLS alone, on its port."""

    def __init__(self, papers: Papers, *options: str) -> None:
        self._papers = papers
        super().__init__(*options)

    def _command(self, port: int) -> list[str]:
        words = [word for name, value in self._papers.of_servers for word in (f"--{name}", value)]
        return [*super()._command(port), *words, "--tls-port", str(port)]


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    """Papers of an authority that nobody knows."""
    return Papers(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(scope="module")
def cluster(papers: Papers) -> Iterator[ClusterTrio]:
    cluster = ClusterTrio("--tls-cluster", "yes", server=lambda *options: TlsServer(papers, *options))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def sentinel_url(papers: Papers) -> Iterator[str]:
    master, port = TlsServer(papers), free_port()
    lines = [f"{name} {value}" for name, value in papers.of_servers]
    sentinel = SentinelServer(master.port, *lines, f"tls-port {port}", port=port)
    try:
        yield f"rediss+sentinel://127.0.0.1:{port}/{SERVICE}"
    finally:
        sentinel.stop()
        master.stop()


def wrong(papers: Papers, strangers: Papers) -> list[dict[str, Any]]:
    """Settings of sidecars that do not trust the servers, that have no certificate, or one of another authority."""
    ours, theirs = papers.of_sidecars, strangers.of_sidecars
    return [
        {**ours, "ca_file": theirs["ca_file"]},
        {"ca_file": ours["ca_file"]},
        {**theirs, "ca_file": ours["ca_file"]},
    ]


async def found(url: str, settings: dict[str, Any]) -> set[str]:
    """The names of all buckets, as the admin pages find them."""
    buckets = Buckets(StoreSettings.model_validate({"url": url, **settings}))
    names: set[str] = set()
    try:
        cursor = ""
        while True:
            page = await buckets.find("example:p:", "", cursor, 1_000)
            names |= {each.name for each in page.buckets}
            if not (cursor := page.cursor):
                return names
    finally:
        await buckets.close()


async def charged(url: str, settings: dict[str, Any], keys: Sequence[str]) -> None:
    async with sidecar(url, **settings) as proxy:
        verdicts = await all_of([proxy.ask(asking(key)) for key in keys])
        assert {verdict.answer for verdict in verdicts} == {Answer.PASS}
        assert proxy.failures[-1] is None  # before it, a handshake with a Sentinel may have taken its 200 ms


async def test_the_master_that_sentinels_name_is_charged_under_tls(sentinel_url: str, papers: Papers) -> None:
    await charged(sentinel_url, papers.of_sidecars, KEYS)
    assert await found(sentinel_url, papers.of_sidecars) == set(KEYS)


async def test_all_nodes_of_a_cluster_are_charged_under_tls(cluster: ClusterTrio, papers: Papers) -> None:
    url = f"rediss+cluster://127.0.0.1:{cluster.nodes[0].port}"  # the others are found
    await charged(url, papers.of_sidecars, KEYS)
    assert await found(url, papers.of_sidecars) == set(KEYS)
    assert len({cluster.owner(slot_of(key)).port for key in KEYS}) == 3
    assert all(node.calls("evalsha") + node.calls("eval") > 0 for node in cluster.nodes)


async def test_a_slot_that_moves_is_followed_under_tls(cluster: ClusterTrio, papers: Papers) -> None:
    url = f"rediss+cluster://127.0.0.1:{cluster.nodes[0].port}"
    async with sidecar(url, **papers.of_sidecars) as proxy:
        await proxy.ask(asking("moved"))
        target = next(node for node in cluster.nodes if node is not cluster.owner(slot_of("moved")))
        cluster.begin_to_move(slot_of("moved"), target)
        cluster.owner(slot_of("moved")).client.delete("moved")
        # Where it was it is no more: the answer is ASK, then, once it has moved, MOVED.
        assert (await proxy.ask(asking("moved"))).answer is Answer.PASS
        cluster.end_move(slot_of("moved"), target)
        assert (await proxy.ask(asking("moved"))).answer is Answer.PASS
        assert target.client.hget("moved", "tokens") == b"8"


async def test_a_removed_authority_counts_no_more_for_sentinels_and_their_master(
    papers: Papers, strangers: Papers, tmp_path: Path
) -> None:
    trusted = tmp_path / "trusted.pem"
    shutil.copy(papers.path("ca"), trusted)
    master, port = TlsServer(papers), free_port()
    lines = [*(f"{name} {value}" for name, value in papers.of_servers), f"tls-port {port}"]
    sentinel = SentinelServer(master.port, *lines, port=port)
    settings = {**papers.of_sidecars, "ca_file": str(trusted)}
    try:
        async with sidecar(f"rediss+sentinel://127.0.0.1:{port}/{SERVICE}", **settings) as proxy:
            assert (await proxy.ask(asking("a"))).answer is Answer.PASS
            shutil.copy(strangers.path("ca"), trusted)
            sentinel.stop()
            sentinel = SentinelServer(master.port, *lines, port=port)
            master.kill()
            master.start()
            failure = proxy.store.failure
            async with asyncio.timeout(30):
                for _ in range(3):  # attempts: the first may have begun before the Sentinel was back
                    while proxy.store.failure in (None, failure):
                        await asyncio.sleep(0.01)
                    failure = proxy.store.failure
            assert failure is not None
            assert failure.reason == "no_master", "the Sentinel's certificate is refused, not the master's alone"
            shown = f"no Sentinel names a master of {SERVICE}: 127.0.0.1:{port}: "
            assert str(failure).startswith(shown), "no object of redis-py"
            assert len(str(failure)) < len(shown) + 60
            shutil.copy(papers.path("ca"), trusted)
            await proxy.until(connected=True)
    finally:
        sentinel.stop()
        master.stop()


async def test_authorities_of_the_system_are_not_trusted_beside_those_of_the_file(
    sentinel_url: str, papers: Papers, strangers: Papers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", papers.path("ca"))
    own = papers.of_sidecars
    async with sidecar(sentinel_url, cert_file=own["cert_file"], key_file=own["key_file"]) as proxy:
        assert (await proxy.ask(asking("system"))).answer is Answer.PASS, "by default the system's are"
    other = {**own, "ca_file": strangers.path("ca")}
    async with sidecar(sentinel_url, connected=False, **other) as proxy:
        assert (await proxy.ask(asking("file"))).answer is not Answer.PASS


async def test_sentinels_refuse_a_client_without_a_valid_certificate(
    sentinel_url: str, papers: Papers, strangers: Papers
) -> None:
    for settings in wrong(papers, strangers):
        async with sidecar(sentinel_url, connected=False, **settings) as proxy:
            verdict = await proxy.ask(asking("nobody"))
            assert (verdict.answer, verdict.reason) == (Answer.UNAVAILABLE, "no_master")


async def test_a_cluster_refuses_a_client_without_a_valid_certificate(
    cluster: ClusterTrio, papers: Papers, strangers: Papers
) -> None:
    for settings in wrong(papers, strangers):
        url = f"rediss+cluster://127.0.0.1:{cluster.nodes[0].port}"
        async with sidecar(url, connected=False, **settings) as proxy:
            verdict = await proxy.ask(asking("nobody"))
            assert (verdict.answer, verdict.reason) == (Answer.UNAVAILABLE, "connect")
    assert not cluster.owner(slot_of("nobody")).client.exists("nobody")
