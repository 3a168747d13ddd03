"""`local` with a dead store: the total that three sidecars admit of evenly spread traffic."""

import asyncio

from tests.chaos.lab import QUOTAS, Lab
from tests.chaos.storms import Outcome
from tests.chaos.traffic import Traffic, Wanted


async def admitted_without_store(made: Lab, seconds: float = 60.0) -> Outcome:
    """Total admitted against the shared limit; faults where it is not within 50 % and 100 % of it.

    The outage begins at once: sidecars that have not seen each other yet take smaller shares.
    """
    quota = QUOTAS["local"]
    await made.settled()
    made.round += 1
    await asyncio.to_thread(made.store.kill)
    # Each user's requests rotate over the sidecars, at more than twice its limit.
    keys, prefix = quota.keys, f"alone-{made.round}"
    traffic = Traffic(
        [sidecar.port for sidecar in made.sidecars],
        2.2 * quota.rate_per_s * keys,
        lambda number: Wanted("local", f"{prefix}-{number // 3 % keys}", f"/local/{prefix}/{number}"),
    )
    task = asyncio.get_running_loop().create_task(traffic.run())
    await asyncio.sleep(seconds)
    traffic.stop()
    await task
    await asyncio.to_thread(made.store.start)
    took_s = max(each.sent_s + each.took_s for each in traffic.answers) - min(each.sent_s for each in traffic.answers)
    admitted = sum(each.status == 200 for each in traffic.answers)
    allowed = keys * (quota.burst + quota.rate_per_s * took_s)
    share = admitted / allowed
    faults = [] if 0.5 <= share <= 1.0 else [f"{share:.1%} of the shared limit"]
    if other := {each.status for each in traffic.answers} - {200, 429}:
        faults.append(f"answers {other}")
    return f"dead store, {took_s:.0f} s: {admitted} admitted of {allowed:.0f} shared ({share:.1%})", faults
