"""`make chaos`: runs every scenario at length and prints a table. Fails where a bound does not hold."""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from tests.chaos.lab import lab
from tests.chaos.local_share import admitted_without_store
from tests.chaos.many_keys import flooded
from tests.chaos.repeated_outages import repeated
from tests.chaos.scenarios import NOISE_FACTOR, SCENARIOS, Bounds, Report, run
from tests.chaos.shares import CASES, shares
from tests.chaos.storms import Outcome, abandoned, departed, exactly_the_burst, shown_evicting, started_without

TIMEOUT_S = 0.05
# What is promised on a machine that has nothing else to do; what the control shows is added.
BOUNDS = Bounds(until_open_s=TIMEOUT_S + 0.05, quiet_p99_s=0.010, recovery_s=2.0, unavailable=2.0, greed=10.0)
HEAD = f"{'':5} {'scenario':38} {'200':>6} {'429':>6} {'503':>6} {'other':>5} {'slowest':>9} {'p99 open':>9} {'back':>7}  {'admitted/allowed':27} {'control':>13}  verdict"


def line(report: Report) -> str:
    """One row of the table."""
    statuses: Counter[int] = report.statuses
    other = sum(count for status, count in statuses.items() if status not in (200, 429, 503))
    quiet = "" if report.quiet_p99_s is None else f"{report.quiet_p99_s * 1000:.1f} ms"
    back = "" if report.recovered_s is None else f"{report.recovered_s:.2f} s"
    counts = " ".join(f"{statuses[status]:>6}" for status in (200, 429, 503))
    return (
        f"{report.scenario.name:5} {report.scenario.title:38} {counts} {other:>5} {report.slowest_s * 1000:>6.0f} ms "
        f"{quiet:>9} {back:>7}  {report.admitted:27} {report.noise:>13}  {'; '.join(report.faults) or 'holds'}"
    )


async def scenarios(names: list[str], span_s: float, rate_per_s: float) -> bool:
    """Run the scenarios that need nothing but the lab."""
    right = True
    with lab(f"{TIMEOUT_S * 1000:g}ms") as made:
        made.span_s, made.timeout_s = span_s, TIMEOUT_S
        for scenario in SCENARIOS:
            if not names or scenario.name in names:
                report = await run(scenario, made, rate_per_s, calm_s=2.0, after_s=2.5, bounds=BOUNDS)
                print(line(report), flush=True)
                right = right and not report.faults
    return right


async def main(names: list[str], span_s: float, rate_per_s: float, users: int, flood_s: float) -> int:
    print(
        f"three sidecars, {rate_per_s:g} requests/s, store.timeout {TIMEOUT_S * 1000:g} ms, faults of {span_s:g} s;",
        "policies: four tenths of the traffic calm (deny), a fifth tight (deny), a tenth local, a fifth one greedy user "
        "(local), a tenth allow; 503 under deny for at most twice the share of time that the store is away",
        "admitted/allowed: tight, then local: the key nearest its bound; then the greedy user over all rounds",
        "control: a fourth sidecar whose store has no fault; its slowest request, and the share that took over a fourth "
        f"of store.timeout; the bounds of latency and 503 allow for {NOISE_FACTOR:g} times of it",
        HEAD,
        sep="\n",
        flush=True,
    )
    right = await scenarios(names, span_s, rate_per_s)
    checks: dict[str, Callable[[], Awaitable[Outcome]]] = {
        "FA01": started_without,
        "FA13": shown_evicting,
        "FA19": departed,
        "KEYS": partial(flooded, users, flood_s),
        "AGAIN": repeated,
        "FLAP": partial(repeated, 8, 0.9, 1.0),
        **{f"SHARE{number}": partial(shares, case) for number, case in enumerate(CASES, 1)},
    }
    with lab("1s") as made:
        checks |= {
            "FA14": partial(abandoned, made),
            "FA22": partial(exactly_the_burst, made),
            "LOCAL": partial(admitted_without_store, made),
        }
        for name, check in checks.items():
            if not names or name in names:
                text, faults = await check()
                print(f"{name:5} {text}  {'; '.join(faults) or 'holds'}", flush=True)
                right = right and not faults
    return 0 if right else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("names", nargs="*", help="scenarios by name (default: all)")
    parser.add_argument("--span", type=float, default=6.0, help="how long each fault lasts, in seconds")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second of the scenarios")
    parser.add_argument("--users", type=int, default=200_000, help="identities of KEYS")
    parser.add_argument("--flood", type=float, default=3600.0, help="the longest that they may take, in seconds")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.names, options.span, options.rate, options.users, options.flood)))
