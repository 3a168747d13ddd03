"""The conditions of a policy's match, over the facts of one request."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sidegate.decision.identity import Identity, Network
from sidegate.decision.key_values import host_of
from sidegate.decision.request import RequestFacts


@dataclass(frozen=True, slots=True)
class FieldMatch:
    """A header condition: the field is present (`pattern` None), or a line of it matches as a whole."""

    name: str
    pattern: re.Pattern[str] | None

    def matches(self, facts: RequestFacts, *, every_line: bool) -> bool:
        """Whether any line matches, or with `every_line` all of them: applications pick different lines."""
        values = facts.fields.getall(self.name, ())
        if self.pattern is None or not values:
            return bool(values)
        lines = (self.pattern.fullmatch(value.strip(" \t")) is not None for value in values)
        return all(lines) if every_line else any(lines)


class Mismatch(NamedTuple):
    """A condition that does not hold, as the configuration names it, and the value that the request has there."""

    condition: str
    found: str


@dataclass(frozen=True, slots=True)
class Match:
    """Conditions that must all hold; an empty one always does. One alternative of each suffices.

    With `every`, which exemptions use, every reading of the path and every line of a field must match; else any.
    """

    paths: tuple[re.Pattern[str], ...] = ()
    methods: frozenset[str] = frozenset()
    fields: tuple[FieldMatch, ...] = ()
    hosts: tuple[re.Pattern[str], ...] = ()
    client_ip: tuple[Network, ...] = ()
    client_certs: tuple[re.Pattern[str], ...] = ()

    @property
    def ignores_case(self) -> bool:
        """Whether paths match in any case."""
        return any(pattern.flags & re.IGNORECASE for pattern in self.paths)

    def takes_path(self, readings: Sequence[str], *, every: bool) -> bool:
        """Whether the path matches."""
        if not self.paths:
            return True
        found = (any(pattern.fullmatch(path) for pattern in self.paths) for path in readings)
        return all(found) if every else any(found)

    def matching(self, readings: Sequence[str]) -> tuple[str, ...]:
        """The readings of the path that match."""
        return tuple(reading for reading in readings if self.takes_path((reading,), every=True))

    def takes_method(self, method: str) -> bool:
        """Whether the method matches. GET includes HEAD: applications run the same handler (RFC 9110 §9.3.2)."""
        return not self.methods or method in self.methods or (method == "HEAD" and "GET" in self.methods)

    def takes_rest(self, facts: RequestFacts, identity: Identity, *, every: bool) -> bool:
        """Whether everything but path and method matches."""
        if self.fields and not all(condition.matches(facts, every_line=every) for condition in self.fields):
            return False
        if self.hosts:
            host = host_of(facts) or ""
            if not any(pattern.fullmatch(host) for pattern in self.hosts):
                return False
        if self.client_certs and not any(pattern.fullmatch(facts.client_cert) for pattern in self.client_certs):
            return False
        if self.client_ip:
            address = identity.client_ip(facts)
            return any(address in network for network in self.client_ip)
        return True

    def first_mismatch(
        self, facts: RequestFacts, readings: Sequence[str], identity: Identity, *, every: bool
    ) -> Mismatch | None:
        """The first condition that does not hold, for explanations; None where all hold."""
        if not self.takes_path(readings, every=every):
            matching = self.matching(readings)
            return Mismatch("path", " or ".join(reading for reading in readings if reading not in matching))
        if not self.takes_method(facts.method):
            return Mismatch("method", facts.method)
        for condition in self.fields:
            if not condition.matches(facts, every_line=every):
                return Mismatch(f"header {condition.name}", ", ".join(facts.fields.getall(condition.name, ())))
        if self.hosts and not Match(hosts=self.hosts).takes_rest(facts, identity, every=every):
            return Mismatch("host", host_of(facts) or "")
        if self.client_ip and not Match(client_ip=self.client_ip).takes_rest(facts, identity, every=every):
            return Mismatch("client_ip", str(identity.client_ip(facts)))
        if self.client_certs and not Match(client_certs=self.client_certs).takes_rest(facts, identity, every=every):
            return Mismatch("client_cert", facts.client_cert)
        return None
