"""Is config.yaml right, before anything is started or changed?"""

import dataclasses
import os

from deploy.settings import Settings
from deploy.terminal import Trouble


def checked(settings: Settings) -> Settings:
    """The settings, with what config.yaml says of stopping; raises Trouble with every fault of the file."""
    # Only the environment of the demonstration has it; stopping and cleaning do without.
    from sidegate.config import ConfigError, load  # noqa: PLC0415

    if not settings.config.exists():
        raise Trouble(f"{settings.config} does not exist", "CONFIG=… names another file")
    environ = {**os.environ, "REDIS_URL": settings.store_url, "REDIS_PASSWORD": settings.redis_password}
    environ["ADMIN_TOKEN"] = settings.admin_token
    try:
        listen = load(settings.config, environ).listen
    except ConfigError as error:
        faults = str(error).splitlines()
        raise Trouble(f"{settings.config.name} is not valid, so nothing was started or changed:", *faults) from error
    return dataclasses.replace(settings, drain_timeout_s=listen.drain_timeout_s)
