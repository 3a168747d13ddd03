"""The configuration: one strict YAML file, read into settings that are valid by construction."""

from sidegate.config.compile import compile_policies
from sidegate.config.digest import digest
from sidegate.config.faults import ConfigError, Fault
from sidegate.config.load import Examined, examine, load, parse
from sidegate.config.model import (
    CREDENTIALS,
    AdminSettings,
    ListenSettings,
    LogSettings,
    Settings,
    StoreSettings,
    TracingSettings,
    UpstreamSettings,
)

__all__ = [
    "CREDENTIALS",
    "AdminSettings",
    "ConfigError",
    "Examined",
    "Fault",
    "ListenSettings",
    "LogSettings",
    "Settings",
    "StoreSettings",
    "TracingSettings",
    "UpstreamSettings",
    "compile_policies",
    "digest",
    "examine",
    "load",
    "parse",
]
