"""Sidegate put together: the only module that knows every room. It owns the clock, the tasks and the signals."""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Coroutine, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

import sidegate
from sidegate.admin.bucket_pages import BucketPages
from sidegate.admin.caller_status import CallerStatus
from sidegate.admin.config_page import config_page, policies_page
from sidegate.admin.events import Live
from sidegate.admin.explain_page import as_json, levels_by_policy
from sidegate.admin.health import Health
from sidegate.admin.listener import Admin, Pages
from sidegate.admin.request_models import Ask
from sidegate.admin.workers_view import Together
from sidegate.config import Settings, compile_policies, digest
from sidegate.config.builtin_routes import builtin_routes, is_builtin_route
from sidegate.decision.explanation import explain
from sidegate.decision.policy import PolicySet
from sidegate.decision.record import Record
from sidegate.decision.request import RequestFacts
from sidegate.decision.verdict import Answer, DecisionSource, Verdict
from sidegate.edge.engine import ensure_compiled
from sidegate.edge.field_names import response_names
from sidegate.edge.pool import Pool
from sidegate.edge.request_id import RequestIds
from sidegate.edge.runtime import Runtime, live_rules
from sidegate.edge.server import Server
from sidegate.reload import Reloader
from sidegate.store.deny_cache import DenyCache
from sidegate.store.factory import open_store
from sidegate.store.housekeeping import Watch
from sidegate.store.limiter import Limiter
from sidegate.store.local_store import is_local
from sidegate.store.protocol import StoreUnavailable
from sidegate.store.redis.inspect import Buckets
from sidegate.store.replicas import Replicas
from sidegate.telemetry.logs import LineWriter, RequestLog, start_logging
from sidegate.telemetry.metrics import Metrics, Readings
from sidegate.telemetry.outcomes import refused_buckets
from sidegate.telemetry.top_refused import Refusals
from sidegate.workers.channel import Channel, Message, open_channel
from sidegate.workers.place import WorkerId

if TYPE_CHECKING:  # its packages are an extra
    from sidegate.telemetry.tracing import Tracing

_REFUSE = Answer.REFUSE

logger = logging.getLogger(__name__)


class App:
    """One sidecar, configured by the file at `path`; with a `place`, one of several that are one together.

    Build it inside the event loop it shall run on.
    """

    def __init__(self, settings: Settings, path: Path, writer: LineWriter, place: WorkerId | None = None) -> None:
        self._place = place
        self._parent: Channel | None = None
        in_file, settings = settings, place.share_of(settings) if place else settings
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        policies = compile_policies(settings)

        self._reloader = Reloader(path, os.environ, in_file, self._take_over)
        self._metrics = Metrics(self._readings(writer))
        self._tracing = tracing = self._open_tracing()
        count_call = self._metrics.count_call if tracing is None else tracing.store_calls(self._metrics.count_call)
        self._store = open_store(settings.store, self._store_changed, observe=count_call)
        self._deny_cache = DenyCache()
        prefix = settings.store.key_prefix
        self._replicas = Replicas(self._store, prefix, self._fixed_replicas(settings))
        self._limiter = limiter = Limiter(
            self._store, self._deny_cache, proxies=lambda: self._replicas.count, key_prefix=prefix
        )
        self._watch = Watch(self._store, self._replicas, settings.store.warn_at_buckets, self._shares_limits)
        id_header = settings.listen.request_id_header
        self._pool = Pool(settings.upstream, response_names(id_header), self.spawn)
        health = Health(
            settings.upstream,
            self._ping_store,
            lambda: self._edge.live.policies,
            lambda: self._server.draining,
            self._about_config,
        )
        status = CallerStatus(lambda: self._edge.live.policies, limiter.look)

        async def health_page(_: RequestFacts) -> Any:
            return await health.page()

        self._edge = Runtime(
            live=live_rules(settings, policies),
            decide=limiter.decide,
            observe=self._observe if tracing is None else tracing.requests(self._observe),
            pool=self._pool,
            spawn=self.spawn,
            started=settings.listen,
            authority=settings.upstream.url.authority.encode(),
            pages={settings.listen.health_path: health_page, settings.listen.status_path: status.page},
            request_ids=RequestIds(id_header) if id_header else None,
        )
        self._server = Server(self._edge)
        self._log = RequestLog(settings.log, writer, lambda: self._edge.live.policies)
        self._refusals = Refusals(lambda: self._edge.live.policies)
        numbers = (place.number, place.count) if place else ()
        self._together = Together(self._metrics, self._refusals, self._state, *numbers)
        self._buckets = Buckets(settings.store)
        self._admin = Admin(settings.admin, self._pages(health))

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine as a task of this app: kept, ended with it, and heard if it fails."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises OSError where a port cannot be had."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, stop.set)
        try:
            _ = self.spawn(self._store.keep_connected())
            _ = self.spawn(self._watch.run())
            _ = self.spawn(self._tick())
            _ = self.spawn(self._reloader.watch())
            self._loop.add_signal_handler(signal.SIGHUP, lambda: self.spawn(self._reloader.reload()))
            if self._place is None or self._place.is_leader:
                await self._admin.listen()
            await self._store.tried.wait()  # a second at most: the first requests should not find it unconnected
            port = await self._server.listen(shared=self._place is not None)
            if self._place is not None:
                _ = self.spawn(self._report_to_parent(self._place, stop))
            # What start-up made stays for good: the garbage collector need not look at it again.
            gc.collect()
            gc.freeze()
            started: dict[str, object] = {"version": sidegate.__version__, "port": port}
            started |= {"upstream": str(self._settings.upstream.url)}
            started |= {"policies": len(self._settings.policies), "hash": digest(self._reloader.settings)}
            if self._place is not None:
                started |= {"worker": self._place.number, "workers": self._place.count, "pid": os.getpid()}
            logger.info("started", extra={"fields": started})
            await stop.wait()
            logger.info("draining", extra={"fields": {"connections": len(self._server.connections)}})
            cut_off = await self._server.drain()
            logger.info("stopped", extra={"fields": {"cut_off": cut_off}})
        finally:
            await self._close()

    def _take_over(self, settings: Settings, policies: PolicySet) -> None:
        """Go on under new settings: what they change is in force for the next request, also on live connections."""
        self._edge.live = live_rules(settings, policies)
        self._store.use(settings.store)
        self._buckets.use(settings.store)
        self._deny_cache.clear()
        self._replicas.fixed = self._fixed_replicas(settings)
        self._watch.warn_at_buckets = settings.store.warn_at_buckets
        self._log.wanted = settings.log.requests
        logging.getLogger().setLevel(settings.log.level.upper())

    def _readings(self, writer: LineWriter) -> Readings:
        return Readings(
            gauges={
                "websockets": ("Open WebSockets, each also a connection of either side.", lambda: self._server.tunnels),
                "client_connections": ("Open client connections.", lambda: len(self._server.connections)),
                "requests_in_flight": ("Requests being answered.", lambda: self._server.in_flight),
                "upstream_connections": ("Open connections to the application.", lambda: self._pool.open),
                "upstream_waiting": ("Requests that wait for a connection to it.", lambda: self._pool.waiting),
                "deny_cache_entries": ("Buckets known to be empty.", lambda: len(self._deny_cache)),
                "store_undecided": ("Requests that wait for the store.", lambda: self._limiter.undecided),
                "store_up": ("Whether the store is connected.", lambda: self._store.failure is None),
                "store_breaker_state": (
                    "Whether the store is asked: 0 yes (closed), 1 no (open), 2 no, but a probe is under way.",
                    lambda: max((each.state.value for each in self._limiter.breakers.values()), default=0),
                ),
                "store_keys": ("Keys in the store when last counted.", lambda: self._watch.keys),
                "store_proxies": ("Proxies that share each limit under `local`.", lambda: self._replicas.count),
                "local_buckets": ("Buckets of this proxy's own share.", lambda: len(self._limiter.local)),
                "draining": ("Whether it is on its way down.", lambda: self._server.draining),
                "config_loaded_timestamp_seconds": ("When the configuration was read.", self._loaded_at_s),
                "config_stale": ("Whether the last edit was refused.", lambda: self._reloader.stale is not None),
            },
            counters={
                "log_lines": ("Log lines written.", lambda: writer.written),
                "log_lines_dropped": ("Log lines that found no room.", lambda: writer.dropped),
            },
            store_nodes=lambda: {n: each.state.value for n, each in self._limiter.breakers.items() if n},
            reloads=self._reloader.results,
            config_hash=lambda: digest(self._reloader.settings),
        )

    def _loaded_at_s(self) -> float:
        return datetime.fromisoformat(self._reloader.loaded_at).timestamp()

    def _pages(self, health: Health) -> Pages:
        return Pages(
            health=health.page,
            exposition=self._together.exposition,
            config=self._config_page,
            policies=lambda: policies_page(self._in_force, self._edge.live.policies, self._together.outcomes()),
            top=self._together.top,
            explain=self._explain,
            buckets=BucketPages(
                lambda: self._edge.live.policies, self._buckets, self._limiter.look, self._forget_everywhere
            ),
            live=Live(self._together.timeline, self._together.state),
        )

    def _config_page(self) -> dict[str, object]:
        page = config_page(self._in_force, self._about_config(), self._reloader.needing_restart)
        return page | ({"workers": configs} if (configs := self._together.configs()) else {})

    def _state(self) -> dict[str, object]:
        failure = self._store.failure
        return {
            "store": {
                "up": failure is None,
                "reason": failure.reason if failure else None,
                "breakers": self._breakers(),
            },
            "in_flight": self._server.in_flight,
            "connections": len(self._server.connections),
            "draining": self._server.draining,
            "config": {**self._about_config(), "hash": digest(self._in_force)},
        }

    def _breakers(self) -> list[dict[str, object]]:
        """What stands between the requests and each node of the store; `node` is its name where there are several."""
        return [
            {"node": node or None, "state": each.state.name.lower(), "reason": None if each.closed else each.reason}
            for node, each in self._limiter.breakers.items()
        ]

    async def _explain(self, ask: Ask) -> dict[str, object]:
        policies, settings, facts = self._edge.live.policies, self._in_force, ask.facts
        own_page = is_builtin_route(facts, builtin_routes(self._settings))
        found = explain(policies, facts)
        verdict: Verdict | None = None
        if ask.live and not own_page and any(entry.charge for entry in found.applied):
            answer: asyncio.Future[Verdict] = self._loop.create_future()
            self._limiter.look(found.applied, lambda seen: None if answer.done() else answer.set_result(seen))
            verdict = await answer
        page = as_json(found, settings, levels_by_policy(verdict), own_page=own_page)
        if verdict is not None and verdict.decided_by is DecisionSource.STORE_FAILURE:
            page["live_error"] = verdict.reason
        return page

    @property
    def _in_force(self) -> Settings:
        return self._reloader.settings

    def _about_config(self) -> Mapping[str, object]:
        stale = self._reloader.stale
        if stale is None:
            return {"status": "ok", "loaded": self._reloader.loaded_at}
        return {"status": "stale", "since": stale.since, "loaded": self._reloader.loaded_at, "faults": stale.faults}

    async def _report_to_parent(self, place: WorkerId, stop: asyncio.Event) -> None:
        """Report each second, at once for a start; end when the parent has ended."""
        self._parent = await open_channel(socket.socket(fileno=place.channel))
        try:
            self._report()
            await self._parent.listen(self._hear_of_others)
            stop.set()
        finally:
            await self._parent.close()

    def _report(self) -> None:
        if self._parent is not None:
            self._parent.send(self._together.report())

    def _hear_of_others(self, message: Message) -> None:
        if "forget" in message:
            self._forget(message["forget"])
        else:
            self._together.hear(message["others"], message["reports"])

    def _forget(self, bucket: str) -> bool:
        self._deny_cache.forget(bucket)
        return self._limiter.local.forget(bucket)

    def _forget_everywhere(self, bucket: str) -> bool:
        """In the other workers too, in a moment."""
        if self._parent is not None:
            self._parent.send({"forget": bucket})
        return self._forget(bucket)

    async def _close(self) -> None:
        self._pool.close()
        await self._admin.close()
        await self._buckets.close()
        self._log.each_second()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    def _open_tracing(self) -> "Tracing | None":
        if not self._settings.tracing.endpoint:
            return None
        from sidegate.telemetry.tracing import Tracing  # noqa: PLC0415  (its packages are an extra)

        return Tracing(self._settings.tracing, lambda: self._edge.live.policies)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._log.each_second()
            self._refusals.each_second()
            self._together.timeline.tick()
            self._report()

    def _fixed_replicas(self, settings: Settings) -> int | None:
        """Each worker of a sidecar holds a share of its own."""
        replicas, workers = settings.store.replicas, self._place.count if self._place else 1
        return None if replicas is None else replicas * workers

    def _shares_limits(self) -> bool:
        return any(is_local(policy) for policy in self._edge.live.policies.policies)

    def _store_changed(self, failure: StoreUnavailable | None) -> None:
        if failure is None:
            logger.info("store_connected")
            self._limiter.guard.connected()
            self._watch.connected()
        else:
            logger.warning("store_unavailable", extra={"fields": {"reason": failure.reason, "detail": str(failure)}})

    async def _ping_store(self) -> str | None:
        for node, breaker in self._limiter.breakers.items():
            if not breaker.closed:
                return f"the breaker{f' of {node}' if node else ''} is open: {breaker.reason}"
        answer: asyncio.Future[object] = self._loop.create_future()
        self._store.ping(lambda reply: None if answer.done() else answer.set_result(reply))
        reply = await answer
        return None if reply == b"PONG" else str(reply)

    def _observe(self, record: Record) -> None:
        self._metrics.count(record)
        verdict = record.verdict
        if verdict is None or verdict.answer is not _REFUSE:
            self._log.note(record)
        else:
            refused = refused_buckets(record, self._edge.live.policies)
            self._refusals.note(refused)
            self._log.note(record, refused)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a background task failed", exc_info=error)


def run(settings: Settings, path: Path, place: WorkerId | None = None) -> None:
    """Run one sidecar, and follow edits of its file, until it is told to stop. Raises OSError where a port is taken.

    `place`: it is one of several workers under one parent.
    """
    ensure_compiled()
    writer = start_logging(settings.log)
    try:
        uvloop.run(_serve(settings, path, writer, place))
    finally:
        writer.close()


async def _serve(settings: Settings, path: Path, writer: LineWriter, place: WorkerId | None) -> None:
    await App(settings, path, writer, place).run()
