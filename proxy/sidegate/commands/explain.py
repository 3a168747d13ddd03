"""`sidegate explain`: shows which policies apply to a request, why the others do not, and the buckets."""

import argparse
import os
from pathlib import Path

from multidict import CIMultiDict

from sidegate.admin.explain_document import as_json, levels_by_policy
from sidegate.commands.explain_report import as_text
from sidegate.commands.output import complain, complain_of, write_json
from sidegate.commands.rich_output import write_text
from sidegate.config import ConfigError, compile_policies, load
from sidegate.config.builtin_routes import builtin_routes, is_builtin_route
from sidegate.decision.explanation import explain
from sidegate.decision.request import RequestFacts
from sidegate.decision.verdict import Verdict


def explain_request(options: argparse.Namespace) -> int:
    """Explain one request. Returns 1 if the configuration is invalid, or if --live finds no store."""
    try:
        settings = load(Path(options.config), os.environ)
    except ConfigError as error:
        complain_of(error)
        return 1
    facts = _facts(options)
    own_page = is_builtin_route(facts, builtin_routes(settings))
    explanation = explain(compile_policies(settings), facts)
    verdict: Verdict | None = None
    failure = ""
    if options.live and not own_page and any(entry.charge for entry in explanation.applied):
        from sidegate.commands.live import present_levels  # noqa: PLC0415  (loads the store's client)

        found = present_levels(settings.store, explanation.applied)
        verdict, failure = (None, found) if isinstance(found, str) else (found, "")
    levels = levels_by_policy(verdict)
    if options.json:
        document = as_json(explanation, settings, levels, own_page=own_page)
        write_json({**document, "live_error": failure} if failure else document)
    else:
        write_text(as_text(explanation, settings, levels, own_page=own_page))
    if failure:
        complain(failure)
    return 1 if failure else 0


def _facts(options: argparse.Namespace) -> RequestFacts:
    host, target = options.url
    fields = CIMultiDict(options.header)
    if host and "Host" not in fields:
        fields.add("Host", host)
    return RequestFacts(options.method, target, fields, options.peer, options.client_cert)
