"""Random and mutated requests, sent to a sidecar and to nginx before the same kind of recording application.

`EXPLAINED` lists the allowed classes of differences; any other difference fails the test. A run sends 200 requests;
SIDEGATE_TEST_DIFFERENTIAL=2000 sends that many.
"""

import asyncio
import contextlib
import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.edge.mutations import hostile
from tests.recorder import PATIENCE_S, Received, Recorder
from tests.servers import StoreServer, free_port
from tests.sidecar import Sidecar, configuration

COUNT = int(os.environ.get("SIDEGATE_TEST_DIFFERENTIAL", "200"))
SEED = 2026
AT_ONCE = 200
# How long either proxy waits for the rest of an unfinished request, or for another one. Clients wait until it closes.
WAIT_MS = 4000

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
NGINX_CONFIG = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; server_tokens off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_header_timeout {wait_ms}ms; client_body_timeout {wait_ms}ms; keepalive_timeout {wait_ms}ms;
  proxy_connect_timeout 60s; proxy_read_timeout 60s;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1; proxy_request_buffering on;
      proxy_set_header Host $http_host; proxy_set_header Connection "";
    }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One proxy's result for a request: the final statuses, and the complete requests that reached the application."""

    statuses: tuple[int, ...]
    arrived: tuple[tuple[bytes, bytes, bytes], ...]  # method, target, body

    @property
    def refused(self) -> bool:
        """Nothing reached the application."""
        return not self.arrived


@dataclass(frozen=True, slots=True)
class Case:
    """One request and the results of both proxies."""

    raw: bytes
    ours: Outcome
    theirs: Outcome

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0]

    def has(self, pattern: bytes) -> bool:
        return re.search(pattern, self.raw, re.IGNORECASE | re.MULTILINE) is not None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The reason for a class of differences; `covers` selects its cases."""

    why: str
    covers: Callable[[Case], bool]


TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"


def stricter(case: Case) -> bool:
    """Whether the sidecar forwarded fewer requests than nginx."""
    return len(case.ours.arrived) < len(case.theirs.arrived)


def milder(case: Case) -> bool:
    """Whether the sidecar forwarded more requests than nginx."""
    return len(case.ours.arrived) > len(case.theirs.arrived)


def same_arrived(case: Case) -> bool:
    """Whether the same requests reached both applications: only the answers differ."""
    return case.ours.arrived == case.theirs.arrived


# Ours is the stricter reading nearly everywhere: what two parsers may read in two ways is refused (RFC 9112 §11.2).
EXPLAINED: list[Explanation] = [
    Explanation(
        "a bare LF is no line ending here; nginx takes it for one (RFC 9112 §2.2 leaves it to the recipient)",
        lambda case: stricter(case) and case.has(rb"(?<!\r)\n"),
    ),
    Explanation(
        "control bytes in a field value are refused; nginx passes them on (RFC 9110 §5.5: refuse or replace)",
        lambda case: stricter(case) and case.has(rb"^[^\r\n]*:[^\r\n]*[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
    ),
    Explanation(
        "a line that is no field (no colon, or a name that is no token) is refused; nginx leaves it out",
        lambda case: (
            stricter(case)
            and any(not re.match(TOKEN + rb"+:", line) for line in case.head.strip(b"\r\n").split(b"\r\n")[1:])
        ),
    ),
    Explanation(
        "a Host that holds more than a host and a port is refused: it may be a limit's key; nginx is more generous",
        lambda case: stricter(case) and case.has(rb"^Host:(?! *[A-Za-z0-9._-]+(:[0-9]*)? *\r?$)"),
    ),
    Explanation(
        "an absolute target must name the very host that Host names; nginx believes the target",
        lambda case: stricter(case) and case.has(rb"^[^ ]+ +https?://"),
    ),
    Explanation(
        "bytes above 0x7f in the request line are refused; nginx passes them on",
        lambda case: stricter(case) and case.has(rb"\A[^\r\n]*[\x80-\xff]"),
    ),
    Explanation(
        "a request line is METHOD SP target SP HTTP/1.0 or HTTP/1.1, to the byte, and methods are those of the parser; "
        "nginx takes spaces behind it, several spaces, other minor versions and any capital letters",
        lambda case: (
            stricter(case)
            and not re.match(
                rb"[\r\n]*(GET|POST|PUT|DELETE|HEAD|OPTIONS|PATCH|PROPFIND|TRACE) [^ ]+ HTTP/1\.[01]\r\n", case.raw
            )
        ),
    ),
    Explanation(
        "an expectation that cannot be met is answered 417; nginx ignores it",
        lambda case: stricter(case) and 417 in case.ours.statuses and case.has(rb"^Expect:"),
    ),
    Explanation(
        "a path that the limits could read in two ways is refused: backslash, NUL, broken escapes, dots above the root",
        lambda case: stricter(case) and case.has(rb"\A[^\r\n]*(\\|%|/\.\.)"),
    ),
    Explanation(
        "behind a chunked request a pipelined one is not read, the connection is closed (docs/adr/0004)",
        lambda case: stricter(case) and case.has(rb"^Transfer-Encoding: *chunked") and case.ours.statuses == (200,),
    ),
    Explanation(
        "a body must be framed and trailed without doubt: one length, one coding, chunks to the byte",
        lambda case: stricter(case) and case.has(rb"^(Transfer-Encoding|Content-Length):"),
    ),
    Explanation(
        "a TRACE or OPTIONS whose Max-Forwards is 0 is answered here; nginx passes it on",
        lambda case: stricter(case) and case.has(rb"\A[\r\n]*(OPTIONS|TRACE) ") and case.has(rb"^Max-Forwards: *0"),
    ),
    Explanation("TRACE is passed on; nginx answers 405", lambda case: milder(case) and case.has(rb"\A[\r\n]*TRACE ")),
    Explanation(
        "an empty Host is no host: the application gets its own name; nginx answers 400",
        lambda case: milder(case) and case.has(rb"^Host: *\r?$"),
    ),
    Explanation(
        "a tab around a field value is no part of it (RFC 9110 §5.5); nginx refuses one around Host or a length",
        lambda case: milder(case) and case.has(rb"^(Host|Content-Length):([^\r\n]*\t\r?$| *\t)"),
    ),
    Explanation(
        "OPTIONS * is passed on; nginx answers 400", lambda case: milder(case) and case.has(rb"\A[\r\n]*OPTIONS \* ")
    ),
    Explanation(
        "a fragment is cut off, as no request has one; nginx passes it on",
        lambda case: case.has(rb"\A[^\r\n]*#") and len(case.ours.arrived) == len(case.theirs.arrived),
    ),
]


@pytest.fixture(scope="module")
def their_recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.stop()


@pytest.fixture(scope="module")
def nginx(their_recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    if NGINX is None:
        pytest.skip("nginx is not installed: nothing to compare with")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(folder=folder, port=port, upstream=their_recorder.port, wait_ms=WAIT_MS))
    process = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(config), "-e", str(folder / "error")])
    deadline = time.monotonic() + PATIENCE_S
    while not accepts(port):
        assert process.poll() is None, Path(folder / "error").read_text()
        assert time.monotonic() < deadline, "nginx does not start"
        time.sleep(0.01)
    yield port
    process.terminate()
    process.wait(PATIENCE_S)


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_difference_from_nginx_is_explained(
    store_server: StoreServer, recorder: Recorder, their_recorder: Recorder, nginx: int
) -> None:
    wait = f"{WAIT_MS}ms"
    listen = {"header_timeout": wait, "body_timeout": wait, "idle_timeout": wait}
    patient = {"connect_timeout": "1m", "queue_timeout": "1m", "response_timeout": "1m"}
    raws = [hostile(number, random.Random(f"{SEED}/{number}")) for number in range(COUNT)]
    with Sidecar(configuration(store_server.url, recorder.url, listen=listen, upstream=patient)) as sidecar:
        ours = outcomes(raws, sidecar.port, recorder)
    theirs = outcomes(raws, nginx, their_recorder)
    assert recorder.faults == []  # whatever came, nothing doubtful was passed on

    seen: Counter[str] = Counter()
    unexplained = []
    for case in (Case(*three) for three in zip(raws, ours, theirs, strict=True)):
        if same(case):
            continue
        why = next((entry.why for entry in EXPLAINED if entry.covers(case)), None)
        if why is None:
            unexplained.append(case)
        else:
            seen[why] += 1
    shown = "\n".join(f"{case.raw!r}\n  ours   {case.ours}\n  theirs {case.theirs}" for case in unexplained[:60])
    assert not unexplained, f"{len(unexplained)} differences are not explained:\n{shown}"
    assert len(raws) > sum(seen.values())  # or the two would have nothing in common


def same(case: Case) -> bool:
    """Whether both applications received the same, and both clients the same kind of answers."""
    kinds = [[status // 100 for status in outcome.statuses] for outcome in (case.ours, case.theirs)]
    if case.ours.refused and case.theirs.refused:
        return True  # 400, 408, 501 or a closed door: one as good as the other
    return case.ours.arrived == case.theirs.arrived and kinds[0] == kinds[1]


def outcomes(raws: list[bytes], port: int, recorder: Recorder) -> list[Outcome]:
    statuses = asyncio.run(send_all(raws, port))
    arrived: dict[int, list[tuple[bytes, bytes, bytes]]] = {}
    for received in recorder.requests:
        if received.complete:
            arrived.setdefault(number_of(received), []).append(
                (received.method.encode(), received.target, received.body)
            )
    return [Outcome(answers, tuple(arrived.get(number, ()))) for number, answers in enumerate(statuses)]


def number_of(received: Received) -> int:
    found = re.search(rb"\bc(\d{5})/", received.head)
    return int(found[1]) if found else -1


async def send_all(raws: list[bytes], port: int) -> list[tuple[int, ...]]:
    turns = asyncio.Semaphore(AT_ONCE)

    async def send(raw: bytes) -> tuple[int, ...]:
        async with turns:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            received = b""
            with contextlib.suppress(ConnectionError, TimeoutError):
                writer.write(raw)
                while data := await asyncio.wait_for(reader.read(65536), 4 * PATIENCE_S):
                    received += data
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        found = re.findall(rb"^HTTP/1\.1 ([2-5]\d\d) ", received, re.MULTILINE)
        return tuple(map(int, found))

    return await asyncio.gather(*map(send, raws))
