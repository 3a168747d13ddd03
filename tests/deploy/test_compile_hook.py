"""The build hook that compiles the wheel: when it does nothing, what it refuses, and its list of modules.

What it builds is tested by `make check-compiled`.
"""

import importlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from hatch_build import PURE, compiled_modules, lacking

ROOT = Path(__file__).resolve().parents[2]


def build(folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.slow
def test_a_wheel_is_pure_python_by_default(tmp_path: Path) -> None:
    assert build(tmp_path, SIDEGATE_COMPILE="0").returncode == 0
    assert [each.name for each in tmp_path.iterdir()] == ["sidegate-0.1.0-py3-none-any.whl"]


@pytest.mark.slow
def test_a_build_without_a_c_compiler_fails_with_its_name(tmp_path: Path) -> None:
    done = build(tmp_path, SIDEGATE_COMPILE="1", CC="/nowhere/cc -O2")
    assert done.returncode != 0
    assert "SIDEGATE_COMPILE=1 needs a C compiler: /nowhere/cc is not installed" in done.stderr


def test_missing_headers_of_python_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", {"include": str(tmp_path)}.get)
    assert lacking() == f"Python's headers: there is no {tmp_path}/Python.h (apt-get install python3-dev)"


@pytest.mark.slow
def test_an_unknown_value_of_the_variable_is_an_error(tmp_path: Path) -> None:
    done = build(tmp_path, SIDEGATE_COMPILE="yes")
    assert done.returncode != 0
    assert "SIDEGATE_COMPILE is 'yes'; 1 compiles, 0 does not" in done.stderr


def test_the_path_of_a_request_is_compiled_and_what_stays_python_exists() -> None:
    compiled = compiled_modules(ROOT / "proxy")
    for module in ("decision/bucket", "edge/client", "store/limiter", "store/redis/batch", "telemetry/metrics"):
        assert f"sidegate/{module}.py" in compiled
    for name in compiled:
        assert (ROOT / "proxy" / name).is_file()
    for each in PURE:
        assert (ROOT / "proxy" / "sidegate" / each).exists()
        assert not [name for name in compiled if name.startswith(f"sidegate/{each}")]


def test_no_compiled_module_defines_an_exception() -> None:
    for name in compiled_modules(ROOT / "proxy"):
        module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
        own = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
        assert not [each.__name__ for each in own if issubclass(each, BaseException)], name
