"""Stores of several servers for tests: three Sentinels with a master and a replica, a Cluster of three masters.

Everything runs as this user from the same binary as the single store, on free ports of 127.0.0.1.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from tests.recorder import eventually
from tests.servers import StoreServer, free_port, store_binary

SERVICE = "mymaster"
# Silence after which Sentinels consider a master down. A busy machine must not look like a dead master.
DOWN_AFTER_S = 1.0
SLOTS = 16384


class SentinelServer(StoreServer):
    """One Sentinel, which monitors the master at a port. `known` are configuration lines that spare it discovery."""

    def __init__(self, master_port: int, *settings: str, port: int = 0, known: Sequence[str] = ()) -> None:
        self._master_port = master_port
        self._settings = (*settings, *known)
        self._wanted_port = port
        super().__init__()

    def _command(self, port: int) -> list[str]:
        lines = [
            f"port {self._wanted_port or port}",
            "bind 127.0.0.1",
            f"unixsocket {self.socket_path}",
            f"dir {self._folder}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self._master_port} {2 if self._settings else 1}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_S * 1000:.0f}",
            f"sentinel failover-timeout {SERVICE} 3000",
            *self._settings,
        ]
        file = self._folder / "sentinel.conf"
        file.write_text("\n".join([*lines, ""]))
        return [store_binary(), str(file), "--sentinel"]


class SentinelTrio:
    """Three Sentinels with one master and one replica. Call `stop` at the end."""

    def __init__(self) -> None:
        # Start replication at once instead of waiting for more replicas.
        self.servers = [StoreServer("--repl-diskless-sync-delay", "0") for _ in range(2)]
        first, second = self.servers
        second.client.replicaof("127.0.0.1", str(first.port))
        self.sentinels = _sentinels(first.port, second.port)
        eventually(self._ready, "the Sentinels know each other and the replica")

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{each.port}' for each in self.sentinels)}/{SERVICE}"

    @property
    def master(self) -> StoreServer:
        """The server that a majority of the Sentinels name."""
        ports = [self._state(each)["port"] for each in self.sentinels]
        return next(each for each in self.servers if ports.count(each.port) >= 2)

    @property
    def replica(self) -> StoreServer:
        """The replica."""
        return next(each for each in self.servers if each is not self.master)

    def stop(self) -> None:
        for each in (*self.sentinels, *self.servers):
            print(f"-- the server at {each.port}\n{each.log()}")  # noqa: T201  (pytest shows it with a test that fails)
            each.stop()

    def _ready(self) -> bool:
        states = [self._state(each) for each in self.sentinels]
        if not all(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1 for state in states):
            return False
        # A Sentinel promotes a replica only after it has heard from it.
        return all(self._replica_as_seen_by(each)["master-link-status"] == "ok" for each in self.sentinels)

    def _replica_as_seen_by(self, sentinel: StoreServer) -> dict[str, Any]:
        (replica,) = sentinel.client.sentinel_slaves(SERVICE)
        found: dict[str, Any] = replica
        return found

    def _state(self, sentinel: StoreServer) -> dict[str, Any]:
        state: Any = sentinel.client.sentinel_master(SERVICE)
        found: dict[str, Any] = state
        return found


def _sentinels(master_port: int, replica_port: int) -> list[SentinelServer]:
    """Three Sentinels that know each other from the start; discovery would take six seconds."""
    ports = [free_port() for _ in range(3)]
    ids = {port: f"{port:040x}" for port in ports}
    found = []
    for port in ports:
        others = [f"sentinel known-sentinel {SERVICE} 127.0.0.1 {each} {ids[each]}" for each in ports if each != port]
        known = [f"sentinel known-replica {SERVICE} 127.0.0.1 {replica_port}", *others]
        found.append(SentinelServer(master_port, f"sentinel myid {ids[port]}", port=port, known=known))
        found[-1].port = port
    return found


class ClusterTrio:
    """A Cluster of masters with equal numbers of slots, each made by `server`. Call `stop` at the end."""

    def __init__(self, *options: str, nodes: int = 3, server: Callable[..., StoreServer] = StoreServer) -> None:
        self._server = server
        # A replica may take over however long a busy machine takes to detect a dead node.
        fresh = ("--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0")
        more = ("--cluster-enabled", "yes", *fresh, *options)
        self._options = more
        self.nodes: list[StoreServer] = []
        starting = [threading.Thread(target=lambda: self.nodes.append(server(*more))) for _ in range(nodes)]
        for thread in starting:
            thread.start()
        for thread in starting:
            thread.join()
        bounds = [SLOTS * number // nodes for number in range(nodes + 1)]
        for number, node in enumerate(self.nodes):
            self.call(node, "SET-CONFIG-EPOCH", number + 1)
            self.call(node, "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            for other in self.nodes[:number]:
                self.call(node, "MEET", "127.0.0.1", other.port)
        eventually(lambda: all(self._is_whole(node) for node in self.nodes), "the Cluster is whole", self.state)

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"

    def call(self, node: StoreServer, *words: str | int) -> Any:
        """Send a CLUSTER command to one node."""
        client: Any = node.client
        return client.execute_command(f"CLUSTER {words[0]}", *words[1:])

    def owner(self, slot: int) -> StoreServer:
        """The node that reports a slot as its own."""
        for node in self.nodes:
            for start, end, (_, port, *_), *_ in self._slots(node):
                if start <= slot <= end:
                    return next(each for each in self.nodes if each.port == port)
        raise LookupError(slot)

    def add_replica(self, master: StoreServer) -> StoreServer:
        """Add a replica of a master, last in `nodes`."""
        replica = self._server(*self._options)
        self.nodes.append(replica)
        # Meet all nodes: the one that would introduce the others may be the node that a test kills.
        for node in self.nodes[:-1]:
            self.call(replica, "MEET", "127.0.0.1", node.port)
        eventually(lambda: all(self._knows_all(node) for node in self.nodes), "they know each other", self.state)
        self.call(replica, "REPLICATE", self.id_of(master))
        client: Any = replica.client
        in_step = "the replica is in step"
        eventually(lambda: client.info("replication")["master_link_status"] == "up", in_step, self.state)
        # A master votes only for a replica whose master it knows.
        known = [self.id_of(replica), self.id_of(master)]
        others = self.nodes[:-1]
        eventually(lambda: all(known in self._follows(node) for node in others), "all know whom it follows", self.state)
        return replica

    def add_master(self) -> StoreServer:
        """Add a node without slots, last in `nodes`."""
        added = self._server(*self._options)
        self.nodes.append(added)
        for node in self.nodes[:-1]:
            self.call(added, "MEET", "127.0.0.1", node.port)
        eventually(lambda: all(self._knows_all(node) for node in self.nodes), "they know each other", self.state)
        eventually(lambda: self.call(added, "INFO")["cluster_state"] == "ok", "the new node may be used", self.state)
        return added

    def begin_to_move(self, slot: int, target: StoreServer) -> StoreServer:
        """Mark a slot as migrating; returns the node that it migrates from."""
        source = self.owner(slot)
        self.call(target, "SETSLOT", slot, "IMPORTING", self.id_of(source))
        self.call(source, "SETSLOT", slot, "MIGRATING", self.id_of(target))
        return source

    def move(self, slot: int, target: StoreServer) -> None:
        """Move a slot with its keys, as `valkey-cli --cluster reshard` does."""
        source = self.begin_to_move(slot, target)
        while keys := self.call(source, "GETKEYSINSLOT", slot, 10):
            client: Any = source.client
            client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        self.end_move(slot, target)

    def end_move(self, slot: int, target: StoreServer) -> None:
        """Assign a slot to a node."""
        for node in (target, *self.nodes):
            self.call(node, "SETSLOT", slot, "NODE", self.id_of(target))

    def id_of(self, node: StoreServer) -> str:
        return str(self.call(node, "MYID"), "ascii")

    def empty(self) -> None:
        for node in self.nodes:
            node.client.flushall()

    def state(self) -> str:
        """Each node's view of the Cluster and its log, for a test that fails."""
        states = []
        for node in self.nodes:
            nodes = self._seen_by(node) if node.runs else ""
            states.append(f"-- the node at {node.port}\n{nodes}{node.log()}")
        return "\n".join(states)

    def stop(self) -> None:
        print(self.state())  # noqa: T201  (pytest shows it with a test that fails)
        for node in self.nodes:
            node.stop()

    def _is_whole(self, node: StoreServer) -> bool:
        return self.call(node, "INFO")["cluster_state"] == "ok" and len(self._slots(node)) == len(self.nodes)

    def _knows_all(self, node: StoreServer) -> bool:
        seen = self._seen_by(node)
        return seen.count("\n") == len(self.nodes) == seen.count(" connected") and "handshake" not in seen

    def _follows(self, node: StoreServer) -> list[list[str]]:
        """Each replica that a node knows, and its master."""
        lines = [line.split(" ") for line in self._seen_by(node).splitlines()]
        return [[line[0], line[3]] for line in lines if "slave" in line[2].split(",")]

    def _seen_by(self, node: StoreServer) -> str:
        return str(self.raw(node, "CLUSTER NODES"), "ascii")

    def _slots(self, node: StoreServer) -> Any:
        return self.raw(node, "CLUSTER SLOTS")

    def raw(self, node: StoreServer, command: str) -> Any:
        """The raw reply: redis-py's parsers hide incomplete ones."""
        connection: Any = node.client.connection_pool.get_connection()
        try:
            connection.send_command(command)
            return connection.read_response()
        finally:
            node.client.connection_pool.release(connection)
