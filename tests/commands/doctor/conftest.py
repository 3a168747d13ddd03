"""Runs `sidegate doctor` with a configuration for one store and a real application."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from tests.commands.command_line import Done, sidegate
from tests.recorder import Recorder
from tests.servers import free_port
from tests.sidecar import configuration

Doctor = Callable[..., Done]


@pytest.fixture
def doctor(tmp_path: Path, recorder: Recorder) -> Doctor:
    """Runs the command with a configuration for one store; `sections` are merged into it."""

    def run(store_url: str, *arguments: str, **sections: Any) -> Done:
        config = configuration(store_url, recorder.url, **cast("Any", {"listen": {"port": free_port()}, **sections}))
        config["store"]["timeout"] = "500ms"  # a busy machine must not look like a slow store
        config["store"] |= sections.get("store", {})
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        return sidegate("doctor", "--json", str(file), *arguments)

    return run


def of(done: Done, part: str) -> dict[str, Any]:
    """The first finding of a part that is not ok, else the first."""
    found: list[dict[str, Any]] = [each for each in done.json["findings"] if each["part"] == part]
    return next((each for each in found if each["state"] != "ok"), found[0])
