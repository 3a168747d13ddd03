"""The faults of the store, and the invariants that hold in all of them."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis

from tests.chaos.fault_proxy import Delay, MixesUp, cuts, garbles, repeats, swallows, truncates
from tests.chaos.lab import QUOTAS, Inject, Lab, under_load
from tests.chaos.traffic import Answered
from tests.servers import free_port


@dataclass(frozen=True, slots=True)
class Scenario:
    """`outage`: requests may meet the failure mode; `opens`: long enough for the breaker to open. `losses` of state.

    `away_s`: how long the store cannot decide, where that is not the span of the fault.
    """

    name: str
    title: str
    inject: Inject
    outage: bool = True
    losses: int = 0
    opens: bool = True
    away_s: float | None = None


# -- the faults --------------------------------------------------------------------------------------------------------


async def killed(lab: Lab) -> None:
    lab.begin()
    await asyncio.to_thread(lab.store.kill)
    await lab.last()
    await asyncio.to_thread(lab.store.start)
    lab.end()


async def stopped(lab: Lab) -> None:
    lab.begin()
    lab.store.pause()
    await lab.last()
    lab.store.resume()
    lab.end()


def through(fault: Callable[[Lab], None]) -> Inject:
    """A fault of the proxy before the store, for the span."""

    async def inject(lab: Lab) -> None:
        lab.begin()
        fault(lab)
        await lab.last()
        lab.proxy.heal()
        lab.end()

    return inject


def black_hole(lab: Lab) -> None:
    lab.proxy.fault = swallows


def truncated(lab: Lab) -> None:
    lab.proxy.fault = truncates


def cut(lab: Lab) -> None:
    lab.proxy.fault = cuts


def garbled(lab: Lab) -> None:
    lab.proxy.fault = garbles


def repeated(lab: Lab) -> None:
    lab.proxy.fault = repeats


def mixed_up(lab: Lab) -> None:
    lab.proxy.fault = MixesUp()


def late(lab: Lab) -> None:
    lab.proxy.delay = Delay(0.5 * lab.timeout_s, 0.25 * lab.timeout_s)


def too_late(lab: Lab) -> None:
    lab.proxy.delay = Delay(4 * lab.timeout_s)


def every(part: float, act: Callable[[Lab], object]) -> Inject:
    """An action that is repeated at equal parts of the span."""

    async def inject(lab: Lab) -> None:
        lab.begin()
        for _ in range(round(1 / part)):
            await asyncio.sleep(lab.span_s * part)
            act(lab)
        lab.end()

    return inject


def flushed(lab: Lab) -> None:
    lab.store.client.flushall()


def script_flushed(lab: Lab) -> None:
    lab.store.client.script_flush()


def reset(lab: Lab) -> None:
    lab.proxy.reset_all()


def between(begin: Callable[[redis.Redis], object], end: Callable[[redis.Redis], object]) -> Inject:
    """Two commands to the store, a span apart."""

    async def inject(lab: Lab) -> None:
        lab.begin()
        begin(lab.store.client)
        await lab.last()
        end(lab.store.client)
        lab.end()

    return inject


async def paused(lab: Lab) -> None:
    lab.begin()
    lab.store.client.client_pause(int(lab.span_s * 1000))
    await lab.last()
    lab.end()


async def busy(lab: Lab) -> None:
    """A script that never ends: no reply at first, then BUSY, until it is killed."""

    def endless() -> None:
        client = redis.Redis(unix_socket_path=str(lab.store.socket_path))
        with client, contextlib.suppress(redis.ResponseError):  # killed
            client.eval("while true do end", 0)

    lab.store.client.config_set("busy-reply-threshold", "20")
    lab.begin()
    running = asyncio.get_running_loop().create_task(asyncio.to_thread(endless))
    await lab.last()
    lab.store.client.script_kill()
    lab.end()
    await running


async def locked(lab: Lab) -> None:
    """A password that the sidecars do not know."""
    client = lab.store.client
    lab.begin()
    client.config_set("requirepass", "new")
    lab.proxy.reset_all()
    await lab.last()
    client.config_set("requirepass", "")
    lab.end()


async def crowded(lab: Lab) -> None:
    """No connection slot for the sidecars (maxclients)."""
    client = lab.store.client
    before = client.config_get("maxclients")["maxclients"] or "10000"
    lab.begin()
    client.config_set("maxclients", "1")
    lab.proxy.reset_all()
    await lab.last()
    client.config_set("maxclients", before)
    lab.end()


SCENARIOS = [
    Scenario("FA02", "kill -9, restart empty", killed, losses=1),
    Scenario("FA03", "black hole", through(black_hole)),
    Scenario("FA04", "SIGSTOP, SIGCONT", stopped),
    Scenario("FA05", "answers late, but in time", through(late), outage=False),
    Scenario("FA06", "answers later than store.timeout", through(too_late)),
    Scenario("FA07", "FLUSHALL, four times", every(0.25, flushed), outage=False, losses=4),
    Scenario("FA08", "SCRIPT FLUSH, often", every(0.04, script_flushed), outage=False),
    Scenario(
        "FA11",
        "made a replica: READONLY",
        between(lambda c: c.replicaof("127.0.0.1", str(free_port())), lambda c: c.replicaof("NO", "ONE")),
    ),
    Scenario(
        "FA12",
        "out of memory: OOM",
        between(lambda c: c.config_set("maxmemory", "1"), lambda c: c.config_set("maxmemory", "0")),
        opens=False,  # reads, and so refusals, still work
    ),
    Scenario("FB01", "CLIENT PAUSE", paused),
    Scenario("FB02", "an endless script: silence, BUSY", busy),
    Scenario("FB03", "requirepass set on the store: NOAUTH", locked),
    Scenario("FB04", "no connection left: MAXCLIENTS", crowded),
    Scenario("FB05", "half of each reply, then silence", through(truncated)),
    Scenario("FB06", "half of each reply, then the end", through(cut)),
    Scenario("FB07", "replies of another protocol", through(garbled)),
    Scenario("FB08", "each reply twice", through(repeated), opens=False),
    Scenario("FB09", "replies in the wrong order", through(mixed_up), opens=False),
    # Ten times what is in flight fails, and what comes within a reconnection.
    Scenario("FB10", "connections reset in mid-batch", every(0.1, reset), opens=False, away_s=10 * 0.02),
]


# -- the invariants ---------------------------------------------------------------------------------------------------


# How many times the lateness of the control is allowed for: the others are three, and a breaker that opens because of
# the machine stays open for some time.
NOISE_FACTOR = 3.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of latency on a machine that has nothing else to do, in seconds; see `Noise` for any other.

    `quiet_p99_s`: of 99 in 100 requests while the breaker is open. `unavailable`: the share of 503 under `deny`, as a
    multiple of the share of time for which the store is away. `greed`: the least that the greedy user is offered, as a
    multiple of its bound.
    """

    until_open_s: float
    quiet_p99_s: float
    recovery_s: float
    unavailable: float
    greed: float


class Noise:
    """What the machine does to requests that meet no fault: the control's, at the same time."""

    def __init__(self, control: Sequence[Answered], timeout_s: float) -> None:
        self._control = control
        # A fourth of the timeout: in FA05 the store itself takes up to three.
        late = [each for each in control if each.took_s > timeout_s / 4 or each.status not in (200, 429)]
        self._late_s = [each.sent_s + each.took_s for each in late]
        self.slowest_s = max(each.took_s for each in control)
        self.late = len(late) / len(control)
        self.unanswered = sum(each.status == 0 for each in control) / len(control)

    def p99_s(self, begun_s: float, ended_s: float) -> float:
        """Of 99 in 100 requests that were sent in this time."""
        took = [each.took_s for each in self._control if begun_s < each.sent_s < ended_s]
        return percentile_99(took) if took else self.slowest_s

    def lasts_s(self, ended_s: float) -> float:
        """How long after this moment the last request was late."""
        return max((late_s - ended_s for late_s in self._late_s if late_s > ended_s), default=0.0)


def percentile_99(values: Sequence[float]) -> float:
    """The value that 99 in 100 do not exceed."""
    return sorted(values)[int(0.99 * len(values))]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one scenario. `faults` is empty if all invariants hold. `noise`: what the control shows."""

    scenario: Scenario
    statuses: Counter[int]
    slowest_s: float
    quiet_p99_s: float | None
    recovered_s: float | None
    admitted: str
    noise: str
    faults: list[str]


async def run(scenario: Scenario, lab: Lab, rate_per_s: float, calm_s: float, after_s: float, bounds: Bounds) -> Report:
    """Run one scenario and check its invariants."""
    await lab.settled()
    answers, control = await under_load(lab, rate_per_s, calm_s, after_s, scenario.inject)
    noise = Noise(control, lab.timeout_s)
    opened = lab.first_moments("store_breaker_open")
    faults = list(_wrong(scenario, lab, answers, noise))
    open_s = max(opened) if len(opened) >= len(lab.sidecars) else None
    waiting = [each.took_s for each in answers if open_s is None or each.sent_s < open_s or each.sent_s > lab.ended_s]
    quiet = [each.took_s for each in answers if open_s is not None and open_s + 0.1 < each.sent_s < lab.ended_s - 0.1]
    quiet_p99_s = percentile_99(quiet) if quiet else None
    if scenario.opens and scenario.outage and open_s is None:
        faults.append(f"the breaker opened on {len(opened)} of {len(lab.sidecars)} sidecars")
    if max(waiting) > bounds.until_open_s + NOISE_FACTOR * noise.slowest_s:
        faults.append(f"a request took {max(waiting) * 1000:.0f} ms")
    if quiet_p99_s is not None and open_s is not None:
        control_s = noise.p99_s(open_s + 0.1, lab.ended_s - 0.1)
        if quiet_p99_s > bounds.quiet_p99_s + NOISE_FACTOR * control_s:
            faults.append(
                f"p99 {quiet_p99_s * 1000:.1f} ms with the breaker open, of the control {control_s * 1000:.1f} ms"
            )
    denied = [each.sent_s for each in answers if each.status == 503 and each.sent_s > lab.ended_s]
    recovered_s = max(denied) - lab.ended_s if denied else 0.0
    if recovered_s > bounds.recovery_s + noise.lasts_s(lab.ended_s):
        faults.append(f"503 still {recovered_s:.2f} s after the fault")
    if scenario.outage:
        faults += _unavailable(scenario, lab, answers, bounds.unavailable, noise)
    admitted, over = _admitted(scenario, lab, answers, bounds.greed)
    statuses = Counter(each.status for each in answers)
    shown = f"{noise.slowest_s * 1000:.0f} ms {noise.late:.1%}"
    return Report(scenario, statuses, max(waiting), quiet_p99_s, recovered_s, admitted, shown, faults + over)


def _unavailable(scenario: Scenario, lab: Lab, answers: Sequence[Answered], most: float, noise: Noise) -> list[str]:
    """Whether more requests were denied than the outage and the machine explain."""
    asked = [each for each in answers if QUOTAS[each.wanted.kind].on_failure == "deny"]
    denied = sum(each.status == 503 for each in asked) / len(asked)
    seconds = max(each.sent_s for each in answers) - min(each.sent_s for each in answers)
    away = (lab.ended_s - lab.begun_s if scenario.away_s is None else scenario.away_s) / seconds
    if denied <= most * away + NOISE_FACTOR * noise.late:
        return []
    return [f"503 for {denied:.1%}, the store away for {away:.1%} of the time, {noise.late:.1%} late at the control"]


def _wrong(scenario: Scenario, lab: Lab, answers: Sequence[Answered], noise: Noise) -> list[str]:
    """Answers that must never occur."""
    faults = []
    unknown = Counter(each.status for each in answers if each.status not in (0, 200, 429, 503))
    unanswered = sum(each.status == 0 for each in answers)
    if unanswered > NOISE_FACTOR * noise.unanswered * len(answers):
        unknown[0] = unanswered
    if unknown:
        faults.append(f"answers {dict(unknown)}")
    if wrong := sum(each.status == 200 and not each.echoed for each in answers):
        faults.append(f"{wrong} answers of other requests")
    failed = Counter(each.wanted.kind for each in answers if each.status == 503)
    if not scenario.outage and failed.total() > NOISE_FACTOR * noise.late * len(answers):
        faults.append(f"503 without an outage: {dict(failed)}, {noise.late:.1%} late at the control")
    if mistaken := failed["local"] + failed["greedy"] + failed["open"]:
        faults.append(f"{mistaken} times 503 where the policy lets pass")
    if refused := sum(each.status == 429 and each.wanted.kind == "calm" for each in answers):
        faults.append(f"{refused} refusals below the limit")
    if scenario.outage and scenario.opens and not failed:
        faults.append("no 503 though policies deny")
    seen = lab.seen_by_the_app()
    if leaked := sum(each.status in (429, 503) and seen[each.wanted.target] for each in answers):
        faults.append(f"{leaked} refused requests at the application")
    if twice := sum(seen[each.wanted.target] > 1 for each in answers):
        faults.append(f"{twice} requests twice at the application")
    return faults


def _admitted(scenario: Scenario, lab: Lab, answers: Sequence[Answered], greed: float) -> tuple[str, list[str]]:
    """Admitted and allowed requests of the key nearest to its bound, for each kind of key with a bound."""
    first_s = min(each.sent_s for each in answers)
    seconds = max(each.sent_s + each.took_s for each in answers) - first_s
    # Without an outage, the machine may have caused one: `_wrong` judges that.
    away = scenario.outage or any(each.status == 503 for each in answers)
    outage_s = seconds - (lab.begun_s - first_s if scenario.outage else 0.0) if away else None
    passed: dict[tuple[str, str], int] = defaultdict(int)
    for each in answers:
        passed[each.wanted.kind, each.wanted.user] += each.status == 200
    texts, faults = [], []
    for kind in ("tight", "local"):
        bound = QUOTAS[kind].bound(seconds, scenario.losses, outage_s)
        most = max(count for (name, _), count in passed.items() if name == kind)
        texts.append(f"{most}/{bound}")
        if most > bound:
            faults.append(f"{most} of {bound} admitted under {kind}")
    text, over = _greedy(scenario, lab, answers, outage_s, greed)
    return "  ".join([*texts, text]), faults + over


def _greedy(
    scenario: Scenario, lab: Lab, answers: Sequence[Answered], outage_s: float | None, greed: float
) -> tuple[str, list[str]]:
    """As `_admitted`, for the user that stays the same over all rounds."""
    known, asked = lab.greedy, [each for each in answers if each.wanted.kind == "greedy"]
    known.began_s = min(each.sent_s for each in answers) if known.began_s is None else known.began_s
    known.offered += len(asked)
    known.admitted += sum(each.status == 200 for each in asked)
    known.losses += scenario.losses
    known.outages_s = known.outages_s if outage_s is None else (known.outages_s or 0.0) + outage_s
    bound = known.bound(max(each.sent_s + each.took_s for each in answers))
    faults = []
    if known.admitted > bound:
        faults.append(f"{known.admitted} of {bound} admitted to the greedy user over all rounds")
    if known.offered < greed * bound:
        faults.append(f"the greedy user was offered {known.offered}, too few to exceed a bound of {bound}")
    return f"{known.admitted}/{bound}", faults
