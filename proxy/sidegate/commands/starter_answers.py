"""The questions of `sidegate init`, and the answers from which it writes a configuration."""

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class StarterAnswers:
    """The answers, as texts that a configuration holds. `proxies` are networks, separated by commas."""

    upstream: str = "http://127.0.0.1:9000"
    redis: str = "localhost:6379"
    port: str = "8080"
    path: str = "/**"
    key: str = "client_ip"
    limit: str = "100/minute"
    on_failure: str = "deny"
    proxies: str = ""


class InitQuestion(NamedTuple):
    """One answer: its field in StarterAnswers, its flag, the question, the help of the flag."""

    name: str
    flag: str
    text: str
    help: str


QUESTIONS = (
    InitQuestion("upstream", "--upstream", "Where does the application listen?", "address of the application"),
    InitQuestion("redis", "--redis", "Where is the Redis or Valkey?", "address of the store"),
    InitQuestion("port", "--port", "On which port should clients reach the sidecar?", "port of the sidecar"),
    InitQuestion(
        "path", "--path", "Which requests are limited? (/** is all, /api/** a part)", "paths that are limited"
    ),
    InitQuestion(
        "key", "--key", "What identifies a caller? (client_ip, header:X-API-Key | client_ip, …)", "key of the buckets"
    ),
    InitQuestion(
        "limit", "--limit", "How much may each caller send? (10/s, 100/minute, 5000/day)", "limit of each key"
    ),
    InitQuestion(
        "on_failure",
        "--on-failure",
        "If the store does not answer? (deny: 503, local: a share of the limit, allow: everything passes)",
        "deny, local or allow",
    ),
    InitQuestion(
        "proxies",
        "--trusted-proxies",
        "Which proxies or load balancers are in front? (networks like 10.0.0.0/8, separated by commas; none: Enter)",
        "networks of proxies in front, separated by commas",
    ),
)
