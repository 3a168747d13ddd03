"""All settings of a sidecar: the sections of the configuration, with their defaults."""

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator

from sidegate.config import addresses, store_url
from sidegate.config.faults import Path, Wrong, shown
from sidegate.config.fields import (
    Connections,
    FileName,
    Many,
    Network,
    OptionalTimeout,
    Patience,
    Port,
    Secret,
    Section,
    Share,
    Text,
    Timeout,
    Workers,
    one_of,
    optional,
    size,
    text_of,
    whole,
)
from sidegate.config.overlap import unreachable
from sidegate.config.policies import OnStoreFailure, PolicySettings
from sidegate.decision.identity import ClientAddress

# Far more proxies than share one store.
MOST_REPLICAS = 100_000

_PREFIX = re.compile(r"[!-z|~]{0,64}")


def _own_path(value: object) -> str:
    text = text_of(value)
    if not re.fullmatch(r"/[A-Za-z0-9._~/-]*", text):
        raise ValueError(f"{shown(text)} is not a path of the sidecar's own; expected e.g. /health")
    return text


def _host(value: object) -> str:
    text = text_of(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*|[0-9A-Fa-f:.]+", text):
        raise ValueError(f"{shown(text)} is not a host to listen on; expected e.g. 0.0.0.0, 127.0.0.1, ::1")
    return text


def _id_header(value: object) -> str:
    text = text_of(value)
    # By its ending: no field that means anything to HTTP or to the sidecar is called so.
    if text and not re.fullmatch(r"[A-Za-z0-9-]{1,60}-id", text, re.IGNORECASE):
        raise ValueError(f"{shown(text)} is not a field for ids; expected e.g. X-Request-ID, X-Correlation-ID")
    return text


def _endpoint(value: object) -> str:
    text = text_of(value)
    if text and not re.fullmatch(rf"https?://{addresses.HOST}{addresses.PORT}/[!-~]*", text):
        raise ValueError(f"{shown(text)} is not an endpoint; expected e.g. http://127.0.0.1:4318/v1/traces")
    return text


def _prefix(value: object) -> str:
    text = text_of(value)
    if not _PREFIX.fullmatch(text):
        raise ValueError(
            f"{shown(text)} is not a prefix; expected up to 64 printable characters without space, {{ and }}"
        )
    return text


_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104  (compared with, not bound to)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# A shorter one could be guessed over the network.
SHORTEST_TOKEN = 16

Host = Annotated[str, BeforeValidator(_host)]
OwnPath = Annotated[str, BeforeValidator(_own_path)]


class ListenSettings(Section):
    """Where clients are served, and what they may claim of the sidecar."""

    host: Host = "0.0.0.0"  # noqa: S104  (a sidecar's port is there to be reached)
    port: Port = 8080
    workers: Workers = 1
    health_path: OwnPath = "/health"
    status_path: OwnPath = "/api/status"
    max_connections: Connections = 4096
    header_timeout_s: Timeout = Field(10.0, alias="header_timeout")
    idle_timeout_s: Timeout = Field(75.0, alias="idle_timeout")
    max_header_bytes: Annotated[int, BeforeValidator(size(1024, 2**20))] = 32 * 1024
    max_body_bytes: Annotated[int | None, BeforeValidator(optional(size(0, 2**50)))] = None
    body_timeout_s: Timeout = Field(10.0, alias="body_timeout")
    min_body_bytes_per_s: Annotated[int, BeforeValidator(size(0, 2**30))] = 256
    write_timeout_s: Timeout = Field(60.0, alias="write_timeout")
    websocket_idle_timeout_s: Timeout = Field(600.0, alias="websocket_idle_timeout")
    drain_timeout_s: Patience = Field(20.0, alias="drain_timeout")
    request_id_header: Annotated[str, BeforeValidator(_id_header)] = ""

    @field_validator("status_path")
    @classmethod
    def _two_pages(cls, status_path: str, info: ValidationInfo) -> str:
        if status_path == info.data.get("health_path"):
            raise ValueError(f"{shown(status_path)} is the health page already; expected another path")
        return status_path


class AdminSettings(Section):
    """Where operators and probes are served. Elsewhere than on loopback only with a token."""

    host: Host = "127.0.0.1"
    port: Port = 9901
    token: Secret = SecretStr("")

    @model_validator(mode="after")
    def _is_guarded(self) -> Self:
        length = len(self.token.get_secret_value())
        if not length and not _is_loopback(self.host):
            raise Wrong([(("host",), f"{shown(self.host)} is not loopback; expected a token too, or 127.0.0.1")])
        if 0 < length < SHORTEST_TOKEN:
            raise Wrong([(("token",), f"is shorter than {SHORTEST_TOKEN} characters; expected a longer one")])
        return self


class UpstreamSettings(Section):
    """The application behind the sidecar. `url` is `http://host:port`."""

    url: Annotated[str, BeforeValidator(lambda value: addresses.upstream(text_of(value)).url)] = "http://127.0.0.1:9000"
    connect_timeout_s: Timeout = Field(1.0, alias="connect_timeout")
    response_timeout_s: Timeout = Field(30.0, alias="response_timeout")
    between_bytes_timeout_s: Timeout = Field(60.0, alias="between_bytes_timeout")
    total_timeout_s: OptionalTimeout = Field(None, alias="total_timeout")
    max_connections: Connections = 256
    max_waiting: Connections = 1024
    queue_timeout_s: Timeout = Field(1.0, alias="queue_timeout")
    idle_timeout_s: Timeout = Field(60.0, alias="idle_timeout")

    @property
    def host(self) -> str:
        """The application's host."""
        return addresses.upstream(self.url).host

    @property
    def port(self) -> int:
        """The application's port."""
        return addresses.upstream(self.url).port


# The settings of a store that say who asks, not what is asked.
CREDENTIALS = frozenset(
    {"username", "password", "sentinel_username", "sentinel_password", "ca_file", "cert_file", "key_file"}
)


class StoreSettings(Section):
    """The Redis or Valkey that all sidecars share. Credentials in the URL are moved to `username` and `password`."""

    url: Annotated[str, BeforeValidator(lambda value: str(store_url.parse(text_of(value))))] = (
        "redis://localhost:6379/0"
    )
    username: Text = ""
    password: Secret = SecretStr("")
    sentinel_username: Text = ""
    sentinel_password: Secret = SecretStr("")
    ca_file: FileName = None
    cert_file: FileName = None
    key_file: FileName = None
    key_prefix: Annotated[str, BeforeValidator(_prefix)] = "example:"
    timeout_s: Timeout = Field(0.05, alias="timeout")
    on_failure: OnStoreFailure = "deny"
    # How many proxies share each limit under `local`; None: as many as announce themselves in the store.
    replicas: Annotated[int, BeforeValidator(whole(1, MOST_REPLICAS))] | None = None
    warn_at_buckets: Annotated[int, BeforeValidator(whole(1, 10**12))] = 1_000_000

    @model_validator(mode="before")
    @classmethod
    def _without_credentials(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("url"), str):
            return data
        url, username, password = store_url.split_credentials(data["url"])
        found = {"username": username, "password": password}
        return {**data, "url": url, **{name: text for name, text in found.items() if text and not data.get(name)}}

    @field_validator("ca_file", "cert_file", "key_file")
    @classmethod
    def _needs_tls(cls, name: str | None, info: ValidationInfo) -> str | None:
        if name is not None and not info.data.get("url", "rediss").startswith("rediss"):
            raise ValueError("takes effect only with a store url of rediss://")
        return name

    @field_validator("sentinel_username", "sentinel_password")
    @classmethod
    def _needs_sentinels(cls, credential: str | SecretStr, info: ValidationInfo) -> str | SecretStr:
        given = credential.get_secret_value() if isinstance(credential, SecretStr) else credential
        if given and "+sentinel:" not in info.data.get("url", "+sentinel:"):
            raise ValueError("takes effect only with a store url of redis+sentinel://")
        return credential

    @model_validator(mode="after")
    def _pairs_files(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            alone, missing = ("cert_file", "key_file") if self.cert_file else ("key_file", "cert_file")
            raise Wrong([((alone,), f"needs {missing} too; expected both or neither")])
        return self

    @property
    def normalised_url(self) -> str:
        """The URL in full, without credentials: `redis://host:port/db`, `unix:///path?db=n`, and so on."""
        return self.url

    @property
    def address(self) -> store_url.StoreUrl:
        """The URL in its parts."""
        return store_url.parse(self.url)

    @property
    def credentials(self) -> tuple[str, str]:
        """User name and password; empty where there are none."""
        return self.username, self.password.get_secret_value()


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


class TracingSettings(Section):
    """Where spans are sent to, and of which share of the traces that begin here. Without an endpoint there are none."""

    endpoint: Annotated[str, BeforeValidator(_endpoint)] = ""
    sample: Share = 1.0


class Settings(Section):
    """The whole configuration."""

    listen: ListenSettings = ListenSettings()
    admin: AdminSettings = AdminSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    store: StoreSettings = StoreSettings()
    client_ip: ClientIpSettings = ClientIpSettings()
    responses: ResponseSettings = ResponseSettings()
    log: LogSettings = LogSettings()
    tracing: TracingSettings = TracingSettings()
    policies: Many[PolicySettings] = ()

    @field_validator("admin")
    @classmethod
    def _listens_apart(cls, admin: AdminSettings, info: ValidationInfo) -> AdminSettings:
        listen: ListenSettings | None = info.data.get("listen")
        if listen and admin.port and admin.port == listen.port and _meet(admin.host, listen.host):
            raise Wrong([(("port",), f"{admin.port} is the port of listen too; expected another")])
        return admin

    @field_validator("upstream")
    @classmethod
    def _is_another(cls, upstream: UpstreamSettings, info: ValidationInfo) -> UpstreamSettings:
        listen: ListenSettings | None = info.data.get("listen")
        here = upstream.host in _LOOPBACK
        if listen and here and upstream.port == listen.port and _meet(listen.host, upstream.host):
            raise Wrong([(("url",), f"{shown(upstream.url)} is this sidecar itself; expected the application's port")])
        return upstream

    @field_validator("policies")
    @classmethod
    def _all_reachable(cls, policies: tuple[PolicySettings, ...]) -> tuple[PolicySettings, ...]:
        if faults := repeated_names([policy.name for policy in policies]) + unreachable(policies):
            raise Wrong(faults)
        return policies


def repeated_names(names: Sequence[object]) -> list[tuple[Path, str]]:
    """Faults of policies that are named like an earlier one, with paths below the list of policies."""
    seen: set[str] = set()
    faults: list[tuple[Path, str]] = []
    for index, name in enumerate(names):
        if isinstance(name, str) and name in seen:
            faults.append(((index, "name"), f"{shown(name)} is the name of a policy before this one"))
        elif isinstance(name, str):
            seen.add(name)
    return faults


def _meet(host: str, other: str) -> bool:
    """Whether one port cannot be had at both: the same address, or one of them is every address."""
    return host == other or bool(_EVERYWHERE & {host, other})
