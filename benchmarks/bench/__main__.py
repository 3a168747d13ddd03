"""`make bench`: CPU, latency and memory of a request, for Sidegate and its peers in one run. Writes results.md.

Exit status: 0 measured, 1 wrong responses, 2 wrong usage or no wrk.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence

from benchmarks.bench import machine, report, store_results
from benchmarks.bench.candidates import COMPILED, NGINX, SIDEGATE, Plan, plans, start
from benchmarks.bench.figures import Case, Sample
from benchmarks.bench.laboratory import ROOT, Laboratory, free_port
from benchmarks.bench.measure import ALLOWED, ALLOWED_ALIKE, REFUSED, REFUSED_ALIKE, WrongAnswers, measure

_ALIKE_AT = 32  # connections


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    options = _options(arguments)
    if shutil.which("wrk") is None:
        print("bench: wrk is missing; install it with: apt-get install wrk", file=sys.stderr)
        return 2
    known = plans()
    wanted = [plan for plan in known if not options.only or plan.name in options.only]
    missing = {plan.name: plan.missing for plan in wanted if plan.missing}
    for name, command in missing.items():
        print(f"bench: {name} is not installed and is left out; install it with: {command}", file=sys.stderr)
    cases = [Case(kind, connections) for connections in options.connections for kind in (ALLOWED, REFUSED)]
    if _ALIKE_AT in options.connections and not options.quick:
        cases += [Case(kind, _ALIKE_AT) for kind in (ALLOWED_ALIKE, REFUSED_ALIKE)]
    chosen = [plan for plan in wanted if not plan.missing]
    samples, uncounted = run(chosen, cases, options.rounds, options.seconds)
    for line in [*report.goal_lines(samples), *(line for case in cases for line in report.case_lines(samples, case))]:
        print(line)
    if options.keep:
        keep(samples, options, missing, uncounted)
    return 1 if uncounted else 0


def run(chosen: Sequence[Plan], cases: Sequence[Case], rounds: int, seconds: int) -> tuple[list[Sample], list[str]]:
    """Measure every candidate in every case, in turn, `rounds` times.

    Returns the samples, and a description of each measurement that had wrong responses.
    """
    samples: list[Sample] = []
    uncounted: list[str] = []
    with Laboratory() as laboratory:
        store_port, upstream_port = free_port(), free_port()
        store_pid = laboratory.start_store(store_port)
        laboratory.start_upstream(upstream_port)
        candidates = [start(laboratory, plan, upstream_port, store_port) for plan in chosen]
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for case in cases:
                for candidate in candidates:
                    try:
                        found = measure(laboratory, candidate, case, store_pid, seconds)
                    except WrongAnswers as error:
                        uncounted.append(f"{candidate.name}, {', '.join(map(str, case))}, round {number + 1}: {error}")
                        print(f"bench: wrong responses, not counted: {uncounted[-1]}", file=sys.stderr)
                    else:
                        samples.append(Sample(number, candidate.name, case, found))
    return samples, uncounted


def keep(samples: list[Sample], options: argparse.Namespace, missing: dict[str, str], uncounted: list[str]) -> None:
    """Write figures, chart and results.md."""
    names = dict.fromkeys(sample.candidate for sample in samples)
    document = {
        "machine": machine.describe(),
        "versions": {name: machine.version(name) for name in names},
        "rounds": options.rounds,
        "seconds": options.seconds,
        "missing": missing,
        "uncounted": uncounted,
        "samples": store_results.rows_of(samples),
    }
    store_results.save("peers", document)
    drawn = store_results.draw("peers")
    if drawn is None:
        print("bench: no chart: matplotlib is missing; install it with: make bench-tools", file=sys.stderr)
    store_results.save("peers", {**document, "chart": drawn is not None})
    store_results.PAGE.write_text(report.page())
    print(f"written: {store_results.PAGE.relative_to(ROOT)}", file=sys.stderr)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=_positive, default=5)
    parser.add_argument("--seconds", type=_positive, default=1, help="length of each measurement")
    parser.add_argument("--connections", type=_positive, nargs="+", default=[1, 32, 128])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="measure only these (sidegate, nginx+lua, traefik …)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="both builds of Sidegate and nginx, 32 connections, 3 rounds; print only",
    )
    parser.add_argument(
        "--no-keep", dest="keep", action="store_false", help="print only; leave benchmarks/results.md as it is"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.connections, options.keep = 3, [_ALIKE_AT], False
        options.only = options.only or [SIDEGATE, COMPILED, NGINX]
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    sys.exit(main())
