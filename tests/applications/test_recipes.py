"""Runs each recipe of docs/applications.md with the real server: `make applications` installs them first."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.raw_client import RawClient, get
from tests.recorder import eventually
from tests.servers import StoreServer, free_port
from tests.sidecar import PATIENCE_S, ROOT, Sidecar, configuration

pytestmark = pytest.mark.slow

APPS = Path(__file__).parent / "apps"
TOOLS = ROOT / ".venv-apps"
PAGE = (ROOT / "docs" / "applications.md").read_text("utf-8")
# Each `### title` under "Recipes" with its first command.
COMMANDS = dict(
    re.findall(r"^### (.+)\n(?:(?!### ).*\n)*?```sh\n(.+)\n```", PAGE.partition("## Recipes")[2], re.MULTILINE)
)

# As a proxy in front of the sidecar sends it, from a trusted address.
FORWARDED = ("X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: app.example.com")


@dataclass(frozen=True, slots=True)
class Running:
    """An application behind a sidecar that trusts its peers, and behind one that does not."""

    sidecar: Sidecar
    distrusting: Sidecar


def _program(name: str) -> str:
    """The path of a server; skips the test where it is not installed."""
    found = shutil.which(name, path=os.pathsep.join([str(TOOLS / "bin"), os.environ["PATH"], "/usr/sbin"]))
    if found is None:
        pytest.skip(f"{name} is not installed (make applications)")
    return found


@pytest.fixture(scope="module", params=sorted(COMMANDS))
def running(request: pytest.FixtureRequest, shared_store_server: StoreServer) -> Iterator[Running]:
    name, *arguments = COMMANDS[request.param].split()
    program = _program(name)
    modules = TOOLS / "node_modules"
    if name == "node" and not (modules / "express").exists():
        pytest.skip("Express is not installed (make applications)")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="a-") as folder:
        path = f"{folder}/app.sock"
        on_socket = any("unix:" in argument for argument in arguments)
        filled = [
            argument.replace("127.0.0.1:9000", f"127.0.0.1:{port}")
            .replace("/run/app/app.sock", path)
            .replace("9000", str(port))
            for argument in arguments
        ]
        process = subprocess.Popen(
            [program, *filled],
            cwd=APPS,
            env={**os.environ, "PORT": str(port), "NODE_PATH": str(modules), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            address: Any = path if on_socket else ("127.0.0.1", port)
            eventually(lambda: process.poll() is not None or _accepts(address), f"{request.param} to listen")
            assert process.poll() is None, f"{request.param} ended at once"
            url = f"unix:{path}" if on_socket else f"http://127.0.0.1:{port}"
            trusted = {"trusted_proxies": ["127.0.0.0/8"]}
            with (
                Sidecar(configuration(shared_store_server.url, url, client_ip=trusted)) as sidecar,
                Sidecar(configuration(shared_store_server.url, url)) as distrusting,
            ):
                yield Running(sidecar, distrusting)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)


def _accepts(address: str | tuple[str, int]) -> bool:
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as probe:
        return probe.connect_ex(address) == 0


def test_every_recipe_of_the_page_is_run() -> None:
    assert len(COMMANDS) == PAGE.partition("## Recipes")[2].count("\n### ") - 1  # nginx has a test of its own


def test_the_application_learns_client_and_scheme(running: Running) -> None:
    answer = get(running.sidecar.port, "/whoami", *FORWARDED)
    assert answer.status == 200
    assert answer.json() == {"client": "203.0.113.7", "scheme": "https", "host": answer.json()["host"]}
    assert answer.json()["host"] in {"app.example.com", "app.test"}  # uvicorn leaves Host as it is


def test_a_direct_client_cannot_forge_its_scheme(running: Running) -> None:
    forged = ("X-Forwarded-SSL: on", "Front-End-Https: on", "X_Forwarded_Proto: https", "Forwarded: proto=https")
    answer = get(running.distrusting.port, "/whoami", *FORWARDED, *forged)
    assert (answer.status, answer.json()["scheme"], answer.json()["host"]) == (200, "http", "app.test")
    assert answer.json()["client"] in {"127.0.0.1", ""}  # none, where the application's own peer is a Unix socket


@pytest.mark.parametrize("size", [0, 5, 60_000])
def test_a_chunked_body_is_read_whole(size: int, running: Running) -> None:
    with RawClient(running.sidecar.port) as client:
        client.send(
            b"POST /length HTTP/1.1\r\nHost: a\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        left = size
        while left:
            piece = min(left, 20_001)
            client.send(b"%x\r\n" % piece)
            time.sleep(0.01)
            client.send(bytes(piece) + b"\r\n")
            left -= piece
        client.send(b"0\r\n\r\n")
        answer = client.reply()
    assert (answer.status, answer.json()) == (200, {"bytes": size})


def test_many_requests_on_kept_connections_lose_none(running: Running) -> None:
    with RawClient(running.sidecar.port) as client:
        for _ in range(100):
            assert client.get("/whoami").status == 200


@pytest.mark.parametrize(("via", "compressed"), [(True, False), (False, True)])
def test_nginx_compresses_where_via_is_left_out(
    via: bool, compressed: bool, shared_store_server: StoreServer, tmp_path: Path
) -> None:
    nginx, port = _program("nginx"), free_port()
    (written,) = re.findall(r"```nginx\n(.+?)```", PAGE, re.DOTALL)
    (tmp_path / "index.html").write_text("text " * 1000)
    server = written.replace("127.0.0.1:9000", f"127.0.0.1:{port}").replace("/srv/app", str(tmp_path))
    paths = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; {'user root;' if os.geteuid() == 0 else ''} pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; types {{ text/html html; }} {paths}\n{server} }}"
    )
    process = subprocess.Popen(
        [nginx, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)], stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: _accepts(("127.0.0.1", port)), "nginx to listen")
        config = configuration(shared_store_server.url, f"http://127.0.0.1:{port}", upstream={"via": via})
        with Sidecar(config) as sidecar:
            answer = get(sidecar.port, "/index.html", "Accept-Encoding: gzip")
            assert answer.status == 200
            assert (answer.values("Content-Encoding") == ["gzip"]) is compressed
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)
