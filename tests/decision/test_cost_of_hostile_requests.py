"""The work of matching is bounded for every request: by instructions, and in C by one pass over the text.

Heads are 31 KB, about the default of `listen.max_header_bytes`. The same heads with 30 times as many bytes show that no
pattern backtracks over them: a quadratic one takes minutes there, until the timeout of tests.
"""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import pytest
from sidegate.config import compile_policies, parse
from sidegate.decision.bad_request import BadRequest
from sidegate.decision.policy import PolicySet

from tests.decision.asked import facts
from tests.decision.instruction_count import instructions

HEAD_BYTES = 31_000
# Matching a plain request takes some 100 to 500, depending on the key; these microseconds are far below one ms.
MOST_INSTRUCTIONS = 2_000


class Hostile(NamedTuple):
    """A key, and a request of a given size: `repeated` in its target, or in the field `name`."""

    key: str
    repeated: str
    before: str = ""
    after: str = ""
    name: str = ""

    def request(self, size: int) -> Callable[[PolicySet], None]:
        text = self.before + self.repeated * (size // len(self.repeated)) + self.after
        head = facts((self.name, text)) if self.name else facts(target=text)

        def match(policies: PolicySet) -> None:
            with contextlib.suppress(BadRequest):
                policies.applying(head)

        return match


HOSTILE = [
    *(
        Hostile("query:user", repeated, before="/?")
        for repeated in (
            "%&",
            "&",
            ";",
            "%20",
            "+",
            "%75",
            "user%20",
            "%20user=",
            "user[",
            "[",
            "]",
            "?",
            "user]",
            "a&" * 900 + "%75" * 9_000,
        )
    ),
    *(
        Hostile("query:user", repeated, before="/?user=")
        for repeated in ("%", "%41", "%zz", "+", "\udcff", "%00", "%20")
    ),
    *(
        Hostile("path", repeated, before="/")
        for repeated in (
            "%2f",
            "%2F%2f",
            "/",
            ";",
            "./",
            "%2e/",
            "/;",
            "..",
            "%",
            "%41",
            "%c3%a9",
            "\udcff",
            "%ff",
            "%ff%2f",
            ";.",
            "é",
        )
    ),
    *(Hostile("path", repeated * 990 + "%41" * 9_000, before="/") for repeated in ("./", ";", "/", "a%2f", "/;a")),
    *(
        Hostile("cookie:sid", repeated, name="Cookie")
        for repeated in (
            "%;",
            "a=b;",
            '"',
            "\xa0",
            " ",
            ";",
            ",",
            "%20",
            "sid",
            '"sid',
            "%73id ;",
            ",sid=1",
            " sid",
            "a sid",
            " sid=1",
            "__Host-",
        )
    ),
    *(
        Hostile("cookie:sid", repeated, before="a", after="a=1", name="Cookie")
        for repeated in ('"', " ", "\xa0", "%20")
    ),
    *(
        Hostile("cookie:sid", repeated, before="sid=", name="Cookie")
        for repeated in ("%41", "%", "+", "\\", '"', "\xa0")
    ),
    *(
        Hostile("client_ip", repeated, name="X-Forwarded-For")
        for repeated in ("127.0.0.1,", ",", " ", "[::1]:1,", "1", "127.0.0.1", "[")
    ),
    *(
        Hostile("header:Authorization", repeated, name="Authorization")
        for repeated in ("a", " ", "a ", "basic ", "=", "Bearer", "Token ", ",", ";", 'a="b",', '"')
    ),
    *(
        Hostile("header:Authorization", repeated, before=before, name="Authorization")
        for before in ("Bearer ", "Token token=", "Digest a=b,", "Digest ")
        for repeated in ("a", ",", ";", '"', "a=", "a=b,", 'a="b", ', "Token", "a ", "x=")
    ),
    *(Hostile("header:X-User-ID", repeated, name="X-User-ID") for repeated in ("a", " ", "é", "\udcff", "a ")),
    *(Hostile("host", repeated, name="Host") for repeated in (".", ":", "[", "@", "a.")),
    Hostile("host", "a@", before="http://", after="/"),
    Hostile("host", "a"),
]


def compiled(key: str) -> PolicySet:
    match = "{path: ['/**/a/**/b/**', '/api/*/x'], host: ['*.a.test', '*']}"
    return compile_policies(
        parse(
            f"client_ip: {{trusted_proxies: [127.0.0.0/8, 192.0.2.0/24, '::1/128']}}\npolicies: [{{name: e, match: {match}, "
            f"exempt: true}}, {{name: p, key: '{key}', limit: 1/s}}]",
            "c.yaml",
            {},
        )
    )


@pytest.mark.parametrize(
    "hostile", HOSTILE, ids=lambda hostile: f"{hostile.key}-{ascii(hostile.before + hostile.repeated)[1:20]}"
)
def test_hostile_request_takes_a_bounded_number_of_instructions(hostile: Hostile) -> None:
    policies = compiled(hostile.key)
    match = hostile.request(HEAD_BYTES)
    assert instructions(lambda: match(policies)) < MOST_INSTRUCTIONS


@pytest.mark.parametrize(
    "hostile", HOSTILE, ids=lambda hostile: f"{hostile.key}-{ascii(hostile.before + hostile.repeated)[1:20]}"
)
def test_work_on_a_megabyte_ends(hostile: Hostile) -> None:
    hostile.request(30 * HEAD_BYTES)(compiled(hostile.key))
