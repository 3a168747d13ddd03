"""Write the lock files in `requirements/`: names, versions and hashes, no index address.

Pinned versions stay unless `--upgrade` or `--upgrade-package NAME` is given. One file serves every platform and every
Python from 3.11 on.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deploy.settings import ROOT

_LIMIT_S = 600


@dataclass(frozen=True, slots=True)
class Lock:
    """One file. `stdin` are the requirements where `arguments` name no file."""

    name: str
    purpose: str
    arguments: tuple[str, ...]
    stdin: str = ""


_LOCKS = (
    Lock("dev", "development and CI", ("pyproject.toml", "--extra", "dev")),
    Lock(
        "run",
        "the demonstration as local processes",
        ("pyproject.toml", "--extra", "local", "--extra", "build", "--constraints", "requirements/dev.txt"),
    ),
    Lock("image", "the container image", ("pyproject.toml", "--constraints", "requirements/dev.txt")),
    Lock(
        "build",
        "building the wheel inside the image",
        ("-", "--constraints", "requirements/dev.txt"),
        stdin="hatchling\neditables\nmypy\nsetuptools\n",
    ),
    Lock("redis-cli", "the Redis prompt where redis-cli is not installed", ("-",), stdin="iredis\n"),
    Lock(
        "applications",
        "the servers that docs/applications.md is tested with",
        ("-",),
        stdin="gunicorn\nuvicorn\nflask\ndjango\nfastapi\n",
    ),
    Lock(
        "bench",
        "the benchmark: two proxies to compare with, and the chart library",
        ("-",),
        stdin="matplotlib\ntraefik-bin\nenvoy-server; sys_platform == 'linux' and platform_machine == 'x86_64'\n",
    ),
)


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="sidegate-locks-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=_LIMIT_S)
        subprocess.run([f"{folder}/bin/pip", "install", "--quiet", "uv"], check=True, timeout=_LIMIT_S)
        for lock in _LOCKS:
            _write(Path(folder) / "bin" / "uv", lock, arguments)
    return 0


def _write(uv: Path, lock: Lock, arguments: list[str]) -> None:
    target = f"requirements/{lock.name}.txt"
    options = "--quiet --no-config --universal --python-version=3.11 --generate-hashes --no-header --no-emit-index-url"
    command = [str(uv), "pip", "compile", *options.split(), "--output-file", target, *lock.arguments, *arguments]
    subprocess.run(
        command, cwd=ROOT, check=True, timeout=_LIMIT_S, input=lock.stdin, text=True, stdout=subprocess.DEVNULL
    )
    path = ROOT / target
    path.write_text(f"# For {lock.purpose}. Written by `make lock`.\n{path.read_text()}")
    print(f"{target}: {sum('==' in line for line in path.read_text().splitlines())} packages")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
