"""deploy/sidegate.service, by systemd's own check where there is one."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "sidegate.service"
ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze here")
@pytest.mark.slow
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # systemd wants the programs to be there: any will do.
    unit.write_text(UNIT.read_text("utf-8").replace("/opt/sidegate/bin/sidegate", "/bin/true"))
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_leaves_requests_the_time_to_end() -> None:
    lines = UNIT.read_text("utf-8").splitlines()
    (stop_s,) = [int(line.partition("=")[2]) for line in lines if line.startswith("TimeoutStopSec=")]
    assert stop_s > 20, "more than the default of listen.drain_timeout"
