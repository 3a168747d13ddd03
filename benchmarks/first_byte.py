"""`python -m benchmarks.first_byte`: the delay of the first byte of an answer where `settle: {json: …}` reads it.

One sidecar, one policy with and one without `settle`, requests in pairs in random order on one connection each. Prints
for each kind of answer the median time to the first byte of the body, and of the differences within the pairs the
median and the quartiles. The last byte of the whole answer is compared in the same way.
"""

import argparse
import random
import statistics
import sys
import time
from typing import NamedTuple

from tests.raw_client import RawClient, request
from tests.recorder import Recorder, Step
from tests.servers import StoreServer
from tests.sidecar import Sidecar, configuration

PLAIN: dict[str, object] = {"name": "plain", "match": {"path": "/plain"}, "limit": "1000000/s", "key": "client_ip"}
SETTLED: dict[str, object] = {
    **PLAIN,
    "name": "settled",
    "match": {"path": "/settled"},
    "settle": {"json": "usage.total"},
}
EVENTS = 100


def _whole(body: bytes) -> tuple[Step, ...]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return (head + body,)


def _stream() -> tuple[Step, ...]:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    event, last = b'data: {"text": "hello"}\n\n', b'data: {"usage": {"total": 1}}\n\n'
    chunks = [b"%x\r\n%b\r\n" % (len(each), each) for each in [event] * EVENTS + [last]]
    return (head, *chunks, b"0\r\n\r\n")


def _json(size_bytes: int) -> bytes:
    return b'{"text": "%b", "usage": {"total": 1}}' % (b"x" * size_bytes)


ANSWERS: dict[str, tuple[Step, ...]] = {
    "JSON of 1 KiB": _whole(_json(1024)),
    "JSON of 60 KiB": _whole(_json(60 * 1024)),
    "JSON of 1 MiB": _whole(_json(1024 * 1024)),
    f"{EVENTS} events": _stream(),
}


class Times(NamedTuple):
    """Seconds from the request to the first byte of the answer's body, and to its end."""

    first_s: float
    last_s: float


def timed(client: RawClient, target: str) -> Times:
    """One request."""
    begun_s = time.perf_counter()
    client.send(request(target))
    length = client.head().values("Content-Length")
    _ = client.read(1) if length else client.chunk()
    first_s = time.perf_counter() - begun_s
    if length:
        client.count_rest_of(int(length[0]) - 1)
    else:
        while client.chunk():
            pass
    return Times(first_s, time.perf_counter() - begun_s)


def main(pairs: int) -> int:
    """Measure and print."""
    store, recorder = StoreServer(), Recorder()
    try:
        with Sidecar(configuration(store.url, recorder.url, policies=[PLAIN, SETTLED])) as sidecar:
            for name, steps in ANSWERS.items():
                recorder.always(*steps)
                with RawClient(sidecar.port) as plain, RawClient(sidecar.port) as settled:
                    found = [_pair(plain, settled) for _ in range(pairs + 20)][20:]
                print(f"{name:15} first byte {_compared(found, 0)}; last byte {_compared(found, 1)}")
    finally:
        recorder.stop()
        store.stop()
    return 0


def _pair(plain: RawClient, settled: RawClient) -> tuple[Times, Times]:
    if random.random() < 0.5:
        return timed(plain, "/plain"), timed(settled, "/settled")
    later = timed(settled, "/settled")
    return timed(plain, "/plain"), later


def _compared(pairs: list[tuple[Times, Times]], part: int) -> str:
    least, middle, most = statistics.quantiles([(b[part] - a[part]) * 1e6 for a, b in pairs], n=4)
    without = statistics.median(a[part] for a, _ in pairs) * 1e6
    return f"{without:6.0f} us, with settle {middle:+5.0f} us (quartiles {least:+.0f}, {most:+.0f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_byte", description=__doc__)
    parser.add_argument("--pairs", type=int, default=2000, help="of each kind of answer")
    sys.exit(main(parser.parse_args().pairs))
