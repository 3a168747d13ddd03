"""`make soak SECONDS=600`: mixed traffic at half of capacity, with clients that leave, errors and reloads.

Exit 0: every answer was expected, and open files did not grow; 1 otherwise; 2 nothing to load with. Slopes of memory
and open files after the first third are printed.
"""

import asyncio
import contextlib
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import wrk
from benchmarks.bench.laboratory import Laboratory, free_port, open_files, python, rss_mib
from benchmarks.soak.slope import Sample, settled, slope_per_hour
from benchmarks.soak.trouble import Trouble

CONNECTIONS = 32
# Steady connections come and go with each edit and each client that leaves; what leaks grows without end.
MOST_FILES_GROWN = 20
_TRAFFIC = Path(__file__).parent / "traffic.lua"
_CONFIG = """
listen: {{host: 127.0.0.1, port: {port}}}
admin: {{port: {admin}}}
upstream: {{url: "http://127.0.0.1:{upstream}"}}
store: {{url: "redis://127.0.0.1:{store}", timeout: 2s}}
policies:
  - {{name: wide, match: {{path: [/wide, /error, /break, /slow]}}, key: header:X-User-ID, limit: 1000000/s}}
  - {{name: tight, match: {{path: /tight}}, key: header:X-User-ID, limit: 1/day}}
"""


def main(arguments: Sequence[str]) -> int:
    """Run for the seconds given; returns the exit status."""
    seconds = int(arguments[0]) if arguments else 600
    if shutil.which("wrk") is None:
        print("soak: wrk is missing; install it with: apt-get install wrk", file=sys.stderr)
        return 2
    with Laboratory() as laboratory:
        ports = {name: free_port() for name in ("port", "admin", "upstream", "store")}
        laboratory.start_store(ports["store"])
        command = python("benchmarks.soak.application", str(ports["upstream"]))
        laboratory.start("application", laboratory.others, command, ports["upstream"])
        config = laboratory.write("sidegate.yaml", _CONFIG.format(**ports))
        run = python("sidegate", "run", "--config", str(config))
        pid = laboratory.start("sidegate", laboratory.proxies, run, ports["port"])
        url = f"http://127.0.0.1:{ports['port']}"
        capacity = wrk.run(f"{url}/wide", CONNECTIONS, 2, laboratory.others).rate
        pause_ms = max(1, round(CONNECTIONS / (capacity / 2) * 1000))
        trouble = Trouble(ports["port"], pid, config)
        statuses, samples = asyncio.run(_soak(url, laboratory.others, pause_ms, seconds, pid, trouble))
        alive = Path(f"/proc/{pid}").exists()
    return report(statuses, samples, trouble, seconds) if alive else _died()


async def _soak(
    url: str, core: int, pause_ms: int, seconds: int, pid: int, trouble: Trouble
) -> tuple[Counter[str], list[Sample]]:
    """Run steady traffic with faults; returns the count of each status and the process's resources each second."""
    loop = asyncio.get_running_loop()
    command = ("taskset", "-c", str(core), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s")
    steady = await asyncio.create_subprocess_exec(
        *command, "-s", str(_TRAFFIC), url, "--", str(pause_ms), stdout=asyncio.subprocess.PIPE
    )
    making = loop.create_task(trouble.make())
    samples: list[Sample] = []
    reading = loop.create_task(steady.communicate())
    began_s = loop.time()
    while not reading.done():
        samples.append(Sample(loop.time() - began_s, rss_mib(pid), open_files(pid)))
        await asyncio.wait([reading, making], timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
        if making.done():
            break
    making.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await making
    return statuses_in((await reading)[0].decode()), samples


def statuses_in(output: str) -> Counter[str]:
    """Statuses that traffic.lua printed, and broken connections that wrk printed."""
    found: Counter[str] = Counter()
    for line in re.findall(r"^statuses(.*)$", output, re.MULTILINE):
        for status, count in re.findall(r"(\d+)=(\d+)", line):
            found[status] += int(count)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    if errors:
        found["broken connection"] = sum(map(int, errors.groups()))
    return found


def report(statuses: Counter[str], samples: Sequence[Sample], trouble: Trouble, seconds: int) -> int:
    """Print the results; returns the exit status."""
    expected = {"200", "429", "500"}
    unexpected = trouble.unexpected + Counter({each: n for each, n in statuses.items() if each not in expected})
    missing = expected - statuses.keys()
    later = settled(samples)
    memory = slope_per_hour([(sample.at_s, sample.rss_mib) for sample in later])
    files = slope_per_hour([(sample.at_s, sample.files) for sample in later])
    grown = later[-1].files - later[0].files
    print(f"{seconds} s: {_list(statuses)}; {_list(trouble.made)}")
    print(f"unexpected: {_list(unexpected) or 'nothing'}")
    print(f"memory: {samples[0].rss_mib:.1f} MiB, at the end {samples[-1].rss_mib:.1f} MiB, {memory:+.1f} MiB an hour")
    print(f"open files: {samples[0].files}, at the end {samples[-1].files}, {files:+.1f} an hour")
    if missing:
        print(f"soak: no answer with status {', '.join(sorted(missing))}: the traffic was not mixed", file=sys.stderr)
    return 1 if unexpected or missing or grown > MOST_FILES_GROWN else 0


def _list(counts: Counter[str]) -> str:
    return ", ".join(f"{each} {count:,}" for each, count in sorted(counts.items()))


def _died() -> int:
    print("soak: the sidecar died", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
