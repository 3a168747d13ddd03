"""`make bench-memory`: resident memory of a sidecar that holds many connections: idle ones, then half-sent heads."""

import argparse
import resource
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack

import yaml

from benchmarks.bench import machine
from benchmarks.bench.laboratory import Laboratory, free_port, python, rss_mib

_REQUEST = b"GET /wide HTTP/1.1\r\nHost: a\r\nX-User-ID: bench\r\n\r\n"
_HALF_HEAD_BYTES = 15_000  # below the default of listen.max_header_bytes, 16 KiB
_RESPONSE_TIMEOUT_S = 30.0
_SETTLE_S = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status: 0 measured, 1 a connection failed, 2 too few file descriptors."""
    parser = argparse.ArgumentParser(prog="bench-memory", description=__doc__, allow_abbrev=False)
    parser.add_argument("--connections", type=int, default=4096)
    options = parser.parse_args(arguments)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < options.connections + 100:
        print(
            f"bench-memory: the limit of open files is {most}, {options.connections + 100} are needed", file=sys.stderr
        )
        return 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(machine.describe())
    with Laboratory() as laboratory:
        pid, port = _start(laboratory, options.connections)
        print(f"no connections: {rss_mib(pid):.0f} MiB")
        for name, first, then in (
            ("idle after a request", _REQUEST, b""),
            ("with a half-sent head", b"", b"GET /wide HTTP/1.1\r\nX-Long: " + b"x" * _HALF_HEAD_BYTES),
        ):
            try:
                found = _measure(pid, port, options.connections, first, then)
            except OSError as error:
                print(f"bench-memory: connections {name}: {error}", file=sys.stderr)
                return 1
            print(f"{options.connections} connections {name}: {found:.0f} MiB")
    return 0


def _start(laboratory: Laboratory, connections: int) -> tuple[int, int]:
    store, upstream, port = free_port(), free_port(), free_port()
    laboratory.start_store(store)
    laboratory.start_upstream(upstream)
    config = {
        "listen": {"host": "127.0.0.1", "port": port, "max_connections": connections + 1, "header_timeout": "60s"},
        "admin": {"port": free_port()},
        "upstream": {"url": f"http://127.0.0.1:{upstream}"},
        "store": {"url": f"redis://127.0.0.1:{store}", "timeout": "1s"},
        "policies": [{"name": "wide", "match": {"path": "/wide"}, "key": "header:X-User-ID", "limit": "1000000/s"}],
    }
    path = laboratory.write("sidegate.yaml", yaml.safe_dump(config))
    return laboratory.start(
        "sidegate", laboratory.proxies, python("sidegate", "run", "--config", str(path)), port
    ), port


def _measure(pid: int, port: int, connections: int, first: bytes, then: bytes) -> float:
    """Memory in MiB while the connections are open: each sends `first` and reads the response, then sends `then`."""
    with ExitStack() as stack:
        for _ in range(connections):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), _RESPONSE_TIMEOUT_S))
            if first:
                connection.sendall(first)
                if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
                    raise OSError("a response other than 200")
            if then:
                connection.sendall(then)
        time.sleep(_SETTLE_S)
        return rss_mib(pid)


if __name__ == "__main__":
    sys.exit(main())
