"""Fixtures for tests of commands."""

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

WriteConfig = Callable[[str], Path]


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Return a function that writes a configuration to a new file."""

    def write(text: str) -> Path:
        path = tmp_path / f"config-{len(list(tmp_path.glob('config-*')))}.yaml"
        path.write_text(textwrap.dedent(text), "utf-8")
        return path

    return write
