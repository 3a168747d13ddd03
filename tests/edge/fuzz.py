"""Search for bytes that break the edge, for a given time: `make fuzz SECONDS=60`. See test_fuzz.

A failing input is minimised, saved in tests/edge/seeds and printed. The exit status is 1 if there was one.
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.strategies import SearchStrategy

from tests.edge import test_fuzz as checks

EXAMPLES = 300  # of one target, then the next one's turn
TARGETS: dict[str, SearchStrategy[Any]] = {
    "client": checks.REQUESTS,
    "application": checks.ANSWER,
    "fields": checks.HEADS,
    "frames": checks.FRAMES,
}


class Search:
    """One target's search. `failing` is the smallest input that breaks it so far."""

    def __init__(self, name: str, strategy: SearchStrategy[Any]) -> None:
        self.name = name
        self.tried = 0
        self.failing: checks.Pieces | None = None
        phases = (Phase.generate, Phase.shrink)
        how = settings(
            max_examples=EXAMPLES,
            derandomize=False,
            database=None,
            deadline=None,
            phases=phases,
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        self._run: Callable[[], None] = how(given(strategy)(self._try))

    def go_on(self) -> bool:
        """Try some more; whether something was found."""
        try:
            self._run()
        except Exception as error:  # noqa: BLE001  (whatever it is, it was found)
            print(f"\n{self.name}: {type(error).__name__}: {error}")
            return True
        return False

    def keep(self) -> None:
        """Write what was found where the tests look for it."""
        if self.failing is None:
            return
        data = checks.CUT.join(self.failing) + checks.CUT
        checks.SEEDS.mkdir(exist_ok=True)
        path = checks.SEEDS / f"{self.name}-{hashlib.sha256(data).hexdigest()[:12]}.raw"
        path.write_bytes(data)
        print(f"{self.name}: {self.failing!r}\nkept as {path.relative_to(checks.SEEDS.parents[2])}")

    def _try(self, pieces: checks.Pieces) -> None:
        self.tried += 1
        try:
            checks.CHECKS[self.name](pieces)
        except BaseException:
            self.failing = pieces
            raise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    until_s = time.monotonic() + parser.parse_args().seconds
    searches = [Search(name, strategy) for name, strategy in TARGETS.items()]
    found = False
    while time.monotonic() < until_s and not found:
        for search in searches:
            if time.monotonic() < until_s and search.go_on():
                search.keep()
                found = True
    print(", ".join(f"{search.name}: {search.tried} inputs" for search in searches))
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
