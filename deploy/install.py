"""Create `.venv` from a lock in `requirements/`, with an editable install of this project.

`run.txt` holds what the demonstration needs, `dev.txt` also the tools of `make check`. On demand: `.venv-tools` for the
Redis prompt (iredis needs another version of redis-py) and `.venv-bench` for the benchmark's peers and charts (large).
Standard library only: this module runs under any Python from 3.11 on, before anything is installed.
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
_RUN_LOCK = ROOT / "requirements" / "run.txt"
_DEV_LOCK = ROOT / "requirements" / "dev.txt"
_TOOLS_LOCK = ROOT / "requirements" / "redis-cli.txt"
_BENCH = ROOT / ".venv-bench"
_BENCH_LOCK = ROOT / "requirements" / "bench.txt"
_APPS = ROOT / ".venv-apps"
_APPS_LOCK = ROOT / "requirements" / "applications.txt"
# The version that docs/applications.md is tested with.
EXPRESS = "express@5"
_LIMIT_S = 1200
_OLDEST = (3, 11)


def install() -> None:
    """Install what the demonstration needs, unless it is there. Raises Trouble if pip fails."""
    if not _is_installed(_RUN_LOCK, "run"):
        step("installing the packages that running needs (the first time takes up to a minute)")
        _install(_RUN_LOCK, "run")


def install_dev() -> None:
    """Install what `make check` needs, unless it is there. Raises Trouble if pip fails."""
    if not _is_installed(_DEV_LOCK, "dev"):
        step("installing the tools of `make check` (the first time takes some minutes)")
        _install(_DEV_LOCK, "dev")
        _record(_RUN_LOCK, "run")  # the versions of the smaller lock are among those of the larger one


def _is_installed(lock: Path, name: str) -> bool:
    stamp = _VENV / f".installed-{name}"
    return stamp.exists() and stamp.read_text() == _wanted(lock) and (_VENV / "bin" / "sidegate").exists()


def _install(lock: Path, name: str) -> None:
    _make_venv(_VENV)
    _pip(_VENV, "install", "--require-hashes", "-r", str(lock))
    _pip(_VENV, "install", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    _record(lock, name)


def _record(lock: Path, name: str) -> None:
    (_VENV / f".installed-{name}").write_text(_wanted(lock))


def _wanted(lock: Path) -> str:
    return _fingerprint(lock, ROOT / "pyproject.toml")


def redis_prompt() -> Path:
    """Return the path of iredis; installs it on first use."""
    _on_demand(_TOOLS, _TOOLS_LOCK, "redis-cli is not installed: installing iredis into .venv-tools, once")
    return _TOOLS / "bin" / "iredis"


def bench_tools() -> None:
    """Install the benchmark's peers and its chart library."""
    _on_demand(_BENCH, _BENCH_LOCK, "installing Traefik, Envoy and matplotlib into .venv-bench, once (100 MB)")


def applications() -> None:
    """Install the application servers of docs/applications.md; Express only where npm is."""
    _on_demand(_APPS, _APPS_LOCK, "installing gunicorn, uvicorn, Django, Flask and FastAPI into .venv-apps, once")
    if shutil.which("npm") and not (_APPS / "node_modules" / "express").exists():
        step("installing Express into .venv-apps")
        _quietly(["npm", "install", "--silent", "--prefix", str(_APPS), EXPRESS], "npm could not install Express")


def _on_demand(folder: Path, lock: Path, message: str) -> None:
    stamp, wanted = folder / ".installed", _fingerprint(lock)
    if not stamp.exists() or stamp.read_text() != wanted:
        step(message)
        _make_venv(folder)
        _pip(folder, "install", "--require-hashes", "-r", str(lock))
        stamp.write_text(wanted)


def _make_venv(folder: Path) -> None:
    if sys.version_info < _OLDEST:
        raise Trouble(f"Python {sys.version.split()[0]} is too old", "Sidegate needs 3.11 or newer: make PYTHON=…")
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        raise Trouble(
            f"{sys.executable} lacks the module venv or ensurepip",
            f"Debian and Ubuntu package it separately: apt install {package}",
            "or use another Python: make PYTHON=…",
        )
    if (folder / "bin" / "python").exists() and _runs(folder):
        return
    step(f"creating {folder.name} with Python {sys.version.split()[0]}")
    shutil.rmtree(folder, ignore_errors=True)
    # This process may run in the folder that was just removed: use the interpreter that it was made from.
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
