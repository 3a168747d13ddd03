"""The configuration: one strict YAML file, read into settings that are valid by construction."""

from proxy.config.compile import compile_policies
from proxy.config.digest import digest
from proxy.config.faults import ConfigError, Fault
from proxy.config.load import Examined, examine, load, parse
from proxy.config.model import (
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
