"""One sidecar: builds the objects of every room, connects them, and runs them until SIGTERM."""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from typing import Any, cast

import uvloop

import sidegate
from sidegate.adjustable import ADJUSTABLE
from sidegate.admin.application_probe import ApplicationProbe
from sidegate.admin.bucket_pages import BucketPages
from sidegate.admin.caller_status import CallerStatus
from sidegate.admin.config_page import config_document, policy_documents
from sidegate.admin.endpoints import AdminPages
from sidegate.admin.events import EventStream
from sidegate.admin.explain_page import Explainer
from sidegate.admin.fleet_view import FleetView
from sidegate.admin.health import HealthCheck
from sidegate.admin.listener import AdminListener
from sidegate.admin.overview import Overview
from sidegate.admin.response_types import ConfigDocument, ConfigState, PolicyDocument
from sidegate.admin.workers_view import WorkersView
from sidegate.config import ConfigSource, Settings, compile_policies, digest
from sidegate.config.store_url import Address
from sidegate.decision.policy import PolicySet
from sidegate.decision.request import RequestFacts
from sidegate.edge.buffers import BufferBudget
from sidegate.edge.engine import ensure_compiled
from sidegate.edge.failures import Failure
from sidegate.edge.field_names import response_names
from sidegate.edge.pool import Pool, pool_readings
from sidegate.edge.request_id import RequestIds
from sidegate.edge.runtime import LiveRules, Runtime, live_rules
from sidegate.edge.server import Server
from sidegate.reload.certificates import TlsContexts
from sidegate.reload.reloader import Reloader
from sidegate.store.store_room import StoreRoom
from sidegate.telemetry.logs import LogLines, start_logging
from sidegate.telemetry.metrics import Metrics
from sidegate.telemetry.observer import Observer
from sidegate.workers.channel import Channel, Message, open_channel
from sidegate.workers.place import WorkerId

logger = logging.getLogger(__name__)


class OwnedTasks:
    """Tasks that run until they end or the app does; a failure is logged."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine as a task."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def cancel(self) -> None:
        """Cancel all tasks and wait for their end."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a background task failed", exc_info=error)


class App:
    """One sidecar, configured by `source`; with a `place`, one of several workers of a sidecar.

    Create it inside the event loop that runs it.
    """

    def __init__(self, settings: Settings, source: ConfigSource, log: LogLines, place: WorkerId | None = None) -> None:
        self._place = place
        self._parent: Channel | None = None
        self._source = source
        self._reloader = Reloader(source, settings, self._take_over)
        self._settings = settings = place.share_of(settings) if place else settings
        self._tasks = OwnedTasks()
        policies = compile_policies(settings)
        metrics = Metrics(
            lambda: self._edge.live.policies.policies,
            lambda: digest(self._reloader.settings),
            [failure.reason for failure in Failure],
        )
        self._observer = Observer(settings.log, settings.tracing, log, metrics, self._policies)
        workers = place.count if place else 1
        known_proxies = place.proxies if place else 0
        self._store = StoreRoom(settings.store, workers, self._observer.observe_store, known_proxies=known_proxies)
        buffers = BufferBudget(settings.upstream.buffer_total)
        self._tls = TlsContexts.of(settings)
        names = response_names(settings.listen.request_id_header)
        pool = Pool(settings.upstream, names, self._tasks.spawn, self._tls.upstream)
        probe = ApplicationProbe(settings.upstream, lambda: self._tls.upstream)
        health = HealthCheck(probe, self._store.ping, self._policies, lambda: self._server.draining, self._config_state)
        self._edge = self._runtime(live_rules(settings, policies), pool, buffers, health)
        self._server = Server(self._edge, lambda: self._tls.clients)
        metrics.add(pool_readings(pool))
        for owner in (buffers, self._edge, probe, log.writer, self._store, self._server, self._reloader):
            metrics.add(owner.readings())
        numbers = (place.number, place.count) if place else ()
        self._view = WorkersView(
            metrics, self._observer.top_refused, self._observer.recent_refusals, self._state, *numbers
        )
        self._overview = Overview(self._view, probe, self._policies)
        self._admin = AdminListener(settings.admin, self._admin_pages(health), lambda: self._tls.admin)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises OSError if a port is not available."""
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            leads = self._place is None or self._place.is_leader
            watching = [self._overview.watch(), self._overview.watch_health()] if leads else []
            watching += self._tls.watches(self._settings, self._admin.renew_tls, self._edge.pool.use_tls)
            for each in (*self._store.tasks(), self._tick(), self._reloader.watch(), *watching):
                _ = self._tasks.spawn(each)
            loop.add_signal_handler(signal.SIGHUP, lambda: self._tasks.spawn(self._reloader.reload()))
            if leads:
                await self._admin.listen()
            await self._store.store.tried.wait()  # at most a second: first requests should find it connected
            port = await self._server.listen(shared=self._place is not None)
            if self._place is not None:
                _ = self._tasks.spawn(self._report_to_parent(self._place, stop))
            # Objects of the start live as long as the process: the garbage collector can skip them.
            gc.collect()
            gc.freeze()
            logger.info("started", extra={"fields": self._start_fields(port)})
            await stop.wait()
            logger.info("draining", extra={"fields": {"connections": len(self._server.connections)}})
            cut_off = await self._server.drain()
            logger.info("stopped", extra={"fields": {"cut_off": cut_off}})
        finally:
            await self._close()

    def _runtime(self, live: LiveRules, pool: Pool, buffers: BufferBudget, health: HealthCheck) -> Runtime:
        settings, status = self._settings, CallerStatus(self._policies, self._store.look)

        async def health_page(_: RequestFacts) -> Any:
            return await health.public_page()

        id_header = settings.listen.request_id_header
        return Runtime(
            live=live,
            decide=self._store.limiter.decide,
            observe=self._observer.observe,
            pool=pool,
            spawn=self._tasks.spawn,
            started=settings.listen,
            authority=settings.upstream.url.authority.encode(),
            pages={settings.listen.health_path: health_page, settings.listen.status_path: status.page},
            buffers=buffers,
            scheme=b"http" if self._tls.clients is None else b"https",
            request_ids=RequestIds(id_header) if id_header else None,
        )

    def _start_fields(self, port: int) -> dict[str, object]:
        settings, admin = self._settings, self._settings.admin
        adjustable = [".".join(each.path) for each in ADJUSTABLE]
        fields: dict[str, object] = {
            "version": sidegate.__version__,
            "build": sidegate.build(),
            "port": port,
            "upstream": str(settings.upstream.url),
            "store": str(settings.store.url),
            "admin": str(Address(admin.host, admin.port)),
            "config": str(self._source.path),
            "origins": {path: settings.origins[path] for path in adjustable if path in settings.origins},
        }
        fields |= {"policies": len(settings.policies), "hash": digest(self._reloader.settings)}
        if self._place is not None:
            fields |= {"worker": self._place.number, "workers": self._place.count, "pid": os.getpid()}
        return fields

    def _take_over(self, settings: Settings, policies: PolicySet) -> None:
        """Apply an edited configuration; the next request uses it, also on open connections."""
        self._store.use(settings.store)
        self._store.warn_of_local(self._policies(), policies)
        self._edge.live = live_rules(settings, policies)
        self._observer.log.wanted = settings.log.requests
        logging.getLogger().setLevel(settings.log.level.upper())

    def _admin_pages(self, health: HealthCheck) -> AdminPages:
        admin, listen = self._settings.admin, self._settings.listen
        return AdminPages(
            health=health.page,
            config=self._config_page,
            policies=self._policies_page,
            view=self._view,
            overview=self._overview,
            fleet=FleetView(self._overview, admin, lambda: self._tls.peers),
            explainer=Explainer(
                lambda: self._reloader.settings.model_copy(update={"listen": listen}), self._policies, self._store.look
            ),
            buckets=BucketPages(self._policies, self._store.buckets, self._store.look, self._forget_everywhere),
            events=EventStream(self._view.timeline, self._overview.live_state),
        )

    def _config_page(self) -> ConfigDocument:
        page = config_document(self._reloader.settings, self._config_state(), self._reloader.needing_restart)
        if workers := self._view.configs():
            page["workers"] = workers  # type: ignore[typeddict-item]  # as workers reported them
        return page

    def _policies_page(self, window_s: int) -> list[PolicyDocument]:
        since_start, recent = self._view.totals().outcomes, self._view.timeline.window(window_s).outcomes
        places = self._view.state()["places"]
        return policy_documents(self._reloader.settings, self._policies(), since_start, recent, window_s, places)

    def _state(self) -> dict[str, object]:
        return {
            "store": self._store.describe(),
            "in_flight": self._server.in_flight,
            "waiting": self._edge.pool.waiting,
            "places": dict(self._store.limiter.admissions.places),
            "connections": len(self._server.connections),
            "draining": self._server.draining,
            "config": {**self._config_state(), "hash": digest(self._reloader.settings)},
        }

    def _policies(self) -> PolicySet:
        return self._edge.live.policies

    def _config_state(self) -> ConfigState:
        return cast("ConfigState", self._reloader.about())

    async def _report_to_parent(self, place: WorkerId, stop: asyncio.Event) -> None:
        """Receive the parent's messages; `_tick` sends reports. Ends the worker when the parent has ended."""
        self._parent = await open_channel(socket.socket(fileno=place.channel))
        try:
            self._report()
            await self._parent.listen(self._receive)
            stop.set()
        finally:
            await self._parent.close()

    def _report(self) -> None:
        if self._parent is not None:
            self._parent.send({**self._view.report(), "proxies": self._store.proxies})

    def _receive(self, message: Message) -> None:
        if "forget" in message:
            self._store.forget(message["forget"])
        else:
            self._view.receive(message["others"], message["reports"])

    def _forget_everywhere(self, bucket: str) -> bool:
        """Forget a bucket here and, as soon as the parent's message arrives, in the other workers."""
        if self._parent is not None:
            self._parent.send({"forget": bucket})
        return self._store.forget(bucket)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._observer.each_second()
            self._view.timeline.tick()
            self._report()

    async def _close(self) -> None:
        self._edge.close()
        await self._admin.close()
        await self._store.close()
        await self._tasks.cancel()
        await asyncio.to_thread(self._observer.close)


def run(settings: Settings, source: ConfigSource, place: WorkerId | None = None) -> None:
    """Run one sidecar, with its configuration file watched, until SIGTERM or SIGINT.

    `place`: it is one of several workers under one parent. Raises OSError if a port is not available.
    """
    ensure_compiled()
    log = start_logging(settings.log)
    try:
        uvloop.run(_serve(settings, source, log, place))
    finally:
        log.close()


async def _serve(settings: Settings, source: ConfigSource, log: LogLines, place: WorkerId | None) -> None:
    await App(settings, source, log, place).run()
