"""Which packages a command loads. They make most of its start time, so a command loads only those that it needs."""

import subprocess
import sys

import pytest

from tests.commands.command_line import environment

HEAVY = ("aiohttp", "redis", "pydantic", "yaml", "rich", "prometheus_client", "asyncio")
# Runs a command line, then prints the packages of HEAVY that are loaded.
PROBE = """
import contextlib, io, sys
from sidegate.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    try:
        main(sys.argv[2:])
    except SystemExit:
        pass
print(*(name for name in sys.argv[1].split(",") if name in sys.modules))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--version"], set[str]()),
        (["--help"], set[str]()),
        (["completion", "bash"], set[str]()),
        (["tail", "--once", "--admin", "http://127.0.0.1:1"], set[str]()),
        (["status", "--admin", "http://127.0.0.1:1"], {"rich"}),
        (["buckets", "list", "--admin", "http://127.0.0.1:1"], {"rich"}),
        (["check", "config.yaml"], {"pydantic", "yaml"}),
        (["explain", "config.yaml", "GET", "/"], {"pydantic", "yaml", "rich"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_loads_only_what_it_needs(arguments: list[str], needed: set[str]) -> None:
    command = [sys.executable, "-c", PROBE, ",".join(HEAVY), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert set(done.stdout.split()) <= needed
