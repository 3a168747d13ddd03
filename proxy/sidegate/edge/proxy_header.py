"""The header of the PROXY protocol, versions 1 and 2: the client's address, before the first byte of HTTP.

Source: the PROXY protocol specification of HAProxy (2020), §2.1 and §2.2. No I/O: bytes in, an address out. The grammar
is strict: a load balancer writes the header, so that anything unusual is a fault or an attack.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from sidegate.edge.failures import BadMessage

LONGEST_V1_BYTES = 107
# The addresses of version 2 have at most 216 bytes; load balancers append some hundred bytes of TLVs (skipped).
LONGEST_V2_BODY_BYTES = 4096

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_PORT = rb"(?:0|[1-9][0-9]{0,4})"
_V1_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f.:]{2,45}) ([0-9A-Fa-f.:]{2,45}) (%b) (%b)" % (_PORT, _PORT))
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [ -~]*)?")
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6, _STREAM_UNIX = 0x00, 0x11, 0x21, 0x31
_ADDRESS_BYTES = {_UNSPECIFIED: 0, _TCP4: 12, _TCP6: 36, _STREAM_UNIX: 216}


class ProxyHeader(NamedTuple):
    """A header: the client's address, empty where the connection's own peer is meant; and its length."""

    source: str
    length: int


def proxy_header(data: bytes) -> ProxyHeader | None:
    """The header that `data` begins with; None until it is whole. Raises BadMessage where it begins with none."""
    if data.startswith(_V1):
        return _version_1(data)
    if data.startswith(_V2):
        return _version_2(data)
    if _V1.startswith(data) or _V2.startswith(data):
        return None
    raise BadMessage("the connection does not begin with a PROXY header")


def _version_1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, LONGEST_V1_BYTES)
    if end < 0:
        if len(data) >= LONGEST_V1_BYTES:
            raise BadMessage("the PROXY header is too long")
        return None
    line = data[:end]
    if _V1_UNKNOWN.fullmatch(line):
        return ProxyHeader("", end + 2)
    match = _V1_LINE.fullmatch(line)
    if match is None or max(int(match[4]), int(match[5])) > 65535:
        raise BadMessage("the PROXY header is invalid")
    wanted = IPv4Address if match[1] == b"TCP4" else IPv6Address
    try:
        source, destination = (ip_address(text.decode()) for text in match.group(2, 3))
    except ValueError as error:
        raise BadMessage("the PROXY header has an invalid address") from error
    if not (isinstance(source, wanted) and isinstance(destination, wanted)):
        raise BadMessage("the PROXY header has an address of the other family")
    return ProxyHeader(str(source), end + 2)


def _version_2(data: bytes) -> ProxyHeader | None:
    if len(data) < len(_V2) + 4:
        return None
    command, family, length = data[12], data[13], int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXY) or family not in _ADDRESS_BYTES or length > LONGEST_V2_BODY_BYTES:
        raise BadMessage("the PROXY header is invalid")
    if command == _PROXY and length < _ADDRESS_BYTES[family]:
        raise BadMessage("the PROXY header is too short for its addresses")
    end = 16 + length
    if len(data) < end:
        return None
    if command == _LOCAL or family in (_UNSPECIFIED, _STREAM_UNIX):
        return ProxyHeader("", end)
    return ProxyHeader(str(ip_address(data[16:20] if family == _TCP4 else data[16:32])), end)
