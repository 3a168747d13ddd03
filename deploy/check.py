"""Validates config.yaml before anything is started or changed."""

import dataclasses
import os

from deploy.settings import Settings
from deploy.terminal import Trouble


def checked(settings: Settings) -> Settings:
    """Return the settings with the drain timeout of config.yaml. Raises Trouble with every error in the file."""
    # Only .venv has it; `make stop` and `make clean` work without .venv.
    from sidegate.config import ConfigError, load  # noqa: PLC0415

    if not settings.config.exists():
        raise Trouble(f"{settings.config} does not exist", "set CONFIG=… to use another file")
    environ = {**os.environ, "REDIS_URL": settings.store_url, "REDIS_PASSWORD": settings.redis_password}
    environ["ADMIN_TOKEN"] = settings.admin_token
    try:
        listen = load(settings.config, environ).listen
    except ConfigError as error:
        faults = str(error).splitlines()
        raise Trouble(f"{settings.config.name} is not valid, so nothing was started or changed:", *faults) from error
    return dataclasses.replace(settings, drain_timeout_s=listen.drain_timeout_s)
