"""Completes the arguments of the fleet commands: which sidecars to query, and with which certificates."""

import argparse
import os

from sidegate.commands.fleet.sidecars import default_urls, use_tls
from sidegate.commands.output import complain


def complete_targets(options: argparse.Namespace) -> bool:
    """Set `options.admin` and use the files for TLS; returns False, after a message, if these cannot be used."""
    try:
        with_tls = _use_tls(options)
    except OSError as error:
        complain(error.strerror or str(error))
        return False
    options.admin = options.admin or default_urls(os.environ, scheme="https" if with_tls else "http")
    return True


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
