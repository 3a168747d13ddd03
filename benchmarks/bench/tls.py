"""`python -m benchmarks.bench.tls`: CPU time of a request with TLS and without, on kept connections.

Sidegate and nginx in front of the same application, and uvloop alone, which answers each request itself: what TLS adds
to that one is the event loop's and OpenSSL's, not the sidecar's. All on one core, measured in turn; medians of rounds.
A last figure is the CPU time of a new connection with its handshake and one request.
"""

import argparse
import asyncio
import contextlib
import shutil
import ssl
import sys
from collections.abc import Sequence
from http.client import HTTPSConnection
from pathlib import Path
from statistics import median

import trustme
import uvloop
import yaml

from benchmarks.bench import machine, wrk
from benchmarks.bench.laboratory import Laboratory, cpu_us, free_port, python
from benchmarks.static_upstream import Static

CONNECTIONS = 32
HANDSHAKES = 100
_NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx-errors.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  upstream application {{ server 127.0.0.1:{upstream}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{plain}; listen 127.0.0.1:{tls} ssl; keepalive_requests 100000000;
    ssl_certificate {cert}; ssl_certificate_key {key}; ssl_session_cache off; ssl_session_tickets off;
    location / {{ proxy_pass http://application; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""


class Served:
    """One process, measured without TLS and with it."""

    def __init__(self, name: str, plain: tuple[int, int], tls: tuple[int, int]) -> None:
        self.name = name
        self.ways = {"plain": plain, "TLS": tls}  # process id and port
        self.found: dict[str, list[float]] = {"plain": [], "TLS": [], "handshake": []}

    def measure(self, seconds: int, core: int, context: ssl.SSLContext) -> None:
        """One round."""
        for way, (pid, port) in self.ways.items():
            before = cpu_us(pid)
            outcome = wrk.run(
                f"{'https' if way == 'TLS' else 'http'}://127.0.0.1:{port}/wide", CONNECTIONS, seconds, core
            )
            if outcome.failed or outcome.broken or not outcome.requests:
                counts = f"{outcome.requests} requests, {outcome.failed} failed, {outcome.broken} broken"
                raise SystemExit(f"bench: {self.name}, {way}: {counts}")
            self.found[way].append((cpu_us(pid) - before) / outcome.requests)
        pid, port = self.ways["TLS"]
        before = cpu_us(pid)
        for _ in range(HANDSHAKES):
            with contextlib.closing(HTTPSConnection("127.0.0.1", port, context=context, timeout=10)) as connection:
                connection.request("GET", "/wide")
                connection.getresponse().read()
        self.found["handshake"].append((cpu_us(pid) - before) / HANDSHAKES)

    @property
    def line(self) -> str:
        """The medians."""
        plain, tls, handshake = (median(self.found[way]) for way in ("plain", "TLS", "handshake"))
        return f"{self.name:14} {plain:6.1f} -> {tls:6.1f} µs (+{tls - plain:.1f}); new connection {handshake:.0f} µs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status: 2 where wrk is missing."""
    parser = argparse.ArgumentParser(prog="bench-tls", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--serve", nargs=4, metavar=("PORT", "TLS_PORT", "CERT", "KEY"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        uvloop.run(_serve(*options.serve))
        return 0
    if shutil.which("wrk") is None:
        print("bench: wrk is missing; install it with: apt-get install wrk", file=sys.stderr)
        return 2
    with Laboratory() as laboratory:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        cert, key = laboratory.folder / "tls.crt", laboratory.folder / "tls.key"
        issued.cert_chain_pems[0].write_to_path(str(cert))
        issued.private_key_pem.write_to_path(str(key))
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        served = start(laboratory, cert, key)
        for _ in range(options.rounds):
            for each in served:
                each.measure(options.seconds, laboratory.others, context)
    print(machine.describe())
    for each in served:
        print(each.line)
    return 0


def start(laboratory: Laboratory, cert: Path, key: Path) -> list[Served]:
    """Start all of them."""
    store, upstream = free_port(), free_port()
    laboratory.start_store(store)
    laboratory.start_upstream(upstream)
    found = []
    ways = []
    for name, tls in (("sidegate", {}), ("sidegate-tls", {"tls": {"cert_file": str(cert), "key_file": str(key)}})):
        port = free_port()
        config = {
            "listen": {"host": "127.0.0.1", "port": port, **tls},
            "admin": {"port": free_port()},
            "upstream": {"url": f"http://127.0.0.1:{upstream}"},
            "store": {"url": f"redis://127.0.0.1:{store}", "timeout": "1s"},
            "policies": [{"name": "wide", "match": {"path": "/wide"}, "key": "header:X-User-ID", "limit": "1000000/s"}],
        }
        file = laboratory.write(f"{name}.yaml", yaml.safe_dump(config))
        command = python("sidegate", "run", "--config", str(file))
        ways.append((laboratory.start(name, laboratory.proxies, command, port), port))
    found.append(Served("sidegate", *ways))
    if shutil.which("nginx"):
        plain, tls_port = free_port(), free_port()
        text = _NGINX.format(folder=laboratory.folder, upstream=upstream, plain=plain, tls=tls_port, cert=cert, key=key)
        command = ("nginx", "-p", str(laboratory.folder), "-c", str(laboratory.write("nginx.conf", text)))
        pid = laboratory.start("nginx", laboratory.proxies, command, plain)
        found.append(Served("nginx", (pid, plain), (pid, tls_port)))
    port, tls_port = free_port(), free_port()
    own = python("benchmarks.bench.tls", "--serve", str(port), str(tls_port), str(cert), str(key))
    pid = laboratory.start("uvloop", laboratory.proxies, own, port)
    found.append(Served("uvloop alone", (pid, port), (pid, tls_port)))
    return found


async def _serve(port: str, tls_port: str, cert: str, key: str) -> None:
    """Answer on a port without TLS, and on another one with it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    loop = asyncio.get_running_loop()
    await loop.create_server(Static, "127.0.0.1", int(tls_port), ssl=context)
    server = await loop.create_server(Static, "127.0.0.1", int(port))
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
