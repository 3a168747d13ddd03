"""Saves and loads figures in benchmarks/results, from which tables and charts are rendered."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.bench.figures import Case, Figures, Sample
from benchmarks.bench.laboratory import ROOT

FOLDER = ROOT / "benchmarks" / "results"
PAGE = ROOT / "benchmarks" / "results.md"
_PYTHON = ROOT / ".venv-bench" / "bin" / "python"

Document = Mapping[str, Any]


def save(name: str, document: Document) -> None:
    """Keep one run's figures."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def load(name: str) -> Document | None:
    """The figures kept last; None where there are none."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def rows_of(samples: list[Sample]) -> list[list[object]]:
    """Samples as JSON."""
    return [
        [each.round, each.candidate, *each.case, *(round(figure, 4) for figure in each.figures)] for each in samples
    ]


def samples_of(rows: list[list[Any]]) -> list[Sample]:
    """`rows_of`, read back."""
    return [
        Sample(number, candidate, Case(kind, connections), Figures(*figures))
        for number, candidate, kind, connections, *figures in rows
    ]


def draw(name: str) -> Path | None:
    """Draw the chart of one run; None where matplotlib is not there (`make bench-tools`)."""
    target = FOLDER / f"{name}.svg"
    command = [str(_PYTHON), "-m", "benchmarks.bench.chart", name, str(FOLDER / f"{name}.json"), str(target)]
    try:
        subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    except (OSError, subprocess.CalledProcessError):
        return None
    return target
