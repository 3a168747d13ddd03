"""Seeded invalid requests: valid ones with changes that parsers may read differently."""

import random
from collections.abc import Callable

# Every request carries its number in its target and in a field, so that each arrival can be matched with its request even
# where a change has spoilt one of them.
Change = Callable[[bytes, random.Random], bytes]

_METHODS = [b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"PROPFIND"]
_LENGTHS = [
    b"5",
    b"05",
    b"+5",
    b"5, 5",
    b"5,6",
    b"-1",
    b"0x5",
    b"5 ",
    b" 5",
    b"",
    b"4",
    b"18446744073709551621",
    b"5\t",
    b"\x0b5",
]
_CODINGS = [
    *(
        b"chunked",
        b"Chunked",
        b"CHUNKED ",
        b"chunked, identity",
        b"identity",
        b"gzip, chunked",
        b"xchunked",
        b"chunked;q=1",
    ),
    *(b"\x0bchunked", b"chunked\t", b"chunked, chunked", b"", b", chunked", b"chunked,"),
]
_HOSTS = [
    b"",
    b"a b",
    b"a@b",
    b"a/b",
    b"[::1]:80",
    b"app.test:x",
    b"app.test.",
    b"APP.TEST",
    b"app.test, evil.test",
    b"\xff",
]
_VERSIONS = [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/11", b"HTTP/1", b"HTTX/1.1", b""]
_FIELDS = [
    *(b"Connection: close", b"Connection: keep-alive, X-Case", b"Connection: Host", b"Keep-Alive: 5", b"TE: trailers"),
    *(b"Expect: 100-continue", b"Expect: nothing", b"Upgrade: h2c", b"Trailer: X-A", b"Proxy-Connection: close"),
    *(
        b"X-A: b\r\n c",
        b"X-A : b",
        b" X-A: b",
        b"X-A",
        b": b",
        b"X-\xe9: b",
        b"X-A: \xe9",
        b"X-A: a\x00b",
        b"X-A: a\rb",
    ),
    *(b"X_A: b", b"X-A:", b"X-A:b", b"X-A: \x01", b"X-A: \x7f", b'X"A: b', b"X-A: " + b"a" * 3000, b"Max-Forwards: 0"),
]
_TARGETS = [
    b"/%zz",
    b"/%2e%2e/",
    b"/../a",
    b"//a",
    b"/a b",
    b"/a\tb",
    b"/a\x01b",
    b"/\xc3\xa9",
    b"*",
    b"a",
    b"http://app.test/a",
    b"http://evil.test/a",
]
_TARGETS += [b"/a#b", b"/a?b?c", b"/a\\b", b"/%00", b"https://app.test", b"http://app.test:80/a", b"?a", b""]
_SPECIAL = [b"\x00", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b";", b",", b"\x7f", b"\x80", b"\xff", b"0", b"\r\n\r\n"]
_SIZES = [
    b"5",
    b"05",
    b"0x5",
    b"5;a=b",
    b"5;\n",
    b" 5",
    b"5 ",
    b"+5",
    b"-5",
    b"FFFFFFFFFFFFFFFF5",
    b"",
    b"5\n",
    b"6",
    b"4",
]


def plain(number: int, chance: random.Random) -> bytes:
    """A valid request that every parser accepts."""
    method = chance.choice(_METHODS)
    lines = [
        b"%b /c%05d/%d HTTP/1.1" % (method, number, chance.randrange(100)),
        b"Host: app.test",
        b"X-Case: c%05d/" % number,
    ]
    body = b""
    if method in (b"POST", b"PUT", b"PATCH"):
        if chance.random() < 0.5:
            lines.append(b"Content-Length: 5")
            body = b"hello"
        else:
            lines.append(b"Transfer-Encoding: chunked")
            body = b"5\r\nhello\r\n0\r\n\r\n"
    return b"\r\n".join([*lines, b"", body])


def hostile(number: int, chance: random.Random) -> bytes:
    """One or two plain requests with up to three changes."""
    raw = plain(number, chance)
    for _ in range(chance.choice([0, 1, 1, 1, 1, 2, 2, 3])):
        raw = chance.choice(CHANGES)(raw, chance)
    if chance.random() < 0.15:
        raw += plain(number, chance)
    return raw


def _in_head(raw: bytes, change: Callable[[list[bytes]], object]) -> bytes:
    head, blank, body = raw.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    change(lines)
    return b"\r\n".join(lines) + blank + body


def _set(raw: bytes, name: bytes, value: bytes) -> bytes:
    def change(lines: list[bytes]) -> None:
        lines[1:] = [line for line in lines[1:] if not line.lower().startswith(name.lower() + b":")]
        lines.append(name + b": " + value)

    return _in_head(raw, change)


def add_field(raw: bytes, chance: random.Random) -> bytes:
    return _in_head(raw, lambda lines: lines.insert(chance.randint(1, len(lines)), chance.choice(_FIELDS)))


def add_framing(raw: bytes, chance: random.Random) -> bytes:
    lengths = [b"Content-Length: " + value for value in _LENGTHS]
    codings = [b"Transfer-Encoding: " + value for value in _CODINGS]
    return _in_head(raw, lambda lines: lines.insert(chance.randint(1, len(lines)), chance.choice(lengths + codings)))


def other_length(raw: bytes, chance: random.Random) -> bytes:
    return _set(raw, b"Content-Length", chance.choice(_LENGTHS))


def other_coding(raw: bytes, chance: random.Random) -> bytes:
    return _set(raw, b"Transfer-Encoding", chance.choice(_CODINGS))


def other_host(raw: bytes, chance: random.Random) -> bytes:
    return _set(raw, b"Host", chance.choice(_HOSTS))


def second_host(raw: bytes, chance: random.Random) -> bytes:
    return _in_head(raw, lambda lines: lines.append(chance.choice([b"Host: app.test", b"Host: evil.test", b"host:a"])))


def no_host(raw: bytes, chance: random.Random) -> bytes:
    def change(lines: list[bytes]) -> None:
        lines[1:] = [line for line in lines[1:] if not line.startswith(b"Host")]

    return _in_head(raw, change)


def other_target(raw: bytes, chance: random.Random) -> bytes:
    def change(lines: list[bytes]) -> None:
        method, _, version = lines[0].partition(b" ")[0], b"", lines[0].rpartition(b" ")[2]
        lines[0] = method + b" " + chance.choice(_TARGETS) + b" " + version

    return _in_head(raw, change)


def other_version(raw: bytes, chance: random.Random) -> bytes:
    def change(lines: list[bytes]) -> None:
        lines[0] = lines[0].rpartition(b" ")[0] + b" " + chance.choice(_VERSIONS)

    return _in_head(raw, change)


def other_method(raw: bytes, chance: random.Random) -> bytes:
    methods = [b"get", b"G@T", b"CONNECT", b"TRACE", b"A" * 40, b"GET ", b" GET", b"PRI", b"G\x00T", b""]
    return chance.choice(methods) + b" " + raw.partition(b" ")[2]


def other_size(raw: bytes, chance: random.Random) -> bytes:
    return raw.replace(b"\r\n5\r\n", b"\r\n" + chance.choice(_SIZES) + b"\r\n", 1)


def trailers(raw: bytes, chance: random.Random) -> bytes:
    fields = [b"X-Case: other", b"Content-Length: 50", b"Host: evil", b"nonsense", b"X-A: a\x00"]
    return raw.replace(b"\r\n0\r\n\r\n", b"\r\n0\r\n" + chance.choice(fields) + b"\r\n\r\n")


def put_in(raw: bytes, chance: random.Random) -> bytes:
    at = chance.randint(0, len(raw))
    return raw[:at] + chance.choice(_SPECIAL) + raw[at:]


def overwrite(raw: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(raw))
    return raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]


def cut_out(raw: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(raw))
    return raw[:at] + raw[at + chance.randint(1, 4) :] or b"\r\n"


def bare_line_feeds(raw: bytes, chance: random.Random) -> bytes:
    return raw.replace(b"\r\n", b"\n", chance.choice([1, 2, -1]))


def blank_lines_before(raw: bytes, chance: random.Random) -> bytes:
    return chance.choice([b"\r\n", b"\n", b"\r\n\r\n", b" \r\n"]) + raw


CHANGES: list[Change] = [
    *(add_field, add_field, add_framing, other_length, other_coding, other_host, second_host, no_host, other_target),
    *(other_target, other_version, other_method, other_size, trailers, put_in, put_in, overwrite, overwrite, cut_out),
    *(bare_line_feeds, blank_lines_before),
]
