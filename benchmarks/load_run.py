"""`load`: many users at once, in a closed loop (so many requests in flight) or an open one (so many a second)."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from time import perf_counter

import aiohttp
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.load_client import ask_any, check_all, limits_of, open_session
from benchmarks.load_policy import Allowance
from benchmarks.load_tally import Tally, open_accounts
from benchmarks.load_terminal import open_terminal

# A worker that waits for its moment looks up this often whether the run was ended.
LOOK_UP_S = 0.2


@dataclass(frozen=True, slots=True)
class Load:
    """The load plan. `rate` (requests per second) makes the loop an open one; `requests` and `duration_s` end it."""

    users: tuple[str, ...]
    targets: tuple[str, ...]
    path: str
    status_path: str
    concurrency: int
    rate: float | None
    requests: int | None
    duration_s: float | None
    timeout_s: float


class Schedule:
    """Hands out requests: the number of each and the moment (s, monotonic) from which it is due."""

    def __init__(self, plan: Load, start_s: float) -> None:
        self.ended = False
        self._plan = plan
        self._start_s = start_s
        self._end_s = float("inf") if plan.duration_s is None else start_s + plan.duration_s
        self._numbers: Iterator[int] = count() if plan.requests is None else iter(range(plan.requests))

    def take(self, now_s: float) -> tuple[int, float] | None:
        """The next request, or None where the run has ended."""
        if self.ended or now_s >= self._end_s:
            return None
        number = next(self._numbers, None)
        if number is None:
            return None
        due_s = now_s if self._plan.rate is None else self._start_s + number / self._plan.rate
        return (number, due_s) if due_s < self._end_s else None

    def end(self) -> None:
        """No further requests; those in flight come to their end."""
        self.ended = True


def place(number: int, users: int, targets: int) -> tuple[int, int]:
    """Which user and which target a request concerns: users in turn, and each user round all targets."""
    turn, user = divmod(number, users)
    return user, (user + turn) % targets


async def run(plan: Load, on_start: Callable[[Schedule], None]) -> Tally:
    """Run the plan and count the results. `on_start` receives an object that can end the run early.

    Raises SidecarFault where a sidecar cannot be measured.
    """
    async with open_session(plan.concurrency, plan.timeout_s) as session:
        tally = Tally(open_accounts(plan.users, await _limits(session, plan)), plan.path)
        schedule = Schedule(plan, perf_counter())
        on_start(schedule)
        async with asyncio.TaskGroup() as tasks:
            progress = tasks.create_task(_show_progress(plan, tally, schedule))
            async with asyncio.TaskGroup() as workers:
                for _ in range(plan.concurrency):
                    workers.create_task(_work(session, plan, schedule, tally))
            progress.cancel()
    return tally


async def _limits(session: aiohttp.ClientSession, plan: Load) -> list[tuple[Allowance, ...]]:
    await check_all(session, plan.targets, plan.status_path, plan.users[0])
    found: dict[int, tuple[Allowance, ...]] = {}
    numbers = iter(range(len(plan.users)))

    async def learn() -> None:
        for number in numbers:
            target = plan.targets[number % len(plan.targets)]
            found[number] = await limits_of(session, target, plan.status_path, plan.users[number])

    await asyncio.gather(*(learn() for _ in range(min(plan.concurrency, len(plan.users)))))
    return [found[number] for number in range(len(plan.users))]


async def _work(session: aiohttp.ClientSession, plan: Load, schedule: Schedule, tally: Tally) -> None:
    while taken := schedule.take(perf_counter()):
        number, due_s = taken
        while (ahead_s := due_s - perf_counter()) > 0:
            await asyncio.sleep(min(ahead_s, LOOK_UP_S))
            if schedule.ended:
                return
        user_number, target_number = place(number, len(plan.users), len(plan.targets))
        user = tally.users[user_number]
        targets = plan.targets[target_number:] + plan.targets[:target_number]
        answer, refused = await ask_any(session, [target + plan.path for target in targets], user.name)
        tally.moved += refused > 0
        # A request that left late because all workers were busy has waited since it was due.
        tally.count(user, answer, min(due_s, answer.sent_s))


async def _show_progress(plan: Load, tally: Tally, schedule: Schedule) -> None:
    if not sys.stderr.isatty():
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=open_terminal(sys.stderr), transient=True, auto_refresh=False) as progress:
        by_count = plan.requests is not None
        bar = progress.add_task("requests" if by_count else "seconds", total=plan.requests or plan.duration_s)
        started_s = perf_counter()
        while not schedule.ended:
            done = tally.sent if by_count else int(perf_counter() - started_s)
            counts = f"{len(tally.users)} users, {tally.admitted.count} admitted, {tally.refused.count} refused"
            progress.update(bar, completed=done, description=counts, refresh=True)
            await asyncio.sleep(LOOK_UP_S)
