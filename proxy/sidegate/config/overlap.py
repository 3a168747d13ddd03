"""Finds policies that can never apply, because other policies exempt every request that they match.

Compares the patterns as written: equal patterns, or a pattern below a literal `/…/**`. Every finding is certain; some
unreachable policies are not found.
"""

from collections.abc import Sequence
from functools import lru_cache

from sidegate.config.clauses import FieldCondition
from sidegate.config.faults import Path, quote
from sidegate.config.policies import MatchSettings, PolicySettings
from sidegate.decision.identity import Network

# Bounds the pairs of policies that are compared in one document (about 2 µs each), so that thousands of exemptions
# beside thousands of limits do not delay a reload. Beyond it nothing more is found.
MOST_PAIRS = 50_000


class Comparison:
    """Compares the matches of one document's policies, up to MOST_PAIRS."""

    def __init__(self) -> None:
        self._left = MOST_PAIRS

    @property
    def exhausted(self) -> bool:
        """Whether MOST_PAIRS is used up."""
        return self._left <= 0

    def covers(self, wide: MatchSettings, narrow: MatchSettings, *, unknown: bool = False) -> bool:
        """Whether `wide` holds for every request for which `narrow` does; `unknown` where too many were compared."""
        self._left -= 1
        if self._left < 0:
            return unknown
        return (
            _covers_paths(wide, narrow)
            and (not wide.method or (bool(narrow.method) and set(narrow.method) <= set(wide.method)))
            and all(_implied(condition, narrow.header) for condition in wide.header)
            and (not wide.host or (bool(narrow.host) and ("*" in wide.host or set(narrow.host) <= set(wide.host))))
            and (
                not wide.client_cert or (bool(narrow.client_cert) and set(narrow.client_cert) <= set(wide.client_cert))
            )
            and (not wide.client_ip or _covers_networks(wide.client_ip, narrow.client_ip))
        )


def unreachable(policies: Sequence[PolicySettings]) -> list[tuple[Path, str]]:
    """Faults of policies whose every request is exempt, with paths below the list of policies."""
    exempt = [policy for policy in policies if policy.exempt]
    comparison = Comparison()
    faults: list[tuple[Path, str]] = []
    for index, policy in enumerate(policies):
        if policy.exempt:
            continue
        over = next((other for other in exempt if comparison.covers(other.match, policy.match)), None)
        if over is not None:
            faults.append(((index,), f"can never apply: {quote(over.name)} exempts all that it matches"))
    return faults


def _covers_paths(wide: MatchSettings, narrow: MatchSettings) -> bool:
    if not wide.path:
        return True
    if not narrow.path or (narrow.ignore_case and not wide.ignore_case):
        return False
    same, stems = _patterns(wide.path)
    return all(path in same or _lies_below(path, stems) for path in narrow.path)


@lru_cache(1024)
def _patterns(paths: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """The patterns, and the stems of those that are a literal `/…/**`."""
    stems = (path.removesuffix("/**") for path in paths if path.endswith("/**"))
    return frozenset(paths), frozenset(stem for stem in stems if "*" not in stem)


def _lies_below(path: str, stems: frozenset[str]) -> bool:
    if not stems:
        return False
    while path:
        if path in stems:
            return True
        path = path.rpartition("/")[0]
    return "" in stems


def _implied(condition: FieldCondition, given: Sequence[FieldCondition]) -> bool:
    """Whether a field condition holds wherever the given ones do."""
    same = [other for other in given if other.name.lower() == condition.name.lower()]
    if not condition.values:
        return bool(same)
    return any(other.values and set(other.values) <= set(condition.values) for other in same)


def _covers_networks(wide: Sequence[Network], narrow: Sequence[Network]) -> bool:
    return bool(narrow) and all(any(_is_within(network, other) for other in wide) for network in narrow)


def _is_within(network: Network, other: Network) -> bool:
    return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]  # equal versions, compared before
