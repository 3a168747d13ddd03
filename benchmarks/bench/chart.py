"""Draws the charts. Runs under the Python of .venv-bench, where matplotlib is: `python -m benchmarks.bench.chart peers
FIGURES.json CHART.svg`.
"""

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

_CONNECTIONS, _KINDS = 32, ("allowed", "refused")
_RATE, _PROXY_US, _P99_MS = 4, 5, 8  # columns of a row, see store_results.rows_of
_SHADES = ("#1b7837", "#a6dba0")


def peers(document: dict[str, Any], figure: Any) -> None:
    """CPU a request and p99 at 32 connections; requests a second over the connections."""
    rows = document["samples"]
    names = list(dict.fromkeys(row[1] for row in rows))
    figure.set_size_inches(12, 4)
    cpu, p99, rate = figure.subplots(1, 3)
    for axes, column, title in ((cpu, _PROXY_US, "CPU of the proxy, µs a request"), (p99, _P99_MS, "p99, ms")):
        for number, kind in enumerate(_KINDS):
            heights = [_middle(rows, name, kind, _CONNECTIONS, column) for name in names]
            at = [position + (number - 0.5) * 0.38 for position in range(len(names))]
            bars = axes.bar(at, heights, 0.38, label=kind, color=_SHADES[number])
            axes.bar_label(bars, fmt="%.3g", fontsize=7)
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
        axes.set_title(f"{title} ({_CONNECTIONS} connections)", fontsize=9)
        axes.legend(fontsize=8)
    connections = sorted({row[3] for row in rows})
    for name in names:
        rate.plot(connections, [_middle(rows, name, "allowed", each, _RATE) for each in connections], "o-", label=name)
    rate.set_xscale("log", base=2)
    rate.set_xticks(connections, list(map(str, connections)))
    rate.set_ylim(0)
    rate.set_title("allowed requests a second, by connections", fontsize=9)
    rate.legend(fontsize=8)


def growth(document: dict[str, Any], figure: Any) -> None:
    """CPU of proxy and store a request, one picture a question."""
    figure.set_size_inches(12, 6.5)
    pictures = figure.subplots(2, 3).flat
    for axes, (name, points) in zip(pictures, document["points"].items(), strict=True):
        sizes = [point[0] for point in points]
        axes.plot(sizes, [point[1] for point in points], "o-", label="proxy", color=_SHADES[0])
        axes.plot(sizes, [point[2] for point in points], "o--", label="store", color="#762a83")
        wide = max(sizes) > 20
        axes.set_xscale("symlog" if wide else "linear")
        if max(point[1] for point in points) > 20 * points[0][1]:
            axes.set_yscale("log")
        else:
            axes.set_ylim(0)
        axes.set_title(name, fontsize=8)
        axes.set_ylabel("CPU µs a request", fontsize=8)
        axes.legend(fontsize=8)


def _middle(rows: list[list[Any]], name: str, kind: str, connections: int, column: int) -> float:
    values = [row[column] for row in rows if row[1:4] == [name, kind, connections]]
    return median(values) if values else 0.0


def main(kind: str, source: str, target: str) -> None:
    """Draw one chart."""
    mpl.rcParams["svg.hashsalt"] = "sidegate"  # the same figures make the same file
    figure = plt.figure(layout="constrained")
    {"peers": peers, "growth": growth}[kind](json.loads(Path(source).read_text()), figure)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:4])
