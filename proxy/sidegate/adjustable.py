"""The settings that an environment variable, or a flag of `sidegate run`, can give.

Apart from `config`, so that building a command line does not load what reads configurations.
"""

from typing import NamedTuple


class Adjustable(NamedTuple):
    """A setting that has an environment variable, and perhaps a flag."""

    path: tuple[str, str]
    variable: str
    flag: str = ""


ADJUSTABLE = (
    Adjustable(("listen", "port"), "PORT", "--port"),
    Adjustable(("upstream", "url"), "UPSTREAM_URL", "--upstream"),
    Adjustable(("store", "url"), "REDIS_URL", "--redis"),
    Adjustable(("store", "password"), "REDIS_PASSWORD"),
    Adjustable(("admin", "host"), "ADMIN_HOST"),
    Adjustable(("admin", "port"), "ADMIN_PORT", "--admin-port"),
    Adjustable(("admin", "token"), "ADMIN_TOKEN"),
)
