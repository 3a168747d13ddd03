"""Which policies can never apply, since all that they match is exempt.

Found is what shows in the patterns as written: the same pattern, or one below a literal `/…/**`. What is not found here
may be unreachable all the same; what is found is so for certain.
"""

from collections.abc import Sequence

from proxy.config.clauses import FieldCondition
from proxy.config.faults import Path, shown
from proxy.config.policies import MatchSettings, PolicySettings
from proxy.decision.identity import Network


def unreachable(policies: Sequence[PolicySettings]) -> list[tuple[Path, str]]:
    """Faults of policies whose every request is exempt, with paths below the list of policies."""
    exempt = [policy for policy in policies if policy.exempt]
    faults: list[tuple[Path, str]] = []
    for index, policy in enumerate(policies):
        over = next((other for other in exempt if other is not policy and covers(other.match, policy.match)), None)
        if over is not None and not policy.exempt:
            faults.append(((index,), f"can never apply: {shown(over.name)} exempts all that it matches"))
    return faults


def covers(wide: MatchSettings, narrow: MatchSettings) -> bool:
    """Whether `wide` holds for every request for which `narrow` does."""
    return (
        _covers_paths(wide, narrow)
        and (not wide.method or (bool(narrow.method) and set(narrow.method) <= set(wide.method)))
        and all(_implied(condition, narrow.header) for condition in wide.header)
        and (not wide.host or (bool(narrow.host) and ("*" in wide.host or set(narrow.host) <= set(wide.host))))
        and (not wide.client_ip or _covers_networks(wide.client_ip, narrow.client_ip))
    )


def _covers_paths(wide: MatchSettings, narrow: MatchSettings) -> bool:
    if not wide.path:
        return True
    if not narrow.path or (narrow.ignore_case and not wide.ignore_case):
        return False
    return all(any(path == other or _below(path, other) for other in wide.path) for path in narrow.path)


def _below(path: str, other: str) -> bool:
    stem = other.removesuffix("/**")
    return stem != other and "*" not in stem and (path == stem or path.startswith(f"{stem}/"))


def _implied(condition: FieldCondition, given: Sequence[FieldCondition]) -> bool:
    """Whether a field condition holds wherever the given ones do."""
    same = [other for other in given if other.name.lower() == condition.name.lower()]
    if not condition.values:
        return bool(same)
    return any(other.values and set(other.values) <= set(condition.values) for other in same)


def _covers_networks(wide: Sequence[Network], narrow: Sequence[Network]) -> bool:
    return bool(narrow) and all(any(_is_within(network, other) for other in wide) for network in narrow)


def _is_within(network: Network, other: Network) -> bool:
    return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]  # one version, as asked
