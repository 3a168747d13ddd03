"""Command lines of status, top, tail and buckets. Imports little, since every command line is built from it."""

import argparse
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from sidegate.commands.fleet.sidecars import default_urls, use_tls

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_URL = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+/?", re.IGNORECASE)


def add_status(commands: "Commands") -> None:
    """Add the command `status`."""
    parser = commands.add_parser("status", help="figures, states and problems of all sidecars")
    _add_common(parser)
    parser.set_defaults(alone=_later("status", "run"))


def add_top(commands: "Commands") -> None:
    """Add the command `top`."""
    parser = commands.add_parser("top", help="figures of all sidecars, live: requests, policies, keys refused most")
    _add_common(parser)
    parser.add_argument("--once", action="store_true", help="print one screen and exit")
    parser.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="S", help="seconds between screens (default: 1)"
    )
    parser.set_defaults(alone=_later("top", "run"))


def add_tail(commands: "Commands") -> None:
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
    parser.set_defaults(alone=_later("tail", "run"))


def add_buckets(commands: "Commands") -> None:
    """Add the command `buckets`."""
    parser = commands.add_parser("buckets", help="list, show or reset buckets")
    actions = parser.add_subparsers(required=True, metavar="list|show|reset")
    listing = actions.add_parser("list", help="buckets in the store")
    _add_common(listing)
    listing.add_argument("--policy", default="", help="only buckets of this policy")
    listing.add_argument("--search", default="", metavar="TEXT", help="only keys that contain TEXT")
    listing.add_argument("--limit", type=_count, default=100, metavar="N", help="maximum number (default: 100)")
    listing.set_defaults(alone=_later("buckets", "run_list"))
    for name, text in (("show", "present level of one bucket; takes nothing"), ("reset", "give a key a new bucket")):
        one = actions.add_parser(name, help=text)
        _add_common(one)
        one.add_argument("policy", metavar="POLICY")
        one.add_argument("key", metavar="KEY", help="as `list` shows it, or as it is")
        one.set_defaults(alone=_later("buckets", f"run_{name}"))


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


def _later(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    def run(options: argparse.Namespace) -> int:
        from importlib import import_module  # noqa: PLC0415  (other commands do not load it)

        try:
            with_tls = _use_tls(options)
        except OSError as error:
            from sidegate.commands.output import complain  # noqa: PLC0415  (slow to load)

            complain(error.strerror or str(error))
            return 2
        options.admin = options.admin or default_urls(os.environ, scheme="https" if with_tls else "http")
        status: int = getattr(import_module(f"sidegate.commands.fleet.{module}"), name)(options)
        return status

    return run


def _use_tls(options: argparse.Namespace) -> bool:
    """Apply the arguments of TLS, or the environment's; whether there are any. Raises OSError with what is wrong."""
    files = [
        getattr(options, name) or os.environ.get(f"ADMIN_{name.upper()}")
        for name in ("ca_file", "cert_file", "key_file")
    ]
    if (files[1] is None) != (files[2] is None):
        raise OSError("--cert-file and --key-file belong together; expected both or neither")
    if any(files):
        use_tls(*files)
    return any(files)


def _url(text: str) -> str:
    if not _URL.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an admin listener; expected e.g. http://127.0.0.1:9901")
    return text.rstrip("/")


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text) or not float(text) >= 0.1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds; expected 0.1 or more")
    return float(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,7}", text) or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; expected 1 or more")
    return int(text)
