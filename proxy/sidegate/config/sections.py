"""The sections of the configuration, with defaults and descriptions. store_settings and response_settings hold the
sections of their names.
"""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator

from sidegate.config import addresses
from sidegate.config.addresses import Endpoint
from sidegate.config.faults import Wrong, quote
from sidegate.config.file_mode import SocketMode
from sidegate.config.lists import Many, OneOrMore
from sidegate.config.section import Live, Section
from sidegate.config.tls_settings import TlsSettings, check_pair
from sidegate.config.values import (
    ByteSize,
    CheckedText,
    Choice,
    Connections,
    FileName,
    Flag,
    NetworkRange,
    Port,
    Proportion,
    Secret,
    Text,
    Timeout,
    TimeoutOrZero,
    WholeNumber,
    Workers,
)
from sidegate.decision.identity import ClientAddress

# A shorter admin token could be guessed over the network.
SHORTEST_TOKEN = 16
# sockaddr_un holds 108 bytes, with a zero at the end.
LONGEST_SOCKET_PATH_BYTES = 107

Host = Annotated[
    str,
    Text(r"[A-Za-z0-9][A-Za-z0-9._-]*|[0-9A-Fa-f:.]+", "a host to listen on; expected e.g. 0.0.0.0, 127.0.0.1, ::1"),
    AfterValidator(addresses.host),
]
BuiltinRoute = Annotated[str, Text(r"/[A-Za-z0-9._~/-]*", "a path of the sidecar's own; expected e.g. /health")]
# The ending keeps out every field that has a meaning in HTTP or to the sidecar.
RequestIdHeader = Annotated[
    str,
    Text("|[A-Za-z0-9-]{1,60}-id", "a field for ids; expected e.g. X-Request-ID, X-Correlation-ID", ignore_case=True),
]
PeerUrl = Annotated[
    str,
    Text(rf"(?i:https?)://{addresses.HOST}{addresses.PORT}/?", "an admin listener; expected e.g. http://10.0.0.7:9901"),
]
TracingEndpoint = Annotated[
    str,
    Text(
        rf"|(?i:https?)://{addresses.HOST}{addresses.PORT}/[!-~]*",
        "an endpoint; expected e.g. http://127.0.0.1:4318/v1/traces",
    ),
]


class ListenSettings(Section):
    """The listener for clients, and the limits of one connection and request."""

    host: OneOrMore[Host] = Field(
        ("0.0.0.0",),  # noqa: S104  (a sidecar's port is there to be reached)
        description="The address to listen on, or a list; :: serves IPv4 and IPv6.",
    )
    port: Port = Field(8080, description="The port to listen on.")
    tls: TlsSettings = Field(TlsSettings(), description="TLS for clients; off without cert_file and key_file.")
    proxy_protocol: Many[NetworkRange] = Field(
        (), description="Load balancers that send a PROXY header before each connection; they must, others must not."
    )
    socket: FileName = Field(None, description="A Unix socket to listen on, in place of host and port.")
    socket_mode: SocketMode = Field(0o660, description="The permissions of the socket, e.g. 660.")
    workers: Workers = Field(1, description="Processes that share the port; auto: one for each usable core.")
    health_path: BuiltinRoute = Field("/health", description="The sidecar answers it with its health, unlimited.")
    status_path: BuiltinRoute = Field(
        "/api/status", description="The sidecar answers it with the caller's own limits; this consumes nothing."
    )
    max_connections: Connections = Field(4096, description="Connections beyond it are answered 503 at once.")
    header_timeout_s: Timeout = Field(10.0, alias="header_timeout", description="The time for a request's whole head.")
    idle_timeout_s: Timeout = Field(
        75.0, alias="idle_timeout", description="How long a connection may be silent between requests."
    )
    max_header_bytes: Annotated[int, ByteSize(1024, 2**20)] = Field(
        32 * 1024, description="The largest head of a request; a larger one is answered 431."
    )
    max_body_bytes: Live[Annotated[int, ByteSize(0, 2**50)] | None] = Field(
        None, description="The largest body of a request; a larger one is answered 413. Default: any size."
    )
    body_timeout_s: Live[Timeout] = Field(
        10.0, alias="body_timeout", description="How long to wait for a request's body; received bytes extend it."
    )
    min_body_bytes_per_s: Live[Annotated[int, ByteSize(0, 2**30)]] = Field(
        256, description="Bytes of a body that extend body_timeout by a second; 0: any byte restores it whole."
    )
    write_timeout_s: Timeout = Field(
        60.0, alias="write_timeout", description="The time for a client to take what waits to be sent, up to 64 KiB."
    )
    linger_timeout_s: Timeout = Field(
        30.0,
        alias="linger_timeout",
        description="How long an answered connection reads on where the request has not ended; at most 5 s in silence.",
    )
    websocket_idle_timeout_s: Live[Timeout] = Field(
        600.0, alias="websocket_idle_timeout", description="How long a WebSocket may be silent in both directions."
    )
    max_waiting: Live[Connections] = Field(
        1024, description="Requests that may wait for tokens (wait in a policy); further ones are refused."
    )
    drain_timeout_s: TimeoutOrZero = Field(
        20.0, alias="drain_timeout", description="How long requests may finish after SIGTERM."
    )
    request_id_header: RequestIdHeader = Field(
        "", description="The field of request ids, e.g. X-Request-ID; empty: no ids."
    )

    @field_validator("socket")
    @classmethod
    def _can_be_bound(cls, path: str | None) -> str | None:
        if path is not None and (not path.startswith("/") or len(path.encode()) > LONGEST_SOCKET_PATH_BYTES):
            expected = f"expected an absolute path of at most {LONGEST_SOCKET_PATH_BYTES} bytes"
            raise ValueError(f"{quote(path)} cannot be the path of a socket; {expected}")
        return path

    @model_validator(mode="after")
    def _has_one_listener(self) -> Self:
        if self.socket is not None and self.workers != 1:
            raise Wrong([(("workers",), "processes cannot share a Unix socket; expected 1 beside listen.socket")])
        return self

    @field_validator("status_path")
    @classmethod
    def _is_another_route(cls, status_path: str, info: ValidationInfo) -> str:
        if status_path == info.data.get("health_path"):
            raise ValueError(f"{quote(status_path)} is the health page already; expected another path")
        return status_path


class AdminSettings(Section):
    """The listener for operators and probes. On any address but loopback it needs a token."""

    host: Host = Field("127.0.0.1", description="The address of the admin listener.")
    port: Port = Field(9901, description="The port of the admin API, the dashboard, probes and metrics.")
    tls: TlsSettings = Field(TlsSettings(), description="TLS of the admin listener; off without a certificate.")
    token: Secret = Field(SecretStr(""), description="The bearer token that callers of the admin listener present.")
    peers: Many[PeerUrl] = Field(
        (), description="Admin listeners of other sidecars, shown beside this one; they receive this one's token."
    )
    peers_ca_file: FileName = Field(
        None, description="The authority of the certificates of https peers. Default: the system's."
    )

    @model_validator(mode="after")
    def _is_protected(self) -> Self:
        length = len(self.token.get_secret_value())
        if not length and not addresses.is_loopback(self.host):
            raise Wrong([(("host",), f"{quote(self.host)} is not loopback; expected a token too, or 127.0.0.1")])
        if 0 < length < SHORTEST_TOKEN:
            raise Wrong([(("token",), f"is shorter than {SHORTEST_TOKEN} characters; expected a longer one")])
        return self


class ApplicationHealth(Section):
    """How the application's health is found. Without a path: it is well while it accepts connections."""

    path: Annotated[str, Text(r"|/[!-~]*", "a path of the application; expected e.g. /healthz")] = Field(
        "", description="The application answers a GET of this with 2xx or 3xx while it is well; empty: no request."
    )
    interval_s: Timeout = Field(5.0, alias="interval", description="The time between two requests.")
    timeout_s: Timeout = Field(1.0, alias="timeout", description="The time for the head of an answer.")


class UpstreamSettings(Section):
    """The application behind the sidecar, and the limits of its answers."""

    url: Annotated[Endpoint, CheckedText(addresses.upstream)] = Field(
        Endpoint("127.0.0.1", 9000),
        description="The application: http or https, host and port; or unix: and its socket.",
    )
    ca_file: FileName = Field(None, description="With https: the authority of its certificate. Default: the system's.")
    cert_file: FileName = Field(None, description="With https: the sidecar's certificate.")
    key_file: FileName = Field(None, description="With https: the key of that certificate.")
    connect_timeout_s: Timeout = Field(
        1.0, alias="connect_timeout", description="The time for the application to accept a connection."
    )
    response_timeout_s: Live[Timeout] = Field(
        30.0, alias="response_timeout", description="The time until the head of an answer."
    )
    between_bytes_timeout_s: Live[Timeout] = Field(
        60.0,
        alias="between_bytes_timeout",
        description="The time between bytes of an answer; also for the application to take more of a body.",
    )
    total_timeout_s: Live[Timeout | None] = Field(
        None, alias="total_timeout", description="The time for a whole answer, event streams included. Default: any."
    )
    abandoned_timeout_s: Live[TimeoutOrZero] = Field(
        10.0,
        alias="abandoned_timeout",
        description="How long a request under in_flight may go on at the application, and keeps its place, after its "
        "client has left or it has timed out; 0: its connection is closed at once.",
    )
    retry_s: TimeoutOrZero = Field(
        0.0,
        alias="retry",
        description="How long a request waits for an application that refuses connections, before 502; 0: not at all.",
    )
    health: ApplicationHealth = Field(
        ApplicationHealth(), description="How readiness and the health page find the application's health."
    )
    max_connections: Connections = Field(256, description="The most connections to the application.")
    max_waiting: Connections = Field(
        1024, description="Requests that may wait for a connection; more are answered 503 at once."
    )
    queue_timeout_s: Timeout = Field(
        1.0, alias="queue_timeout", description="How long a request waits for a free connection before 503."
    )
    idle_timeout_s: Timeout = Field(60.0, alias="idle_timeout", description="How long an unused connection is kept.")
    request_buffer: Live[Annotated[int, ByteSize(0, 16 * 2**20)]] = Field(
        64 * 1024,
        description="A request's body up to this size is received whole before a connection is used. Longer ones are "
        "passed on as they come; 0: all.",
    )
    response_buffer: Live[Annotated[int, ByteSize(0, 16 * 2**20)]] = Field(
        2**20, description="So much of an answer is taken from the application while a slow client reads it."
    )
    buffer_total: Annotated[int, ByteSize(0, 2**40)] = Field(
        64 * 2**20, description="What all these buffers may hold together; beyond it nothing more is buffered."
    )
    pass_underscores: Live[Flag] = Field(
        False,
        description="Whether fields with other characters than letters, digits and hyphens in their names are sent on.",
    )
    via: Live[Flag] = Field(
        True,
        description="Whether requests and answers get a Via field; nginx compresses no answer to a request with it.",
    )

    @field_validator("ca_file", "cert_file", "key_file")
    @classmethod
    def _needs_tls(cls, name: str | None, info: ValidationInfo) -> str | None:
        url: Endpoint | None = info.data.get("url")
        if name is not None and url is not None and not url.tls:
            raise ValueError("takes effect only with an upstream url of https://")
        return name

    @model_validator(mode="after")
    def _pairs_files(self) -> Self:
        check_pair(self.cert_file, self.key_file)
        return self


class ClientIpSettings(Section):
    """How the address of a client is found."""

    trusted_proxies: Live[Many[NetworkRange]] = Field(
        (addresses.network("127.0.0.0/8"),), description="Networks whose X-Forwarded-For is trusted."
    )
    ipv6_prefix: Live[Annotated[int, WholeNumber(1, 128)]] = Field(
        64, description="IPv6 clients of one such prefix count as one client."
    )

    @property
    def addresses(self) -> ClientAddress:
        """The same settings for the decision."""
        return ClientAddress(self.trusted_proxies, self.ipv6_prefix)


class LogSettings(Section):
    """The log on stdout."""

    level: Live[Annotated[str, Choice("debug", "info", "warning", "error")]] = Field(
        "info", description="The lowest level that is logged."
    )
    requests: Live[Annotated[str, Choice("none", "refused", "all")]] = Field(
        "refused", description="Which requests are logged."
    )


class TracingSettings(Section):
    """The export of spans. Without an endpoint there are none."""

    endpoint: TracingEndpoint = Field(
        "", description="An OTLP/HTTP collector, e.g. http://127.0.0.1:4318/v1/traces; empty: no spans."
    )
    sample: Annotated[float, Proportion()] = Field(
        1.0, description="The share of traces to send where the caller has not decided it (traceparent)."
    )
