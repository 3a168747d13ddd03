"""`make bench-calls`: function calls per request, allowed and refused, counted with sys.setprofile.

The sidecar runs in the main thread of this process; wrk loads it as in `make bench`. Calls from C code into C code
are not counted. Needs wrk.
"""

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import sidegate
from sidegate.app import run
from sidegate.config import ConfigSource, load

from benchmarks.bench import volley, wrk
from benchmarks.bench.candidates import configured
from benchmarks.bench.laboratory import Laboratory, free_port
from benchmarks.bench.measure import ALLOWED, KINDS, REFUSED

_PACKAGE = str(Path(sidegate.__file__).parent)
_START_TIMEOUT_S = 15.0
_CONNECTIONS, _SECONDS = 32, 2


class Calls(NamedTuple):
    """Calls per request: of the package's functions, of other Python functions, and of built-ins."""

    own: float
    other: float
    builtin: float


class CallCounter:
    """Counts the calls of one thread while `active`; pass `profile` to sys.setprofile."""

    def __init__(self) -> None:
        self.active = False
        self.functions: Counter[str] = Counter()

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        """Record one event of the interpreter."""
        if not self.active:
            return
        if event == "call":
            self.functions[f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}"] += 1
        elif event == "c_call":
            self.functions[f"<built-in> {argument.__qualname__}"] += 1

    def per_request(self, requests: int) -> Calls:
        """The counts divided by the number of requests."""
        found = {"own": 0, "other": 0, "builtin": 0}
        for name, count in self.functions.items():
            found["builtin" if name.startswith("<built-in>") else "own" if name.startswith(_PACKAGE) else "other"] += (
                count
            )
        return Calls(**{name: count / requests for name, count in found.items()})


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and print; returns the exit status: 0 counted, 1 wrong responses, 2 no wrk."""
    parser = argparse.ArgumentParser(prog="bench-calls", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--functions", type=int, default=0, metavar="N", help="also list the N functions called most")
    options = parser.parse_args(arguments)
    if shutil.which("wrk") is None:
        print("bench-calls: wrk is missing; install it with: apt-get install wrk", file=sys.stderr)
        return 2
    counter, failures = CallCounter(), []
    with Laboratory() as laboratory:
        ports = {name: free_port() for name in ("port", "admin", "upstream", "store")}
        laboratory.start_store(ports["store"])
        laboratory.start_upstream(ports["upstream"])
        path = Path(configured(laboratory, "sidegate.yaml", {name: str(port) for name, port in ports.items()}))

        def load_and_stop() -> None:
            try:
                _count_all(counter, ports["port"], laboratory.others, options.functions)
            except volley.WrongAnswers as error:
                failures.append(error)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=load_and_stop)
        thread.start()
        sys.setprofile(counter.profile)
        try:
            run(load(path, {}), ConfigSource(path, {}, {}))
        finally:
            sys.setprofile(None)
            thread.join()
    for failure in failures:
        print(f"bench-calls: wrong responses, so no figures: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _count_all(counter: CallCounter, port: int, core: int, functions: int) -> None:
    """Count the calls of both cases and print them. Raises WrongAnswers."""
    _wait_for(port)
    print("| case | own functions | other Python functions | built-ins | all |\n| --- | --- | --- | --- | --- |")
    for name in (ALLOWED, REFUSED):
        kind = KINDS[name]
        url = f"http://127.0.0.1:{port}{kind.path}"
        wrk.run(url, _CONNECTIONS, 1, core, users=kind.users)  # connections and caches exist when counting begins
        counter.functions.clear()
        counter.active = True
        outcome = wrk.run(url, _CONNECTIONS, _SECONDS, core, users=kind.users)
        counter.active = False
        if not outcome.requests or outcome.broken or (outcome.failed > 0) == kind.passes:
            raise volley.WrongAnswers(str(outcome))
        found = counter.per_request(outcome.requests)
        print(f"| {name} | {found.own:.1f} | {found.other:.1f} | {found.builtin:.1f} | {sum(found):.1f} |")
        _print_functions(counter.functions, outcome.requests, functions)


def _print_functions(functions: Mapping[str, int], requests: int, most: int) -> None:
    for function, count in sorted(functions.items(), key=lambda each: -each[1])[:most]:
        print(f"{count / requests:8.2f} {function.removeprefix(_PACKAGE)}", file=sys.stderr)


def _wait_for(port: int) -> None:
    """Wait until the sidecar responds. Raises WrongAnswers if it does not in time."""
    until = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            volley.expect_only(200, port, "/wide", 1)
        except volley.WrongAnswers:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
