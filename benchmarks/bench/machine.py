"""Describes the machine and the versions of a run."""

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import sidegate

from benchmarks.bench.candidates import COMPILED, ENVOY, NGINX, PLAIN, SIDEGATE, TRAEFIK
from benchmarks.bench.laboratory import ROOT

_VERSIONS = {
    NGINX: (shutil.which("nginx") or "", "-v"),
    TRAEFIK: (str(ROOT / ".venv-bench/bin/traefik"), "version"),
    ENVOY: (str(ROOT / ".venv-bench/bin/envoy"), "--version"),
}


def describe() -> str:
    """One line: processor, cores, memory, kernel, Python."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB, "
        f"{platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}"
    )


def version(candidate: str) -> str:
    """The version of a candidate; empty if it prints none."""
    if candidate in (SIDEGATE, COMPILED):
        return sidegate.__version__
    if candidate == PLAIN:
        return "aiohttp, redis-py and uvloop as locked"
    command = _VERSIONS[candidate]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return ""
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
