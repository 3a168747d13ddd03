"""HTTP client of the load test: sends one request, or reads a caller's limits."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from time import perf_counter

import aiohttp

from benchmarks.load_policy import Allowance, StatusError, read_status


class SidecarFault(Exception):
    """A sidecar that cannot be measured: it does not answer, or is no sidecar."""


class Outcome(Enum):
    """Result of a request. FAILED: no response, or a status that is neither success nor 429."""

    ADMITTED = "admitted"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's end. Moments are of the caller's monotonic clock, in seconds.

    `policies` names those that applied, where the answer says so; `marked` is whether it has rate-limit fields at all.
    `result` is the status, or what went wrong.
    """

    outcome: Outcome
    sent_s: float
    answered_s: float
    result: str
    remaining: str | None = None
    retry_after: str | None = None
    policies: frozenset[str] | None = None
    marked: bool = False


def open_session(connections: int, timeout_s: float) -> aiohttp.ClientSession:
    """A session with at most `connections` connections that keeps no cookies and decodes nothing."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        auto_decompress=False,
    )


async def ask(session: aiohttp.ClientSession, url: str, user: str) -> Answer:
    """GET `url` as `user`, and read the whole response. Does not raise for failures of the other side."""
    sent_s = perf_counter()
    try:
        async with session.get(url, headers={"X-User-ID": user}, allow_redirects=False) as response:
            async for _ in response.content.iter_any():
                pass
    except TimeoutError:
        return Answer(Outcome.FAILED, sent_s, perf_counter(), "timeout")
    except (aiohttp.ClientError, OSError) as error:
        return Answer(Outcome.FAILED, sent_s, perf_counter(), type(error).__name__)
    # The application may send such fields, too; the sidecar's come after.
    fields = response.headers
    named = ", ".join(fields.getall("RateLimit-Policy", ()))
    return Answer(
        outcome=_outcome(response.status),
        sent_s=sent_s,
        answered_s=perf_counter(),
        result=str(response.status),
        remaining=fields.getall("X-RateLimit-Remaining", [None])[-1],
        retry_after=fields.get("Retry-After"),
        policies=policy_names(named) if named else None,
        marked=bool(named) or "X-RateLimit-Limit" in fields,
    )


async def ask_any(session: aiohttp.ClientSession, urls: Sequence[str], user: str) -> tuple[Answer, int]:
    """As `ask` the first of `urls`, or the next ones while connections are refused, as load balancers do.

    Returns the number of refused connections too.
    """
    for refused, url in enumerate(urls[:-1]):
        answer = await ask(session, url, user)
        if answer.result != aiohttp.ClientConnectorError.__name__:
            return answer, refused
    return await ask(session, urls[-1], user), len(urls) - 1


async def limits_of(session: aiohttp.ClientSession, target: str, status_path: str, user: str) -> tuple[Allowance, ...]:
    """The buckets of `user` as the sidecar at `target` sees them; consumes nothing. Raises SidecarFault."""
    url = target + status_path
    asked_s = perf_counter()
    try:
        async with session.get(url, headers={"X-User-ID": user}, allow_redirects=False) as response:
            if response.status != 200:
                raise SidecarFault(f"{url} answered {response.status}; a sidecar reports the caller's limits there")
            return read_status(await response.json(content_type=None), asked_s)
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else str(error) or "no answer in time"
        raise SidecarFault(f"{target} does not answer ({reason}). Is it running? Try: make start") from error
    except StatusError as error:
        raise SidecarFault(f"{url} answered no status: {error}") from error
    except ValueError as error:
        raise SidecarFault(f"{url} answered no JSON; a sidecar reports the caller's limits there") from error


async def check_all(session: aiohttp.ClientSession, targets: Sequence[str], status_path: str, user: str) -> None:
    """Raises SidecarFault for the first target that cannot be measured."""
    for target in targets:
        await limits_of(session, target, status_path, user)


@lru_cache(64)
def policy_names(policy_field: str) -> frozenset[str]:
    """The names in a `RateLimit-Policy` field: the string or token that begins each member."""
    members = re.split(r',(?=(?:[^"]*"[^"]*")*[^"]*$)', policy_field)
    return frozenset(member.split(";")[0].strip().strip('"') for member in members)


def _outcome(status: int) -> Outcome:
    if status == 429:
        return Outcome.REFUSED
    return Outcome.ADMITTED if 200 <= status < 400 else Outcome.FAILED
