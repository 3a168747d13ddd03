"""`make start` and the others with Docker, as far as no engine is needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import free_port

# Docker and Compose answer queries, and Compose hangs in what changes something.
SLOW_ENGINE = """\
#!/bin/sh
case "$*" in
  info) echo "Server Version: 1" ;;
  "compose version") ;;
  *build*) exec sleep 60 ;;
esac
"""


@pytest.mark.slow
def test_a_command_of_compose_that_does_not_end_is_named(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(SLOW_ENGINE)
    docker.chmod(0o755)
    program = "import deploy.compose, deploy.__main__, sys; deploy.compose._BUILD_LIMIT_S = 0.2; sys.exit(deploy.__main__.main(['start']))"
    ports = {
        name: str(free_port())
        for name in ("REDIS_PORT", *(f"{kind}{n}_PORT" for kind in ("PROXY", "ADMIN", "APP") for n in (1, 2, 3)))
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **ports, "PATH": f"{tmp_path}:{os.environ['PATH']}", "RUN_DIR": str(tmp_path / "run"), "RUNTIME": "docker"},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "did not end within 0 s: docker compose build proxy1" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
