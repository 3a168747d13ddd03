"""`sidegate buckets`: lists, shows and resets buckets of sidecars that share one store."""

import argparse
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from rich.table import Table

from sidegate.commands.fleet.sidecars import STORE_TIMEOUT_S, SidecarReply, ask, ask_all, bucket_path
from sidegate.commands.output import complain, printable, write_json
from sidegate.commands.rich_output import write_text

A_PAGE = 1000


def buckets(options: argparse.Namespace) -> int:
    """List, show or reset. Returns 1 if the sidecars do not answer, or refuse."""
    match options.action:
        case "list":
            return _list(options)
        case "show":
            return _show(options)
        case _:
            return _reset(options)


def _list(options: argparse.Namespace) -> int:
    """List up to --limit buckets."""
    question = {"q": options.search, "limit": min(options.limit, A_PAGE)}
    if options.policy:
        question["policy"] = options.policy
    found: list[Mapping[str, Any]] = []
    while len(found) < options.limit:
        reply = _first(options.admin, f"/buckets?{urlencode(question)}")
        if reply.fault:
            return _failed(reply)
        found += reply.content["buckets"]
        if reply.content["cursor"] is None:
            break
        question["cursor"] = reply.content["cursor"]
    found = found[: options.limit]
    if options.json:
        write_json({"buckets": found})
        return 0
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for title in ("policy", "key", "tokens at the last charge", "dropped after"):
        table.add_column(title, overflow="fold")
    for each in found:
        tokens, ttl_s = each["tokens_at_last_charge"], each["ttl_s"]
        if each.get("in_flight") is not None:
            tokens = f"{each['in_flight']} under way"
        ttl = "-" if ttl_s is None else f"{ttl_s:.0f} s"
        table.add_row(
            each["policy"] or "-", printable(each["key"] or each["bucket"]), str("-" if tokens is None else tokens), ttl
        )
    write_text(table)
    return 0


def _show(options: argparse.Namespace) -> int:
    """Show the present level of one bucket."""
    reply = _first(options.admin, bucket_path(options.policy, options.key))
    if reply.fault:
        return _failed(reply)
    if options.json:
        write_json(reply.content)
    else:
        write_text(printable(_described(reply.content)))
    return 0


def _reset(options: argparse.Namespace) -> int:
    """Delete a bucket. The request goes to every sidecar, so that none continues to refuse from memory."""
    replies = ask_all(
        options.admin, bucket_path(options.policy, options.key), method="DELETE", timeout_s=STORE_TIMEOUT_S
    )
    for reply in replies:
        if reply.fault:
            complain(f"{reply.name}: {reply.fault}")
    done = [reply for reply in replies if not reply.fault]
    if not done:
        return 1
    was_stored = any(reply.content["reset"] for reply in done)
    store_error = next((reply.content["store_error"] for reply in done if reply.content["store_error"]), None)
    if options.json:
        sidecars = [reply.name for reply in done]
        local = [reply.name for reply in done if reply.content["local"]]
        write_json({"reset": was_stored, "sidecars": sidecars, "local": local, "store_error": store_error})
    else:
        held = sum(reply.content["local"] for reply in done)
        result = "reset" if was_stored else "was not in the store" if store_error is None else "not reset in the store"
        locally = f"; local buckets reset in {held} of {len(done)} sidecars" if held or store_error else ""
        write_text(printable(f"{done[0].content['bucket']}: {result}{locally}"))
    if store_error is not None:
        complain(f"the store does not answer: {store_error}")
    return 0 if store_error is None else 1


def _first(urls: list[str], path: str) -> SidecarReply:
    """The answer of the first sidecar that gives one, since they share the store."""
    for url in urls:
        reply = ask(url, path, timeout_s=STORE_TIMEOUT_S)
        if reply.status:
            return reply
    return reply


def _failed(reply: SidecarReply) -> int:
    complain(f"{reply.name}: {reply.fault}")
    return 1


def _described(bucket: Mapping[str, Any]) -> str:
    if bucket["rule"] in ("blocked", "exempt"):
        return f"{bucket['bucket']}: this key is {bucket['rule']} by an override and has no bucket"
    if "in_flight" in bucket:
        return f"{bucket['bucket']}: {bucket['in_flight']} of {bucket['limit']['in_flight']} requests under way"
    limit, full = bucket["limit"], bucket["full_s"]
    more = f", the next in {bucket['next_token_s']:.3g} s, full in {full:.3g} s" if full else ", full"
    stored = f"dropped after {bucket['ttl_s']:.0f} s without use" if bucket["ttl_s"] else "not in the store"
    return f"{bucket['bucket']}: {bucket['tokens']} of {limit['burst']} tokens{more}; {stored}"
