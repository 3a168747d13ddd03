"""Command-line arguments of status, top, tail and buckets."""

import argparse
import re

from sidegate.commands.command_parser import Commands

_URL = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+/?", re.IGNORECASE)


def add_status(commands: Commands) -> None:
    """Add the command `status`."""
    parser = commands.add_parser("status", help="figures, states and problems of all sidecars")
    _add_common(parser)


def add_top(commands: Commands) -> None:
    """Add the command `top`."""
    parser = commands.add_parser("top", help="figures of all sidecars, live: requests, policies, keys refused most")
    _add_common(parser)
    parser.add_argument("--once", action="store_true", help="print one screen and exit")
    parser.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="S", help="seconds between screens (default: 1)"
    )


def add_tail(commands: Commands) -> None:
    """Add the command `tail`."""
    parser = commands.add_parser(
        "tail",
        help="follow the refusals of all sidecars, live",
        description="Follow refusals, one line for each bucket and second, with the newest request. Ctrl-C ends it.",
    )
    _add_common(parser)
    parser.add_argument("--policy", metavar="NAME", help="only refusals by this policy")
    parser.add_argument(
        "--key", metavar="KEY", help="only refusals of this key, as `buckets list` shows it, or as it is"
    )
    parser.add_argument("--once", action="store_true", help="print the last refusals and exit")


def add_buckets(commands: Commands) -> None:
    """Add the command `buckets`."""
    parser = commands.add_parser("buckets", help="list, show or reset buckets")
    actions = parser.add_subparsers(required=True, metavar="list|show|reset", dest="action")
    listing = actions.add_parser("list", help="buckets in the store")
    _add_common(listing)
    listing.add_argument("--policy", default="", help="only buckets of this policy")
    listing.add_argument("--search", default="", metavar="TEXT", help="only keys that contain TEXT")
    listing.add_argument("--limit", type=_count, default=100, metavar="N", help="maximum number (default: 100)")
    for name, text in (("show", "present level of one bucket; takes nothing"), ("reset", "give a key a new bucket")):
        one = actions.add_parser(name, help=text)
        _add_common(one)
        one.add_argument("policy", metavar="POLICY")
        one.add_argument("key", metavar="KEY", help="as `list` shows it, or as it is")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--admin", action="append", type=_url, metavar="URL",
        help="admin listener of a sidecar; repeat for several (default: port $ADMIN_PORT, else 9901, 9081 to 9083)",
    )  # fmt: skip
    for name, text in (
        ("ca-file", "authority of the sidecars' certificates (default: $ADMIN_CA_FILE, else the system's)"),
        ("cert-file", "certificate to present, where admin.tls.client_ca_file is set (default: $ADMIN_CERT_FILE)"),
        ("key-file", "key of that certificate (default: $ADMIN_KEY_FILE)"),
    ):
        parser.add_argument(f"--{name}", metavar="FILE", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _url(text: str) -> str:
    if not _URL.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an admin listener; expected e.g. http://127.0.0.1:9901")
    url = text.rstrip("/")
    # Certificates name hosts without the dot at the end, and Python compares the name as it is.
    return re.sub(r"\.(?=(:[0-9]+)?$)", "", url) if url.lower().startswith("https") else url


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or not float(text) >= 0.1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds; expected 0.1 or more")
    return float(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; expected 1 or more")
    return int(text)
