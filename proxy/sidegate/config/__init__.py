"""The configuration: one strict YAML file, read into settings that are valid by construction."""

from sidegate.config.compile import compile_policies
from sidegate.config.digest import digest
from sidegate.config.faults import ConfigError, ConfigFault
from sidegate.config.load import Examined, examine, load, load_edit, parse
from sidegate.config.model import Settings
from sidegate.config.origins import ConfigSource
from sidegate.config.page_files import PagesByType, PageTemplate
from sidegate.config.response_settings import ResponseSettings
from sidegate.config.sections import AdminSettings, ListenSettings, LogSettings, TracingSettings, UpstreamSettings
from sidegate.config.store_settings import CREDENTIALS, StoreSettings

__all__ = [
    "CREDENTIALS",
    "AdminSettings",
    "ConfigError",
    "ConfigFault",
    "ConfigSource",
    "Examined",
    "ListenSettings",
    "LogSettings",
    "PageTemplate",
    "PagesByType",
    "ResponseSettings",
    "Settings",
    "StoreSettings",
    "TracingSettings",
    "UpstreamSettings",
    "compile_policies",
    "digest",
    "examine",
    "load",
    "load_edit",
    "parse",
]
