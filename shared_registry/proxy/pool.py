"""A pool: the replicas of one namespace, and everything by which a router serves sessions on them.

A router has one pool for each namespace that it serves. They share the clients' connections and nothing else, so that
what happens to the replicas or the Redis of one pool does not touch the sessions of another.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from shared_registry.aio.log_fields import logging_about
from shared_registry.config import RouterConfig
from shared_registry.config.reload_rules import Reloaded
from shared_registry.errors import RegistryError, StoreError, StoreUnavailable
from shared_registry.probing.tls import TlsContexts
from shared_registry.proxy.answers import as_json, error_answer
from shared_registry.proxy.connections import ReplicaConnections
from shared_registry.proxy.descriptors import Descriptors
from shared_registry.proxy.dispatch import Dispatcher
from shared_registry.proxy.exchange import Exchange
from shared_registry.proxy.http import HttpProxy
from shared_registry.proxy.live_sessions import LiveSessions
from shared_registry.proxy.narrator import Narrator
from shared_registry.proxy.opening import Opening
from shared_registry.proxy.outcomes import OutcomeReports
from shared_registry.proxy.placement import SessionPlacement
from shared_registry.proxy.remembered import Remembered
from shared_registry.proxy.routes import Routes
from shared_registry.proxy.serving import InTask, Serving
from shared_registry.proxy.shown_replicas import ShownReplicas
from shared_registry.proxy.status import Queue, not_ready_reason, status_document
from shared_registry.proxy.traffic import Traffic
from shared_registry.proxy.websocket import WebSocketProxy
from shared_registry.registry.facade import SharedReplicaRegistry
from shared_registry.store.redis_url import mask_redis_url

RETRY_SECONDS = 5.0
"""The pause before a pool that could not be joined is tried again, while the router serves others."""
REFRESH_SECONDS = 0.1
"""How long `/status` waits for what is read from Redis."""
MOST_REFRESHED_FIRST = 2000
"""For how many replicas `/status` waits. Of more the next call shows it."""
REFRESHED_AFTER_SECONDS = 0.3
"""How long after such a call they are read. Meanwhile its answer, of megabytes, has the event loop."""
logger = logging.getLogger(__name__)


class Pool:
    """One pool of a router. It serves while `run()` runs.

    Attributes:
        name: The pool's name; empty if the router has no others.
        config: The settings in force.
        registry: The registry of its namespace.
        connections: The connections to its replicas.
        traffic: What became of its requests.
    """

    def __init__(
        self,
        config: RouterConfig,
        *,
        name: str,
        url: str,
        descriptors: Descriptors,
        live: LiveSessions,
        serving: Serving,
    ) -> None:
        """Create the pool. It connects to nothing before `run()`.

        Args:
            config: The pool's settings.
            name: The pool's name; empty if the router has no others.
            url: The url at which the router serves, shown to operators.
            descriptors: The descriptors of the router.
            live: Counts the sessions of the router.
            serving: The requests of the router.
        """
        self.name = name
        self.registry = SharedReplicaRegistry(config, health_checks=False, url=url)
        self.traffic = Traffic()
        self.connections = ReplicaConnections(
            config, TlsContexts(config), self.traffic, make_room=lambda: descriptors.make_room(live.count)
        )
        self._url = url
        self._live = LiveSessions(live)
        self._serving = serving
        self._stopping = asyncio.Event()
        self._reports = OutcomeReports(self.registry, self.traffic)
        self._opening = Opening(self.registry)
        self._placement = SessionPlacement(self.registry, self._opening, self.traffic)
        self._dispatcher = Dispatcher(self._placement, self._reports, self.traffic)
        self._replicas = Remembered(ShownReplicas(self.registry).pieces, seconds=0.0)
        self._is_refresh_due = asyncio.Event()
        self._depth = Remembered(self.registry.queue_depth, seconds=config.refresh_seconds)
        self._configure(config)

    def _configure(self, config: RouterConfig) -> None:
        """Apply the settings that can change while the pool runs, to what begins from now on."""
        self.config = config
        self._placement.configure(config.on_lost, queue_timeout_seconds=config.queue_timeout_seconds)
        parts = (config, self._dispatcher, self._placement, self.connections, self._reports)
        self._http = HttpProxy(*parts, self._serving)
        self._websocket = WebSocketProxy(*parts)
        self._routes = Routes(config.routes, placement=config.placement)

    def reload(self, config: RouterConfig) -> Reloaded:
        """Use changed settings from now on, as far as they can change while the pool runs. It does no I/O.

        Raises:
            ConfigError: Settings do not fit together. Then nothing has changed.
        """
        result = self.registry.reload(config)
        self.connections.reload(result.config)
        self._configure(result.config)
        return result

    def begin(self, exchange: Exchange, path: bytes, *, has_task: bool = False) -> InTask | None:
        """Begin to serve a request, or a WebSocket session.

        Args:
            exchange: The request.
            path: Its path in the normal form.
            has_task: Whether it has a task already.

        Returns:
            What serves it in a task; `None` if it was answered, or is being served.
        """
        place = self._routes.place(exchange.method, path, is_websocket=exchange.is_handshake)
        if exchange.traffic is not None:
            exchange.traffic = self.traffic
        if exchange.record is not None:
            exchange.record.place = place
        if place == "none":
            exchange.answer(_NOT_ALLOWED)
            return None
        exchange.count(self._live, self.traffic)
        if exchange.is_handshake:
            return functools.partial(self._websocket.serve, exchange, takes_slot=place == "lease")
        return self._http.begin(exchange, takes_slot=place == "lease", has_task=has_task)

    def begin_opening(self) -> None:
        """Hold sessions from now on until the pool opens."""
        self._opening.begin()

    def begin_stop(self) -> None:
        """Resign as leader, and refuse the sessions that wait for a slot. The others continue until `run()` ends."""
        self._stopping.set()
        self._placement.stop_waiting()

    async def settled(self) -> None:
        """Wait until the pool opens, or no longer holds sessions because of its start."""
        await self._opening.wait(0.0)

    async def run(self, *, wait_seconds: float | None, on_joined: Callable[[], None] = lambda: None) -> None:
        """Take part in the registry, and run the background tasks, until cancelled; then leave the registry.

        Args:
            wait_seconds: How long to try to reach Redis at the start; `None` has no limit.
            on_joined: Called when the view of the registry is loaded.

        Raises:
            StoreUnavailable: Redis could not be reached in that time.
            StoreError: Redis refuses, or contains other data than ours. A pool beside others tries again instead.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._take_part(wait_seconds, on_joined))
                tasks.create_task(self._reports.run())
                tasks.create_task(self._refresh_later())
                tasks.create_task(self.connections.sweep())
        finally:
            self.connections.close()

    @property
    def session_count(self) -> int:
        """The number of requests and sessions under way, also those that wait for a slot."""
        return self._live.count

    def not_ready_reason(self) -> str | None:
        """Return the reason why a load balancer should send no clients of this pool; `None` if it should."""
        return not_ready_reason(self.registry, is_open=self._opening.is_open, is_stopping=self._stopping.is_set())

    async def status(self, more: Mapping[str, Any]) -> list[bytes]:
        """Return the body of `/status` as JSON, in pieces, from the last view if Redis cannot be read.

        Calls at the same time share what is read and written.

        Args:
            more: What the body has besides.
        """
        depth = None
        is_large = len(self.registry.all()) > MOST_REFRESHED_FIRST
        if self.registry.is_started:
            with contextlib.suppress(StoreError, TimeoutError):  # the document contains the ages of the view
                depth = await self._depth.get()
                if is_large:
                    self._is_refresh_due.set()
                else:
                    async with asyncio.timeout(REFRESH_SECONDS):
                        await self.registry.refresh()
        replicas = await self._replicas.get()
        queue = Queue(depth, self._placement.waiting)
        rest = status_document(self.registry, url=self._url, live_sessions=self._live.count, queue=queue)
        return [b'{"replicas":[', *replicas, f"],{as_json({**rest, **more})[1:]}".encode()]

    async def _refresh_later(self) -> None:
        """Read what `/status` shows of a large fleet, some time after each call, until cancelled."""
        while True:
            await self._is_refresh_due.wait()
            await asyncio.sleep(REFRESHED_AFTER_SECONDS)
            self._is_refresh_due.clear()
            with contextlib.suppress(RegistryError):
                await self.registry.refresh()

    async def _take_part(self, wait_seconds: float | None, on_joined: Callable[[], None]) -> None:
        about = {"namespace": self.config.namespace} | ({"pool": self.name} if self.name else {})
        with logging_about(**about):
            await self._join(wait_seconds)
            on_joined()
            await self._narrate()

    async def _narrate(self) -> None:
        registry, where = self.registry, mask_redis_url(self.config.redis_url)
        extra = {"router": registry.router_key}
        try:
            text = "router: %s has joined namespace %s at %s"
            logger.info(text, registry.router_key, self.config.namespace, where, extra=extra)
            with Narrator(registry, pool=self.name).narrating():
                await self._work(registry)
        finally:
            await registry.stop()
            logger.info("router: %s has left", registry.router_key, extra=extra)

    async def _work(self, registry: SharedReplicaRegistry) -> None:
        """Take part until cancelled. While the router stops, the sessions that go on keep their leases."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._opening.run())
            leading = tasks.create_task(registry.run_health_checks())
            await self._stopping.wait()
            leading.cancel()
            await asyncio.get_running_loop().create_future()

    async def _join(self, wait_seconds: float | None) -> None:
        while True:
            try:
                await self.registry.start(timeout_seconds=wait_seconds)
            except StoreUnavailable:
                raise
            except RegistryError as error:
                if not self.name:
                    raise
                logger.warning(
                    "pool: %s cannot be served: %s; trying again every %g s", self.name, error, RETRY_SECONDS
                )
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return


_NOT_ALLOWED = error_answer(
    403, "not_allowed", "this router passes on no request for this path: see its setting routes"
)
