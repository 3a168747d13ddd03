"""deploy/sidegate.service, verified by systemd-analyze if it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "sidegate.service"
ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")
@pytest.mark.slow
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # systemd checks that the programs exist; any will do.
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/sidegate/bin/sidegate", "/bin/true"))
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_waits_longer_than_the_drain_timeout() -> None:
    lines = UNIT.read_text("utf-8").splitlines()
    (stop_s,) = [int(line.partition("=")[2]) for line in lines if line.startswith("TimeoutStopSec=")]
    assert stop_s > 20, "more than the default of listen.drain_timeout"
