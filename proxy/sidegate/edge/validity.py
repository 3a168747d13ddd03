"""What the parser lets through and we do not: anything that another parser might read otherwise.

RFC 9112 §3.2 (Host, the forms of targets), §6.1 (Transfer-Encoding); RFC 9110 §7.6.2 (Max-Forwards), §10.1.1
(Expect).
"""

from typing import Any

from sidegate.edge.headers import names_host, valid_host
from sidegate.edge.max_forwards import COUNTED_METHODS, hops_are_doubtful
from sidegate.edge.replies import Fault
from sidegate.edge.wire import EXPECT, HOST, TRANSFER_ENCODING, RequestMessage


def fault_in(message: RequestMessage) -> Fault | None:
    """Why the request is not taken, if it is not; the body is not looked at."""
    if message.version.major != 1:
        return Fault.VERSION
    if message.method == "CONNECT":
        return Fault.CONNECT
    headers = message.headers
    host = headers.get(HOST)
    if host is not None and not valid_host(host):
        return Fault.BAD_REQUEST
    if not message.path.startswith("/") and not names_host(message.path, host):
        return Fault.BAD_REQUEST
    coding = headers.get(TRANSFER_ENCODING)
    # Also one that the parser makes nothing of, such as an empty one: another parser might.
    if coding is not None and (message.version.minor == 0 or coding.lower() != "chunked"):
        return Fault.BAD_REQUEST
    if message.method in COUNTED_METHODS and hops_are_doubtful(message):
        return Fault.BAD_REQUEST
    expect = headers.get(EXPECT)
    if expect is not None and expect.lower() != "100-continue":
        return Fault.EXPECTATION
    return None


def head_size(message: RequestMessage) -> int:
    """How long the target and the fields are, in bytes, as they came but for blanks that the parser took away."""
    fields: Any = message.raw_headers
    return len(message.path) + sum(len(name) + len(value) + 4 for name, value in fields)
