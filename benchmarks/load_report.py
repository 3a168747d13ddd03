"""The report of `load`: tables and a histogram for people, one JSON document for programs."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.load_latency import RELATIVE_ERROR, Latencies, bar, counts, edges, milliseconds
from benchmarks.load_run import Load
from benchmarks.load_tally import Row, Tally

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
ROWS_SHOWN = 10
FAULTS_SHOWN = 10
BAR_COLUMNS = 20


def show(plan: Load, tally: Tally, *, interrupted: bool, out: Console, unicode: bool) -> None:
    """Print the whole report."""
    out.print(_headline(plan, tally, interrupted=interrupted), style="bold", soft_wrap=True)
    tables = [_users(tally.rows())]
    if tally.admitted.count or tally.refused.count:
        tables += [_latencies(tally), _histogram(tally.admitted, tally.refused, unicode=unicode)]
    for table in tables:
        out.print()
        out.print(table)
    loop = "since sent" if plan.rate is None else "since due: a late start counts"
    out.print(f"\nLatency in ms, {loop}; percentiles within {RELATIVE_ERROR:.0%}.\n")
    if tally.moved:
        out.print(f"{tally.moved} requests went to another sidecar, because theirs accepted no connection.\n")
    faults = tally.faults()
    out.print(verdict(tally, faults), style="bold red" if faults else "bold green", soft_wrap=True)
    for fault in faults[:FAULTS_SHOWN]:
        out.print(f"  {fault}", soft_wrap=True)
    if len(faults) > FAULTS_SHOWN:
        out.print(f"  and {len(faults) - FAULTS_SHOWN} more")


def verdict(tally: Tally, faults: Sequence[str]) -> str:
    """One sentence on the whole run."""
    if faults:
        return "Not what the policy says:"
    if not any(user.accounts for user in tally.users):
        return "No policy has a bucket for these users; nothing was limited."
    if not tally.refused.count:
        return "What the policy says: nobody was refused, the load stayed within the limits."
    return "What the policy says: no user above its bound, none refused in spite of a token."


def document(plan: Load, tally: Tally, *, interrupted: bool) -> dict[str, object]:
    """The report as a JSON document. Seconds in `_s`, milliseconds in `_ms`; users with the most deviating first."""
    faults = tally.faults()
    return {
        "ok": not faults,
        "verdict": verdict(tally, faults),
        "faults": faults,
        "interrupted": interrupted,
        "path": plan.path,
        "targets": list(plan.targets),
        "loop": "closed" if plan.rate is None else "open",
        "concurrency": plan.concurrency,
        "rate_wanted_per_s": plan.rate,
        "elapsed_s": round(tally.elapsed_s, 6),
        "sent": tally.sent,
        "rate_per_s": round(_rate(tally), 3),
        "admitted": tally.admitted.count,
        "refused": tally.refused.count,
        "failed": dict(tally.failures),
        "moved": tally.moved,
        "latency_ms": {
            "relative_error": RELATIVE_ERROR,
            "admitted": _latency_document(tally.admitted),
            "refused": _latency_document(tally.refused),
        },
        "users": [_row_document(row) for row in tally.rows()],
    }


def _headline(plan: Load, tally: Tally, *, interrupted: bool) -> str:
    loop = f"{plan.concurrency} in flight" if plan.rate is None else f"{plan.rate:g}/s wanted"
    return (
        f"{len(plan.users)} users, {len(plan.targets)} sidecars, {loop}: {tally.sent} requests "
        f"in {tally.elapsed_s:.1f} s ({_rate(tally):.0f}/s){', interrupted' if interrupted else ''}"
    )


def _rate(tally: Tally) -> float:
    return tally.sent / tally.elapsed_s if tally.elapsed_s else 0.0


def _table(first: str, *rest: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, safe_box=True)
    table.add_column(first, no_wrap=True)
    for title in rest:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _users(rows: Sequence[Row]) -> Table:
    table = _table("user", "sent", "admitted", "at least", "at most", "refused", "failed")
    for row in rows[:ROWS_SHOWN]:
        table.add_row(*_cells(row), style="red" if row.wrong else "")
    rest = rows[ROWS_SHOWN:]
    if rest:
        table.add_row(*_cells(total(f"{len(rest)} others", rest)), style="red" if any(r.wrong for r in rest) else "")
    if len(rows) > 1:
        table.add_section()
        table.add_row(*_cells(total("all", rows)), style="bold")
    return table


def total(name: str, rows: Sequence[Row]) -> Row:
    """The sum of rows; a bound that one row lacks, the sum lacks."""
    least = [row.at_least for row in rows if row.at_least is not None]
    most = [row.at_most for row in rows if row.at_most is not None]
    return Row(
        user=name,
        sent=sum(row.sent for row in rows),
        admitted=sum(row.admitted for row in rows),
        refused=sum(row.refused for row in rows),
        failed=sum(row.failed for row in rows),
        at_least=sum(least) if len(least) == len(rows) else None,
        at_most=sum(most) if len(most) == len(rows) else None,
    )


def _cells(row: Row) -> list[str]:
    numbers = (row.sent, row.admitted, row.at_least, row.at_most, row.refused, row.failed)
    return [row.user, *("-" if number is None else str(number) for number in numbers)]


def _latencies(tally: Tally) -> Table:
    table = _table("latency, ms", *(f"p{percent:g}" for percent in PERCENTILES), "max", "count")
    for name, of in (("admitted", tally.admitted), ("refused", tally.refused)):
        if of.count:
            values = [of.percentile(percent) for percent in PERCENTILES]
            table.add_row(name, *(milliseconds(value) for value in (*values, of.longest_s)), str(of.count))
    return table


def _histogram(admitted: Latencies, refused: Latencies, *, unicode: bool) -> Table:
    upper = edges(sorted(admitted.values() + refused.values()))
    table = _table("up to, ms", "admitted", "", "refused", "")
    for column in (2, 4):
        table.columns[column].justify = "left"
        table.columns[column].min_width = BAR_COLUMNS
    columns = [counts(of.values(), upper) for of in (admitted, refused)]
    highest = max((max(column) for column in columns if column), default=0) or 1
    for bound, *found in zip(upper, *columns, strict=True):
        cells = [cell for n in found for cell in (str(n), bar(n / highest, BAR_COLUMNS, unicode=unicode))]
        table.add_row(f"{bound * 1000:g}", *cells)
    return table


def _latency_document(of: Latencies) -> Mapping[str, object]:
    upper = edges(of.values())
    found = zip(upper, counts(of.values(), upper), strict=True)
    return {
        "count": of.count,
        **{f"p{percent:g}": round(of.percentile(percent) * 1000, 4) for percent in PERCENTILES},
        "max": round(of.longest_s * 1000, 4),
        "histogram": [{"up_to_ms": round(bound * 1000, 4), "count": count} for bound, count in found],
    }


def _row_document(row: Row) -> Mapping[str, object]:
    return {
        "user": row.user,
        "sent": row.sent,
        "admitted": row.admitted,
        "at_least": row.at_least,
        "at_most": row.at_most,
        "refused": row.refused,
        "failed": row.failed,
    }
