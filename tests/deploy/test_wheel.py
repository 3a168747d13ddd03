"""The wheel in an environment of its own, beside the PyPI package proxy.py. Skipped if pip cannot download packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.recorder import Recorder
from tests.servers import StoreServer, free_port

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
listen: {{host: 127.0.0.1, port: {port}}}
admin: {{port: {admin}}}
upstream: {{url: "http://127.0.0.1:9"}}
store: {{url: "redis://127.0.0.1:9"}}
policies: []
"""


def run(*command: object, cwd: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **more}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment with the wheel and proxy.py."""
    folder = tmp_path_factory.mktemp("wheel")
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    made = run(sys.executable, "-m", "venv", folder / "env", cwd=folder)
    assert made.returncode == 0, made.stderr
    commands = folder / "env" / "bin"
    pip = (commands / "python", "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "15")
    lock = ("--require-hashes", "-r", ROOT / "requirements" / "image.txt")
    for packages in (lock, ("--no-deps", *folder.glob("*.whl")), ("proxy.py",)):
        done = run(*pip, *packages, cwd=folder)
        if done.returncode and "--no-deps" not in packages:
            pytest.skip(f"pip cannot download packages: {done.stderr.strip().splitlines()[-1:]}")
        assert done.returncode == 0, done.stderr
    return commands


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.long
def test_the_wheel_and_proxy_py_work_in_one_environment(installed: Path, tmp_path: Path) -> None:
    version = run(installed / "sidegate", "--version", cwd=tmp_path)
    assert (version.returncode, version.stdout) == (0, "sidegate 0.1.0 (pure Python)\n")
    other = run(installed / "proxy", "--version", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    both = "import proxy, sidegate; print(proxy.entry_point.__name__, sidegate.__version__)"
    assert run(installed / "python", "-c", both, cwd=tmp_path).stdout == "entry_point 0.1.0\n"
    for package in ("tests", "deploy", "benchmarks", "upstream_app"):
        assert run(installed / "python", "-c", f"import {package}", cwd=tmp_path).returncode != 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.long
def test_the_installed_command_runs_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG.format(port=free_port(), admin=free_port()))
    process = subprocess.Popen([installed / "sidegate", "run"], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert any('"event":"started"' in line for line in process.stdout)
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0


def five_commands() -> list[str]:
    """The commands of the README's section for an application of one's own, in its order."""
    section = (ROOT / "README.md").read_text("utf-8").partition("## For your own application\n")[2]
    block = section.partition("\n\n    ")[2].partition("\n\n")[0]
    return [line.strip().partition("   ")[0] for line in block.splitlines()]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_application_of_ones_own_takes_five_commands(
    installed: Path, tmp_path: Path, store_server: StoreServer
) -> None:
    install, init, doctor, start, curl = five_commands()
    assert install == "pip install .", "the fixture has installed a wheel of this checkout"
    recorder = Recorder()
    port = free_port()
    # The README's addresses are the defaults; the environment moves them to this test's.
    environment = {
        "PATH": f"{installed}:{os.environ['PATH']}",
        "PORT": str(port),
        "ADMIN_PORT": str(free_port()),
        "REDIS_URL": store_server.url,
        "UPSTREAM_URL": recorder.url,
    }
    written = run("sh", "-c", init, cwd=tmp_path, **environment)
    assert (written.returncode, written.stderr) == (0, ""), written.stderr
    examined = run("sh", "-c", doctor, cwd=tmp_path, **environment)
    assert examined.returncode == 0, examined.stdout
    process = subprocess.Popen(
        ["sh", "-c", f"exec {start}"],
        cwd=tmp_path,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert any('"event":"started"' in line for line in process.stdout)
        answer = run("sh", "-c", curl.replace(":8080", f":{port}"), cwd=tmp_path, **environment)
    finally:
        process.terminate()
        process.communicate(timeout=30)
        recorder.stop()
    assert process.returncode == 0
    assert answer.stdout.startswith("HTTP/1.1 200 "), answer
    assert 'RateLimit: "callers";r=99' in answer.stdout
