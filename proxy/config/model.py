"""All settings of a sidecar: the sections of the configuration, with their defaults."""

import re
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator

from proxy.config import addresses
from proxy.config.faults import Path, Wrong, shown
from proxy.config.fields import (
    Connections,
    FileName,
    Many,
    Network,
    Port,
    Secret,
    Section,
    Text,
    Timeout,
    one_of,
    size,
    text_of,
    whole,
)
from proxy.config.policies import OnStoreFailure, PolicySettings
from proxy.decision.identity import ClientAddress

_PREFIX = re.compile(r"[!-z|~]{0,64}")


def _own_path(value: object) -> str:
    text = text_of(value)
    if not re.fullmatch(r"/[A-Za-z0-9._~/-]*", text):
        raise ValueError(f"{shown(text)} is not a path of the sidecar's own; expected e.g. /health")
    return text


def _prefix(value: object) -> str:
    text = text_of(value)
    if not _PREFIX.fullmatch(text):
        raise ValueError(
            f"{shown(text)} is not a prefix; expected up to 64 printable characters without space, {{ and }}"
        )
    return text


OwnPath = Annotated[str, BeforeValidator(_own_path)]


class ListenSettings(Section):
    """Where clients are served, and what they may claim of the sidecar."""

    host: Text = "0.0.0.0"  # noqa: S104  (a sidecar's port is there to be reached)
    port: Port = 8080
    health_path: OwnPath = "/health"
    status_path: OwnPath = "/api/status"
    max_connections: Connections = 4096
    header_timeout_s: Timeout = Field(10.0, alias="header_timeout")
    idle_timeout_s: Timeout = Field(75.0, alias="idle_timeout")
    max_header_bytes: Annotated[int, BeforeValidator(size(1024, 2**20))] = 32 * 1024
    drain_timeout_s: Timeout = Field(20.0, alias="drain_timeout")

    @field_validator("status_path")
    @classmethod
    def _two_pages(cls, status_path: str, info: ValidationInfo) -> str:
        if status_path == info.data.get("health_path"):
            raise Wrong([((), f"{shown(status_path)} is the health page already; expected another path")])
        return status_path


class AdminSettings(Section):
    """Where operators and probes are served."""

    host: Text = "127.0.0.1"
    port: Port = 9901
    token: Secret = SecretStr("")


class UpstreamSettings(Section):
    """The application behind the sidecar."""

    url: Text = "http://127.0.0.1:9000"
    connect_timeout_s: Timeout = Field(1.0, alias="connect_timeout")
    response_timeout_s: Timeout = Field(30.0, alias="response_timeout")
    max_connections: Connections = 256
    idle_timeout_s: Timeout = Field(60.0, alias="idle_timeout")

    @field_validator("url")
    @classmethod
    def _is_endpoint(cls, url: str) -> str:
        addresses.upstream(url)
        return url

    @property
    def host(self) -> str:
        """The application's host."""
        return addresses.upstream(self.url).host

    @property
    def port(self) -> int:
        """The application's port."""
        return addresses.upstream(self.url).port


class StoreSettings(Section):
    """The Redis or Valkey that all sidecars share. The URL never holds a password: it is moved to `password`."""

    url: Text = "redis://localhost:6379"
    username: Text = ""
    password: Secret = SecretStr("")
    ca_file: FileName = None
    cert_file: FileName = None
    key_file: FileName = None
    key_prefix: Annotated[str, BeforeValidator(_prefix)] = "example:"
    timeout_s: Timeout = Field(0.05, alias="timeout")
    on_failure: OnStoreFailure = "deny"

    @field_validator("url")
    @classmethod
    def _is_store(cls, url: str) -> str:
        addresses.store(addresses.split_credentials(url).url)
        return url

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        faults: list[tuple[Path, str]] = []
        secure = self.normalised_url.startswith("rediss://")
        faults += [
            ((name,), "takes effect only with a store url of rediss://")
            for name in ("ca_file", "cert_file", "key_file")
            if getattr(self, name) is not None and not secure
        ]
        if (self.cert_file is None) != (self.key_file is None):
            faults.append((("cert_file" if self.cert_file else "key_file",), "cert_file and key_file go together"))
        if faults:
            raise Wrong(faults)
        return self

    @property
    def normalised_url(self) -> str:
        """The URL in full, without credentials: `redis://host:port/db`, `rediss://…` or `unix:///path?db=n`."""
        return addresses.store(addresses.split_credentials(self.url).url)

    @property
    def credentials(self) -> tuple[str, str]:
        """User name and password; those of the settings before those of the URL. Empty where there are none."""
        _, username, password = addresses.split_credentials(self.url)
        return self.username or username, self.password.get_secret_value() or password


class ClientIpSettings(Section):
    """How a client's address is found."""

    trusted_proxies: Many[Network] = Field((addresses.network("127.0.0.0/8"),))
    ipv6_prefix: Annotated[int, BeforeValidator(whole(1, 128))] = 64

    @property
    def addresses(self) -> ClientAddress:
        """The same, as the decision takes it."""
        return ClientAddress(self.trusted_proxies, self.ipv6_prefix)


class ResponseSettings(Section):
    """Which fields an answer carries."""

    headers: Many[Annotated[str, BeforeValidator(one_of("ratelimit", "x-ratelimit"))]] = ("ratelimit", "x-ratelimit")


class LogSettings(Section):
    """What is logged."""

    level: Annotated[str, BeforeValidator(one_of("debug", "info", "warning", "error"))] = "info"
    requests: Annotated[str, BeforeValidator(one_of("none", "refused", "all"))] = "refused"


class Settings(Section):
    """The whole configuration."""

    listen: ListenSettings = ListenSettings()
    admin: AdminSettings = AdminSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    store: StoreSettings = StoreSettings()
    client_ip: ClientIpSettings = ClientIpSettings()
    responses: ResponseSettings = ResponseSettings()
    log: LogSettings = LogSettings()
    policies: Many[PolicySettings] = ()

    @field_validator("policies")
    @classmethod
    def _named_apart(cls, policies: tuple[PolicySettings, ...]) -> tuple[PolicySettings, ...]:
        seen: set[str] = set()
        faults: list[tuple[Path, str]] = []
        for index, policy in enumerate(policies):
            if policy.name in seen:
                faults.append(((index, "name"), f"{shown(policy.name)} is the name of a policy before this one"))
            seen.add(policy.name)
        if faults:
            raise Wrong(faults)
        return policies
