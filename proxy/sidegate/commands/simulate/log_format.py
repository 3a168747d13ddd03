"""The formats of access logs."""

from enum import Enum


class LogFormat(Enum):
    """The format of lines. AUTO detects it for each line."""

    AUTO = "auto"
    COMBINED = "combined"
    VHOST = "vhost"
    JSON = "json"
    ENVOY = "envoy"
    HAPROXY = "haproxy"
    ALB = "alb"
