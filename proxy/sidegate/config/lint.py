"""Lint warnings for configurations that are valid but probably unintended.

A warning never stops a sidecar; `sidegate check` prints it. Each warning is certain: a case that the configuration as
written does not prove is left out.
"""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from sidegate.config.addresses import is_loopback
from sidegate.config.faults import Path, quote
from sidegate.config.model import Settings
from sidegate.config.overlap import Comparison
from sidegate.config.policies import MatchSettings, PolicySettings
from sidegate.config.units import Quota
from sidegate.decision.identity import KeySource, SourceKind

_SECOND_US = 1_000_000
_DAY_US = 86_400 * _SECOND_US

# The methods that the sidecar's parser accepts; a request with another one is answered 400 before any policy.
METHODS = frozenset(
    {
        *("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "SEARCH", "SOURCE"),
        *("PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "BIND", "REBIND", "UNBIND", "ACL"),
        *("REPORT", "MKACTIVITY", "CHECKOUT", "MERGE", "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE", "PURGE"),
        *("MKCALENDAR", "LINK", "UNLINK"),
    }
)
# Fields that carry addresses. Any client may send them; `client_ip` reads them only from trusted proxies.
_ADDRESS_FIELDS = frozenset({"x-forwarded-for", "x-real-ip", "forwarded", "true-client-ip", "cf-connecting-ip"})
# Fields of a WebSocket's handshake, and usual names of their paths.
_OF_WEBSOCKETS = frozenset({"upgrade", "sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol"})
_WEBSOCKET_SEGMENTS = frozenset({"ws", "wss", "websocket", "websockets", "socket.io", "sockjs", "cable"})
# Conditions of a match whose entries are alternatives.
_LISTS = ("path", "method", "host", "client_ip", "client_cert")

Advice = tuple[Path, str]


def advice(settings: Settings) -> Iterator[Advice]:
    """Paths and sentences, in no order."""
    if all(policy.exempt for policy in settings.policies):
        yield ("policies",), "no policy limits anything; every request passes"
    for index, network in enumerate(settings.client_ip.trusted_proxies):
        if network.prefixlen == 0:
            message = f"'{network}' trusts every peer: any client can claim any address; expected your proxies"
            yield ("client_ip", "trusted_proxies", index), message
    yield from _lost_scheme(settings)
    exempt = [policy for policy in settings.policies if policy.exempt]
    by_address = [policy for policy in settings.policies if _is_by_address(policy)]
    comparison = Comparison()
    for index, policy in enumerate(settings.policies):
        found = [
            *_own_pages(policy.match, settings),
            *_unknown_methods(policy),
            *_head_beside_get(policy),
            *(_redundant if policy.exempt else _partly_exempt)(policy, exempt, comparison),
            *_no_certificates(policy, settings),
            *_beyond_burst(policy),
            *_days_of_burst(policy),
            *_settles_nothing(policy),
            *_holds_websockets(policy),
            *_waits_for_shares(policy, settings),
            *([] if _names_proxies(settings) else _forgeable(policy, by_address, comparison)),
            *_addresses_by_hand(policy),
        ]
        yield from ((("policies", index, *path), message) for path, message in found)


def _lost_scheme(settings: Settings) -> Iterator[Advice]:
    listen, client_ip = settings.listen, settings.client_ip
    is_local = listen.socket is not None or all(map(is_loopback, listen.host))
    if is_local or listen.tls.cert_file is not None:
        return
    if "trusted_proxies" not in client_ip.model_fields_set:
        message = (
            "not set, so X-Forwarded-Proto of proxies on other machines is replaced, and the application sees http; "
            "name the network of the proxy that ends TLS, or write [127.0.0.0/8] if there is none"
        )
        yield ("client_ip", "trusted_proxies"), message
    elif not client_ip.trusted_proxies:
        message = (
            "no proxy is trusted, so X-Forwarded-Proto is replaced and the application sees http for every request; if "
            "a proxy in front ends TLS, name its network here"
        )
        yield ("client_ip", "trusted_proxies"), message


# -- rules without effect ----------------------------------------------------------------------------------------------


def _own_pages(match: MatchSettings, settings: Settings) -> Iterator[Advice]:
    own = {settings.listen.health_path, settings.listen.status_path}
    for index, path in enumerate(match.path):
        if path in own:
            yield ("match", "path", index), f"{quote(path)} is answered by the sidecar itself and never limited"


def _no_certificates(policy: PolicySettings, settings: Settings) -> Iterator[Advice]:
    if settings.listen.tls.client_ca_file is not None:
        return
    message = "no client has a certificate: listen.tls.client_ca_file is not set"
    if policy.match.client_cert:
        yield ("match", "client_cert"), message
    if any(
        source.kind is SourceKind.CLIENT_CERT for part in (policy.key.parts if policy.key else ()) for source in part
    ):
        yield ("key",), message


def _unknown_methods(policy: PolicySettings) -> Iterator[Advice]:
    for index, name in enumerate(policy.match.method):
        if name not in METHODS:
            yield ("match", "method", index), _no_method(name)
    for name in policy.cost.by_method:
        if name not in METHODS:
            yield ("cost", name), _no_method(name)
        elif policy.match.method and name not in _methods_of(policy):
            yield ("cost", name), f"the cost of {name} is never used: this policy matches {_listed(policy)} only"


def _settles_nothing(policy: PolicySettings) -> Iterator[Advice]:
    if policy.settle is not None and policy.settle.statuses.issuperset(range(200, 600)):
        yield ("settle", "when"), "every status keeps the cost; without settle the policy does the same"


def _holds_websockets(policy: PolicySettings) -> Iterator[Advice]:
    if policy.in_flight is None or any(each.name.lower() in _OF_WEBSOCKETS for each in policy.match.header):
        return
    for index, path in enumerate(policy.match.path):
        if not _WEBSOCKET_SEGMENTS.isdisjoint(path.lower().split("/")):
            message = (
                "a WebSocket keeps its place until it ends; if that is intended, match header: {Upgrade: websocket}"
            )
            yield ("match", "path", index), message


def _waits_for_shares(policy: PolicySettings, settings: Settings) -> Iterator[Advice]:
    if policy.wait_ms is not None and (policy.on_store_failure or settings.store.on_failure) == "local":
        yield ("wait",), "while the store is away, the local share refuses at once: no request waits then"


def _methods_of(policy: PolicySettings) -> Sequence[str]:
    """The methods that a policy matches: GET includes HEAD."""
    return (*policy.match.method, "HEAD") if "GET" in policy.match.method else policy.match.method


def _head_beside_get(policy: PolicySettings) -> Iterator[Advice]:
    """Applications run GET's handler for HEAD, so a lower cost of HEAD lets callers run it for less."""
    costs = policy.cost.by_method
    if "HEAD" in costs and costs["HEAD"] < costs.get("GET", policy.cost.other):
        yield (
            ("cost", "HEAD"),
            "HEAD runs the handler of GET but costs less; without its own cost it costs the same",
        )
    if "GET" in policy.match.method and "HEAD" in policy.match.method:
        index = policy.match.method.index("HEAD")
        yield ("match", "method", index), "GET includes HEAD; HEAD has no effect here"


def _no_method(name: str) -> str:
    close = get_close_matches(name[:32], sorted(METHODS), n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{quote(name)} is not a method that the sidecar accepts; this never matches{hint}"


def _listed(policy: PolicySettings) -> str:
    return ", ".join(policy.match.method)


def _redundant(policy: PolicySettings, exempt: Sequence[PolicySettings], comparison: Comparison) -> Iterator[Advice]:
    def is_over(other: PolicySettings) -> bool:
        return other is not policy and comparison.covers(other.match, policy.match)

    over = next(filter(is_over, exempt), None)
    if over is None:
        return
    # Of two equal policies, the later one gets the warning.
    later = exempt.index(over) < exempt.index(policy)
    if later or not comparison.covers(policy.match, over.match, unknown=True):
        yield (), f"does nothing: {quote(over.name)} exempts all that it matches"


def _partly_exempt(
    policy: PolicySettings, exempt: Sequence[PolicySettings], comparison: Comparison
) -> Iterator[Advice]:
    def exempting(match: MatchSettings) -> PolicySettings | None:
        return next((other for other in exempt if comparison.covers(other.match, match)), None)

    for name in _LISTS:
        if not exempt or comparison.exhausted:
            return
        entries: Sequence[object] = getattr(policy.match, name)
        over = [exempting(policy.match.model_copy(update={name: (entry,)})) for entry in entries]
        if entries and all(over):
            both = " and ".join(dict.fromkeys(quote(each.name) for each in over if each))
            yield (), f"can never apply: {both} together exempt all that it matches"
            return
        for index, each in enumerate(over):
            if each is not None:
                yield ("match", name, index), f"never matches: {quote(each.name)} exempts it"


# -- suspicious numbers ------------------------------------------------------------------------------------------------


def _limits(policy: PolicySettings) -> Iterator[tuple[Path, Quota, int, int | None]]:
    """Each limit of a policy: its path, its rate, its burst, and its initial filling where one is written."""
    if policy.limit is not None:
        yield (), policy.limit, policy.burst or policy.limit.count, policy.initial
    for index, each in enumerate(policy.overrides):
        if each.limit is not None:
            yield ("overrides", index), each.limit, each.capacity, each.initial


def _beyond_burst(policy: PolicySettings) -> Iterator[Advice]:
    for path, _, burst, initial in _limits(policy):
        if initial is not None and initial > burst:
            yield (*path, "initial"), f"{initial} is more than a bucket holds; a new one starts with {burst}, its burst"


def _days_of_burst(policy: PolicySettings) -> Iterator[Advice]:
    for path, limit, burst, _ in _limits(policy):
        fill_us = burst * limit.period_us // limit.count
        if limit.period_us <= _SECOND_US and fill_us >= _DAY_US:
            days = fill_us // _DAY_US
            message = (
                f"at {limit} a bucket of {burst} takes {days} {'day' if days == 1 else 'days'} to fill, and is then "
                "spent at once; for a quota of days write a policy of its own, e.g. limit: 5000/day"
            )
            yield (*path, "burst"), message


# -- identities that a client can forge --------------------------------------------------------------------------------


def _names_proxies(settings: Settings) -> bool:
    """Whether the configuration names proxies. The default, loopback, names none: it trusts local peers."""
    return bool("trusted_proxies" in settings.client_ip.model_fields_set and settings.client_ip.trusted_proxies)


def _forgeable(
    policy: PolicySettings, by_address: Sequence[PolicySettings], comparison: Comparison
) -> Iterator[Advice]:
    """For configurations that name no proxy: every peer is a client and sends whatever fields it wants."""
    if policy.exempt:
        claims = [f"the field {condition.name}" for condition in policy.match.header]
        claims += ["the field Host"] if policy.match.host else []
        if claims and not policy.match.client_ip:
            message = (
                f"any client can exempt itself: it may send {claims[0]} with any value; add client_ip, or name the "
                "proxies that set or remove it in client_ip.trusted_proxies"
            )
            yield ("match",), message
        return
    claimed = [source for part in policy.key.parts for source in part if _is_claimed(source)] if policy.key else []
    if not claimed or policy.shadow:
        return
    # Where another policy limits the same requests by address, forged identities gain little.
    if not any(comparison.covers(other.match, policy.match, unknown=True) for other in by_address):
        message = (
            f"any client can forge {claimed[0]}, and get a new bucket for each value; name the proxies that set or "
            "check it in client_ip.trusted_proxies, or add a policy with key: client_ip"
        )
        yield ("key",), message


def _is_claimed(source: KeySource) -> bool:
    if source.kind is SourceKind.HEADER:
        return source.name.lower() not in _ADDRESS_FIELDS  # _addresses_by_hand warns of those
    return source.kind is SourceKind.COOKIE


def _is_by_address(policy: PolicySettings) -> bool:
    address = KeySource(SourceKind.CLIENT_IP)
    # A later alternative is not used where a client sends the earlier one.
    return policy.key is not None and not policy.shadow and all(part[0] == address for part in policy.key.parts)


def _addresses_by_hand(policy: PolicySettings) -> Iterator[Advice]:
    for part in policy.key.parts if policy.key else ():
        for source in part:
            if source.kind is SourceKind.HEADER and source.name.lower() in _ADDRESS_FIELDS:
                message = (
                    f"{source} is used as sent, including what a client has put into it; expected client_ip, which "
                    "reads it from trusted proxies only"
                )
                yield ("key",), message
