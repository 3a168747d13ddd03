"""The parent of the workers: starts and restarts them, forwards signals, and collects their metrics.

The parent serves no requests. Each worker is a whole sidecar in its own process, and all listen on the same port
(SO_REUSEPORT: the kernel spreads new connections over them). The parent holds the port, bound but not listening, so
that every worker gets the same one, also after a restart.

Metrics. Each worker reports its metrics and its state once a second. When the first worker reports, the parent sends it
the sum of the others' metrics and the state of each; the first worker has the admin listener, which covers all workers
(admin/workers_view). Counters of a dead worker stay in the sum, so that no counter decreases. The first message to a
first worker holds the counts from before its start.
"""

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys

from sidegate.config import ConfigSource, Settings
from sidegate.telemetry.logs import start_logging
from sidegate.telemetry.merge_metrics import Snapshot, merged, without_gauges
from sidegate.workers.channel import Channel, Message, open_channel
from sidegate.workers.place import VARIABLE, WorkerId

# Pauses before a dead worker is restarted: doubling, until one has run for STEADY_S.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
STEADY_S = 10.0
# A worker that serves but sends no report for so long is replaced. Reports are due each second.
HUNG_AFTER_S = 5.0
# Added to `listen.drain_timeout`, within which a worker ends by itself.
KILL_AFTER_S = 5.0

logger = logging.getLogger(__name__)


def supervise(settings: Settings, source: ConfigSource, count: int) -> int:
    """Run `count` workers until SIGTERM or SIGINT; returns the exit status. Raises OSError where the port is taken."""
    with hold_port(settings.listen.host[0], settings.listen.port) as held:
        writer = start_logging(settings.log)
        try:
            port = int(held.getsockname()[1])
            return asyncio.run(Parent(source, count, port, settings.listen.drain_timeout_s).run())
        finally:
            writer.close()


def hold_port(host: str, port: int) -> socket.socket:
    """A socket that reserves a port for sockets that share it. Raises OSError where the port is taken."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    with socket.socket(family, socket.SOCK_STREAM) as alone:
        # With SO_REUSEPORT two sidecars could share one port by mistake: check for others first.
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind(address)
        found = alone.getsockname()
    held = socket.socket(family, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        held.bind(found)
    except OSError:
        held.close()
        raise
    return held


class Parent:
    """The parent; see the module's docstring."""

    def __init__(self, source: ConfigSource, count: int, port: int, drain_timeout_s: float) -> None:
        self._source = source
        self._count = count
        self._port = port
        self._stop_timeout_s = drain_timeout_s + KILL_AFTER_S
        self._stop = asyncio.Event()
        self._failed = False
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._channels: dict[int, Channel] = {}
        self._ready: set[int] = set()
        self._reported_s: dict[int, float] = {}
        self._proxies: dict[int, int] = {}
        self._snapshots: dict[int, Snapshot] = {}
        self._reports: dict[int, object] = {}
        self._retired: Snapshot = []

    async def run(self) -> int:
        """Run the workers until SIGTERM or SIGINT, then drain them; returns 1 if one could not start or was killed."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._pass_on, signal.SIGHUP)
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                _ = group.create_task(self._keep(number))
            watching = group.create_task(self._replace_hung())
            await self._stop.wait()
            watching.cancel()
            self._pass_on(signal.SIGTERM)
            _ = loop.call_later(self._stop_timeout_s, self._kill)
        return 1 if self._failed else 0

    def _pass_on(self, passed: signal.Signals) -> None:
        for number, process in self._running.items():
            # SIGHUP would end a worker that is just starting, which reads the file anyway.
            if passed is not signal.SIGHUP or number in self._ready:
                process.send_signal(passed)

    def _kill(self) -> None:
        for process in self._running.values():
            logger.error("worker_killed", extra={"fields": {"pid": process.pid}})
            self._failed = True
            process.kill()

    async def _replace_hung(self) -> None:
        """Kill each worker that has stopped reporting; `_keep` starts it again."""
        loop = asyncio.get_running_loop()
        looked_s = loop.time()
        while True:
            await asyncio.sleep(1)
            late, looked_s = loop.time() - looked_s > HUNG_AFTER_S / 2, loop.time()
            for number in self._ready & self._running.keys():
                if late:  # the parent itself was stopped, perhaps with its workers: unread reports come first
                    self._reported_s[number] = looked_s
                elif (silent_s := looked_s - self._reported_s[number]) > HUNG_AFTER_S:
                    fields = {"worker": number, "pid": self._running[number].pid, "silent_s": round(silent_s, 1)}
                    logger.error("worker_hung", extra={"fields": fields})
                    self._running[number].kill()
                    self._ready.discard(number)

    async def _keep(self, number: int) -> None:
        """Start a worker, and restart it whenever it ends."""
        loop = asyncio.get_running_loop()
        pause_s, has_served = FIRST_PAUSE_S / 2, False
        while not self._stop.is_set():
            began_s = loop.time()
            status = await self._live(number)
            has_served |= number in self._reported_s
            self._ready.discard(number)
            if self._stop.is_set():
                self._failed |= status not in (0, -signal.SIGTERM)  # -SIGTERM: it was still starting
                return
            fields = {"worker": number, "status": status}
            if not has_served:
                # The same fault stops all workers from starting: log it and end, as a single sidecar does.
                logger.error("worker_cannot_start", extra={"fields": fields})
                self._failed = True
                self._stop.set()
                return
            steady = loop.time() - began_s >= STEADY_S
            pause_s = FIRST_PAUSE_S if steady else min(pause_s * 2, LONGEST_PAUSE_S)
            logger.error("worker_died", extra={"fields": {**fields, "again_in_s": pause_s}})
            try:
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()
            except TimeoutError:
                continue

    async def _live(self, number: int) -> int:
        """Run one worker process; returns its exit status."""
        ours, theirs = socket.socketpair()
        # Without a store at its start, it uses the count of the other workers.
        proxies = max(self._proxies.values(), default=0)
        place = WorkerId(number, self._count, self._port, theirs.fileno(), proxies)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sidegate", "run", "--config", str(self._source.path)),
                *(f"{flag}={text}" for flag, text in self._source.flags.items()),
                stdin=subprocess.DEVNULL,
                env={**os.environ, VARIABLE: place.variable()},
                pass_fds=(place.channel,),
                process_group=0,  # the parent forwards a terminal's Ctrl-C
            )
        self._running[number] = process
        if self._stop.is_set():  # started after the signal went to the others
            process.send_signal(signal.SIGTERM)
        channel = self._channels[number] = await open_channel(ours)
        if number == 0:
            self._send_to_leader()
        await channel.listen(lambda message: self._receive(number, message))
        status = await process.wait()
        await channel.close()
        del self._running[number], self._channels[number]
        self._retired = merged([self._retired, without_gauges(self._snapshots.pop(number, []))])
        self._reports.pop(number, None)
        return status

    def _receive(self, number: int, message: Message) -> None:
        if "forget" in message:  # a bucket was reset: forward it to the other workers
            for each, channel in self._channels.items():
                if each != number:
                    channel.send(message)
            return
        self._reported_s[number] = asyncio.get_running_loop().time()
        self._snapshots[number], self._reports[number] = message["metrics"], message["report"]
        self._proxies[number] = message["proxies"]
        if number not in self._ready:
            self._ready.add(number)
            if len(self._ready) == self._count:
                logger.info("workers_ready", extra={"fields": {"workers": self._count, "port": self._port}})
        if number == 0:
            self._send_to_leader()

    def _send_to_leader(self) -> None:
        others = [taken for each, taken in self._snapshots.items() if each != 0]
        reports = [report for each, report in self._reports.items() if each != 0]
        self._channels[0].send({"others": merged([self._retired, *others]), "reports": reports})
