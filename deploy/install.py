"""Set up `.venv`: exactly the versions and files of `requirements/dev.txt`, then this project, editable.

Also, on demand: `.venv-tools` for the Redis prompt, since iredis needs another redis-py than the sidecar; `.venv-bench`
for the benchmark's peers and charts, which are large.
Runs under any Python from 3.11 on, before anything is installed: standard library only.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.settings import ROOT
from deploy.terminal import Trouble, step

_VENV = ROOT / ".venv"
_TOOLS = ROOT / ".venv-tools"
_LOCK = ROOT / "requirements" / "dev.txt"
_TOOLS_LOCK = ROOT / "requirements" / "redis-cli.txt"
_BENCH = ROOT / ".venv-bench"
_BENCH_LOCK = ROOT / "requirements" / "bench.txt"
_LIMIT_S = 1200
_OLDEST = (3, 11)


def install() -> None:
    stamp, wanted = _VENV / ".installed", _fingerprint(_LOCK, ROOT / "pyproject.toml")
    if stamp.exists() and stamp.read_text() == wanted and (_VENV / "bin" / "sidegate").exists():
        return
    _make_venv(_VENV)
    step("installing the locked packages (the first time takes a minute)")
    _pip(_VENV, "install", "--require-hashes", "-r", str(_LOCK))
    step("installing sidegate, editable")
    _pip(_VENV, "install", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    stamp.write_text(wanted)


def redis_prompt() -> Path:
    """The path of iredis, installed first if need be."""
    _on_demand(_TOOLS, _TOOLS_LOCK, "no redis-cli here: installing iredis into .venv-tools, once")
    return _TOOLS / "bin" / "iredis"


def bench_tools() -> None:
    """Install what the benchmark compares with and draws with."""
    _on_demand(_BENCH, _BENCH_LOCK, "installing Traefik, Envoy and matplotlib into .venv-bench, once (100 MB)")


def _on_demand(folder: Path, lock: Path, telling: str) -> None:
    stamp, wanted = folder / ".installed", _fingerprint(lock)
    if not stamp.exists() or stamp.read_text() != wanted:
        step(telling)
        _make_venv(folder)
        _pip(folder, "install", "--require-hashes", "-r", str(lock))
        stamp.write_text(wanted)


def _make_venv(folder: Path) -> None:
    if sys.version_info < _OLDEST:
        raise Trouble(f"Python {sys.version.split()[0]} is too old", "Sidegate needs 3.11 or newer: make PYTHON=…")
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        raise Trouble(
            f"{sys.executable} comes without the module venv or ensurepip",
            f"Debian and Ubuntu have it in a package of its own: apt install {package}",
            "or name another Python: make PYTHON=…",
        )
    if (folder / "bin" / "python").exists() and _runs(folder):
        return
    step(f"creating {folder.name} with Python {sys.version.split()[0]}")
    shutil.rmtree(folder, ignore_errors=True)
    # Not the interpreter of the folder that is about to go.
    base = getattr(sys, "_base_executable", sys.executable)
    _quietly([base, "-m", "venv", str(folder)], f"{folder.name} could not be created")


def _runs(folder: Path) -> bool:
    command = [str(folder / "bin" / "python"), "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    except OSError:
        return False


def _pip(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    command = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", *arguments]
    _quietly(command, "pip could not install", environment)


def _quietly(command: list[str], fault: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_LIMIT_S,
    )
    if done.returncode:
        raise Trouble(f"{fault}: {' '.join(command)}", *(done.stdout + done.stderr).splitlines()[-15:])


def _fingerprint(*files: Path) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest() + f" {ROOT}"
