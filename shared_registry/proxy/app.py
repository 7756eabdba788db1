"""The router: starts and stops its registry, its connections and its background tasks, and serves requests."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator
from typing import cast

from shared_registry.config import RouterConfig
from shared_registry.errors import StoreError
from shared_registry.probing.tls import TlsContexts
from shared_registry.proxy import closing
from shared_registry.proxy.access_log import AccessLog
from shared_registry.proxy.access_record import Ended
from shared_registry.proxy.answers import Answer, error_answer
from shared_registry.proxy.client import Site
from shared_registry.proxy.descriptors import Descriptors
from shared_registry.proxy.dispatch import Dispatcher
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.http import HttpProxy
from shared_registry.proxy.narrator import Narrator
from shared_registry.proxy.opening import Opening
from shared_registry.proxy.outcomes import OutcomeReports
from shared_registry.proxy.pages import OwnPages
from shared_registry.proxy.paths import normal_path
from shared_registry.proxy.placement import SessionPlacement
from shared_registry.proxy.pools import ReplicaPools
from shared_registry.proxy.remembered import Remembered
from shared_registry.proxy.routes import Routes
from shared_registry.proxy.status import Queue, not_ready_reason, ready_document, status_document
from shared_registry.proxy.websocket import SWITCHING_PROTOCOLS, WebSocketProxy
from shared_registry.registry.facade import SharedReplicaRegistry
from shared_registry.store.redis_url import mask_redis_url

CHECK_SECONDS = 0.25
"""How often the time limits of the connections are applied."""
POLL_SECONDS = 0.1
logger = logging.getLogger(__name__)


class Router:
    """One router. It serves the connections of its `site` while the context `running()` is entered.

    Attributes:
        site: What the clients' connections have in common.
    """

    def __init__(self, config: RouterConfig, *, url: str = "", access_log: AccessLog | None = None) -> None:
        """Create the router. It connects to nothing before `running()`.

        Args:
            config: The router's settings.
            url: The url at which it serves, shown to operators.
            access_log: Logs every request, unless it is `None`.
        """
        self.config = config
        self.url = url
        self.registry = SharedReplicaRegistry(config, health_checks=False, url=url)
        self._stopping = asyncio.Event()
        self._reports = OutcomeReports(self.registry)
        self._opening = Opening(self.registry)
        self._placement = placement = SessionPlacement(
            self.registry, self._opening, config.on_lost, queue_timeout_seconds=config.queue_timeout_seconds
        )
        tls = TlsContexts(config)
        self._replicas = pools = ReplicaPools(config, tls)
        self.descriptors = Descriptors(
            replicas=lambda: len(self.registry.all()), idle=lambda: pools.idle_count, close_idle=pools.close
        )
        self.dispatcher = Dispatcher(placement, self._reports, self.descriptors)
        self._http = HttpProxy(config, self.dispatcher, placement, pools, self._reports)
        self._websocket = WebSocketProxy(config, self.dispatcher, placement, pools, self._reports)
        self._pages = OwnPages(
            {"/status": self._status, "/healthz": self._healthz, "/readyz": self._readyz, "/metrics": None}
        )
        self._routes = Routes(config.routes, placement=config.placement)
        self._depth = Remembered(self.registry.queue_depth, seconds=config.refresh_seconds)
        self._tasks: set[asyncio.Task[None]] = set()
        self.site = Site(
            self._begin,
            header_timeout_seconds=config.header_timeout_seconds,
            silence_seconds=config.response_timeout_seconds,
            access_log=access_log,
        )

    def begin_stop(self) -> None:
        """Begin to stop: resign as leader, turn `/readyz` to 503, and refuse the sessions that wait for a slot.

        All of this happens at once. Sessions that have a slot continue until `running()` ends.
        """
        self._stopping.set()
        self._placement.stop_waiting()

    @contextlib.asynccontextmanager
    async def running(self, *, wait_seconds: float | None = None) -> AsyncIterator[None]:
        """Join the registry, run the background tasks, and leave the registry at the end.

        Entering does not wait for Redis; `/readyz` reports when the router is ready. Sessions that arrive before the
        shared state is loaded are held for a short time: see `Opening`.

        Args:
            wait_seconds: How long to try to reach Redis at the start; `None` has no limit.

        Raises:
            StoreUnavailable: Redis could not be reached in that time. The body of the context was cancelled.
            StoreError: Redis refuses, or contains other data than ours. The body of the context was cancelled.
        """
        self._opening.begin()
        try:
            async with asyncio.TaskGroup() as tasks:
                works = (self._take_part(wait_seconds), self._reports.run(), self._replicas.sweep(), self._check())
                running = [tasks.create_task(work) for work in works]
                try:
                    yield
                finally:
                    for task in running:
                        task.cancel()
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
        finally:
            self._replicas.close()
            self.site.refusals.report(asyncio.get_running_loop().time(), is_last=True)

    async def _take_part(self, wait_seconds: float | None) -> None:
        registry, where = self.registry, mask_redis_url(self.config.redis_url)
        await registry.start(timeout_seconds=wait_seconds)
        try:
            logger.info("router: %s has joined namespace %s at %s", registry.router_key, self.config.namespace, where)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._narrate())
                tasks.create_task(self._opening.run())
                leading = tasks.create_task(registry.run_health_checks())
                await self._stopping.wait()
                leading.cancel()
        finally:
            await registry.stop()
            logger.info("router: %s has left", registry.router_key)

    async def _narrate(self) -> None:
        narrator = Narrator(self.registry)
        while True:
            narrator.log_changes()
            await asyncio.sleep(POLL_SECONDS)

    async def end_sessions(self) -> None:
        """Cancel what is under way, and wait until it has ended."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, exchange: Exchange) -> None:
        """Serve a request in a task of its own, which ends at the latest when the client leaves."""
        exchange.task = task = asyncio.create_task(self._serve(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if exchange.record is not None:
            task.add_done_callback(functools.partial(self._log, exchange))

    def _log(self, exchange: Exchange, task: asyncio.Task[None]) -> None:
        """Write a request's line. A task that was cancelled, and gave no other reason, ended with its connection."""
        if not task.cancelled():
            exchange.note_end("router_failed")
        else:
            is_open = exchange.record is not None and exchange.record.status == SWITCHING_PROTOCOLS
            ended: Ended = "router_stopped" if self.site.is_ending else "client_left"
            exchange.note_end(ended, close_code=closing.LOST if is_open else None)
        cast("AccessLog", self.site.access_log).write(exchange)

    async def _serve(self, exchange: Exchange) -> None:
        try:
            is_websocket, path = exchange.is_handshake, normal_path(exchange.path)
            page = self._pages.path_of(path)
            if page is not None:
                if exchange.record is not None:
                    exchange.record.place = "page"
                exchange.answer(await self._pages.answer(page, exchange.method, is_websocket=is_websocket))
                return
            if exchange.is_guest:
                exchange.answer(_NO_ROOM)
                return
            place = self._routes.place(exchange.method, path, is_websocket=is_websocket)
            if exchange.record is not None:
                exchange.record.place = place
            if place == "none":
                exchange.answer(_NOT_ALLOWED)
            elif is_websocket:
                await self._websocket.serve(exchange, takes_slot=place == "lease")
            else:
                await self._http.serve(exchange, takes_slot=place == "lease")
        except Exception:
            text = "http: %s failed in the router itself (request %s)"
            logger.exception(text, exchange.method, exchange.request_id.decode())
            exchange.keep_alive = False
            exchange.note_end("router_failed", error="internal_error")
            exchange.answer(error_answer(500, "internal_error", "the router failed; see its log"))

    async def _check(self) -> None:
        """Apply the time limits of the connections periodically until cancelled."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = asyncio.get_running_loop().time()
            for client in tuple(self.site.clients):
                client.check(now)
            self.site.refusals.report(now)

    async def _status(self) -> Answer:
        queue = Queue(None, self._placement.waiting)
        if self.registry.is_started:
            with contextlib.suppress(StoreError):  # then it shows the last view; the document contains its age
                await self.registry.refresh()
                queue = Queue(await self._depth.get(), self._placement.waiting)
        document = status_document(
            self.registry, url=self.url, live_sessions=self.dispatcher.live_sessions, queue=queue
        )
        return Answer(200, document)

    async def _healthz(self) -> Answer:
        return Answer(200, {"status": "ok"})

    async def _readyz(self) -> Answer:
        reason = not_ready_reason(self.registry, is_open=self._opening.is_open, is_stopping=self._stopping.is_set())
        if reason is None:
            return Answer(200, ready_document(self.registry))
        return Answer(503, {"status": "not ready", "reason": reason})


_NOT_ALLOWED = error_answer(
    403, "not_allowed", "this router passes on no request for this path: see its setting routes"
)
_NO_ROOM = error_answer(503, "gpu_unavailable", "this router has no room for more clients; try again", retry_after=1)
