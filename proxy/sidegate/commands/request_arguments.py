"""Command-line arguments of `explain` and `simulate`."""

import argparse
import re
from ipaddress import ip_address
from typing import NoReturn

from sidegate.commands.command_parser import Commands
from sidegate.commands.simulate.log_format import LogFormat

_METHOD = re.compile(r"[A-Z][A-Z_-]*")
_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(.*)", re.DOTALL)
_FORMATS = [form.value for form in LogFormat]
_URL = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*))?([^#]*)(?:#.*)?", re.DOTALL)


def add_explain(commands: Commands) -> None:
    """Add the command `explain`."""
    parser = commands.add_parser(
        "explain",
        help="show which policies apply to a request, and why the others do not",
        description="Show which policies apply to a request and why the others do not, the charged buckets, and "
        "with --live their present tokens. Exit status: 0 success; 1 the configuration is invalid or the store does "
        "not answer; 2 wrong usage.",
    )
    _add_config(parser)
    parser.add_argument("method", type=_method, metavar="METHOD", help="e.g. GET")
    parser.add_argument(
        "url", type=_url, metavar="URL", help="e.g. /api/data or http://host/api/data?x=1; used as written"
    )
    parser.add_argument(
        "-H",
        "--header",
        action="append",
        default=[],
        type=_field,
        metavar="'Name: value'",
        help="a header field; may be given several times",
    )
    parser.add_argument(
        *("--from", "--peer"), dest="peer", default="127.0.0.1", type=_peer, metavar="IP",
        help="the address of the connection's other end (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--client-cert", default="", metavar="NAME", help="the name in the client's certificate")
    parser.add_argument("--live", action="store_true", help="read the present tokens from the store; charges nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_simulate(commands: Commands) -> None:
    """Add the command `simulate`."""
    parser = commands.add_parser(
        "simulate",
        help="show what a configuration would have done to the requests of an access log",
        description="Replay an access log in the log's own time: how many requests each policy would have admitted and "
        "refused, the keys refused most, a timeline. Reads the combined format and its variants, JSON lines, and the "
        "default formats of Envoy, HAProxy and AWS load balancers, with or without a prefix of syslog or a container "
        "runtime; docs/simulate.md lists them. Exit status: 0 success; 1 the configuration is invalid or the log could "
        "not be read to its end; 2 wrong usage.",
    )
    _add_config(parser)
    parser.add_argument("log", metavar="ACCESS_LOG", help="an access log, plain or gzip; - reads standard input")
    parser.add_argument("--against", metavar="OTHER", help="another configuration to compare with, e.g. the active one")
    parser.add_argument(
        *("--format",), type=_format, default=LogFormat.AUTO, metavar="|".join(_FORMATS),
        help="the format of the lines (default: detected for each line)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="FILE", help="the configuration file")


def _method(text: str) -> str:
    if not _METHOD.fullmatch(text):
        _misused(f"{text!r} is not a method; expected capitals, e.g. GET")
    return text


def _url(text: str) -> tuple[str, str]:
    """Return host (empty if the URL has none) and request target."""
    found = _URL.fullmatch(text)
    if found is None or re.search(r"[\x00-\x20\x7f]", text):
        _misused(f"{text!r} contains spaces or control characters; a request target cannot")
    host, target = found[1] or "", found[2]
    if found[1] is not None and not target.startswith("/"):
        target = "/" + target
    if not target.startswith("/") and target != "*":
        _misused(f"{text!r} is neither a path nor a URL; expected e.g. /api/data or http://localhost:8080/api/data")
    return host.rpartition("@")[2], target


def _field(text: str) -> tuple[str, str]:
    found = _FIELD.fullmatch(text)
    if found is None or re.search(r"[\x00\r\n]", text):
        _misused(f"{text!r} is not a header field; expected e.g. 'X-User-ID: alice'")
    return found[1], found[2].strip(" \t")


def _peer(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        _misused(f"{text!r} is not an IP address")


def _format(text: str) -> LogFormat:
    if text not in _FORMATS:
        _misused(f"{text!r} is not a format; expected one of {', '.join(_FORMATS)}")
    return LogFormat(text)


def _misused(message: str) -> NoReturn:
    raise argparse.ArgumentTypeError(message)
