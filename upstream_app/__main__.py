"""`python -m upstream_app`: listens on HOST (127.0.0.1) and PORT (9000) as NAME (app), until SIGTERM."""

import os
import sys
from functools import partial

from aiohttp import web

from upstream_app.app import make_app

# Requests in flight may end within this time after SIGTERM.
DRAIN_S = 10.0


def main() -> int:
    """Serve until SIGTERM or SIGINT. Returns 0, or 2 where PORT is no port."""
    port = os.environ.get("PORT", "9000")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        sys.stderr.write(f"upstream_app: PORT: expected 1 to 65535, found {port!r}\n")
        return 2
    web.run_app(
        make_app(os.environ.get("NAME", "app")),
        host=os.environ.get("HOST", "127.0.0.1"),
        port=int(port),
        access_log=None,
        shutdown_timeout=DRAIN_S,
        handler_cancellation=True,  # who leaves a slow answer frees it
        print=partial(print, flush=True),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
