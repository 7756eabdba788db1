"""The router: its pools, its own pages, and the requests of its clients."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from shared_registry.aio.from_files import FromFiles
from shared_registry.config import RouterConfig
from shared_registry.config.reload_rules import Reloaded, merge_all
from shared_registry.proxy.access_log import AccessLog
from shared_registry.proxy.answers import Answer, as_json, error_answer
from shared_registry.proxy.api_keys import ApiKeys
from shared_registry.proxy.body_model import model_of
from shared_registry.proxy.client_tls import ClientTls
from shared_registry.proxy.cors import Cors
from shared_registry.proxy.descriptors import Descriptors
from shared_registry.proxy.exchange import TOO_LARGE, Exchange
from shared_registry.proxy.forwarding import TrustedProxies
from shared_registry.proxy.limits import Limits
from shared_registry.proxy.live_sessions import LiveSessions
from shared_registry.proxy.models import Models
from shared_registry.proxy.pages import OwnPages, Page
from shared_registry.proxy.paths import has_way_up, normal_path
from shared_registry.proxy.pool import Pool
from shared_registry.proxy.pool_choice import MODELS, PoolChoice, Unknown, model_in_path
from shared_registry.proxy.serving import InTask, Serving, fail
from shared_registry.proxy.site import Site
from shared_registry.proxy.status import ready_document
from shared_registry.proxy.traffic import Traffic
from shared_registry.tallies import FAST_SECONDS, Distribution

CHECK_SECONDS = 0.25
"""How often the time limits of the connections are applied, and the lag of the event loop is measured."""
IDLE_CHECK_SECONDS = 1.0
"""The same while there is no connection. Each time that an idle process wakes costs it some 0.1 ms of CPU."""
logger = logging.getLogger(__name__)


class Router:
    """One router. It serves the connections of its `site` while the context `running()` is entered.

    Attributes:
        config: The settings in force.
        url: The url at which it serves, shown to operators.
        worker: The number of this worker; `None` if the router is not one of several that share a port.
        site: What the clients' connections have in common.
        descriptors: The file descriptors for clients.
        live: The sessions under way.
        tls: The TLS of these connections; `None` if they have none.
        pools: Its pools by name; one without a name if the settings have no pools.
        joined: Set once the view of a pool is loaded.
        lags: How late the event loop has called the timer that checks the connections, in seconds.
        on_reload: Called with the settings in force after each `reload()`, also if no setting has changed: files that
            settings name may have. They must not raise.
    """

    def __init__(
        self,
        config: RouterConfig,
        *,
        url: str = "",
        worker: int | None = None,
        access_log: AccessLog | None = None,
        counts: bool = False,
    ) -> None:
        """Create the router. It connects to nothing before `running()`.

        Args:
            config: The router's settings.
            url: The url at which it serves, shown to operators.
            worker: The number of this worker, if the router is one of several that share a port.
            access_log: Logs every request, unless it is `None`.
            counts: Whether every request is counted, for metrics.

        Raises:
            ConfigError: A file of the settings of TLS to clients or of API keys cannot be used.
        """
        self.tls = ClientTls.of(config)
        self._keys = ApiKeys.of(config)
        self._files: list[FromFiles[Any]] = [one for one in (self.tls, self._keys) if one is not None and one.has_files]
        self.url = url
        self.worker = worker
        self.live = LiveSessions()
        self._serving = Serving()
        self.descriptors = Descriptors(
            replicas=lambda: sum(len(pool.registry.all()) for pool in self.pools.values()),
            idle=lambda: sum(pool.connections.idle_count for pool in self.pools.values()),
            close_idle=self._close_idle,
        )
        configs = config.pool_configs() or {"": config}
        self.pools = {
            name: Pool(one, name=name, url=url, descriptors=self.descriptors, live=self.live, serving=self._serving)
            for name, one in configs.items()
        }
        self._only_pool = self.pools.get("")
        self.joined = asyncio.Event()
        self.lags = Distribution(FAST_SECONDS)
        scheme = "http" if self.tls is None else "https"
        self.site = Site(self._begin, Limits.of(config), scheme=scheme, access_log=access_log)
        if counts:
            self.site.traffic = Traffic() if self._only_pool is None else self._only_pool.traffic
        self.on_reload: list[Callable[[RouterConfig], None]] = []
        self._configure(config)

    def _configure(self, config: RouterConfig) -> None:
        """Apply the settings that can change while the router runs, to what begins from now on."""
        self.config = config
        self.site.limits = Limits.of(config)
        self.site.proxies = TrustedProxies(config.trusted_proxies)
        self._cors = Cors.of(config)
        self.descriptors.max_clients = config.max_clients
        pages: dict[str, Page | None] = {"/status": self.status, "/healthz": self.healthz, "/readyz": self.readyz}
        pages["/metrics"] = None
        self._choice = PoolChoice(config.pools)
        if self._choice.is_by_model:
            rules = [(rule, self.pools[rule.name]) for rule in config.pools]
            pages[MODELS.decode()] = Models(rules, self._choice).page
        self._pages = OwnPages(pages)

    def reload(self, config: RouterConfig) -> list[tuple[str, Reloaded]]:
        """Use changed settings from now on, as far as they can change while the router runs. It does no I/O.

        Requests and sessions under way go on with the settings with which they began.

        Returns:
            What has changed, and what needs a restart, for the router, and for each pool by its name.

        Raises:
            ConfigError: Settings do not fit together. Then nothing has changed.
        """
        results = merge_all(self.config, config)
        in_force = results[0][1].config
        for name, one in (in_force.pool_configs() or {"": in_force}).items():
            self.pools[name].reload(one)
        self._configure(in_force)
        for files in self._files:
            files.reload()
        for apply in self.on_reload:
            apply(in_force)
        return results

    def begin_stop(self) -> None:
        """Begin to stop: resign as leader, turn `/readyz` to 503, and refuse the sessions that wait for a slot.

        All of this happens at once. Sessions that have a slot continue until `running()` ends.
        """
        for pool in self.pools.values():
            pool.begin_stop()

    @contextlib.asynccontextmanager
    async def running(self, *, wait_seconds: float | None = None, beside: Sequence[Work] = ()) -> AsyncIterator[None]:
        """Join the registries, run the background tasks, and leave the registries at the end.

        Entering does not wait for Redis; `/readyz` reports when the router is ready. Sessions that arrive before the
        shared state is loaded are held for a short time: see `Opening`.

        Args:
            wait_seconds: How long to try to reach Redis at the start; `None` has no limit.
            beside: Works that run beside the router until it ends. Each is called with the router.

        Raises:
            StoreUnavailable: Redis could not be reached in that time. The body of the context was cancelled.
            StoreError: Redis refuses, or contains other data than ours, and there is only one pool. The body of the
                context was cancelled.
        """
        for pool in self.pools.values():
            pool.begin_opening()
        try:
            async with asyncio.TaskGroup() as tasks:
                joined = self.joined.set
                works = [pool.run(wait_seconds=wait_seconds, on_joined=joined) for pool in self.pools.values()]
                works += [self._check(), *(files.follow() for files in self._files), *(work(self) for work in beside)]
                running = [tasks.create_task(work) for work in works]
                try:
                    yield
                finally:
                    for task in running:
                        task.cancel()
        except BaseExceptionGroup as group:
            raise _only_error(group) from None
        finally:
            self.site.refusals.report(asyncio.get_running_loop().time(), is_last=True)

    async def settled(self) -> None:
        """Wait until the router places sessions without holding them, or no longer holds them because of its start."""
        await asyncio.gather(*(pool.settled() for pool in self.pools.values()))

    async def end_sessions(self) -> None:
        """Cancel what is under way, and wait until it has ended."""
        await self._serving.end_all()

    async def status(self) -> Answer:
        """Return the page `/status`."""
        process: dict[str, Any] = {"worker": self.worker, "pid": os.getpid()}
        if self._only_pool is not None:
            return Answer(200, {}, pieces=await self._only_pool.status(process))
        names = list(self.pools)
        pools = await asyncio.gather(*(self.pools[name].status({}) for name in names))
        whole = {"url": self.url, **process, "sessions": self.live.count}
        pieces = [f'{as_json(whole)[:-1]},"pools":'.encode()]
        for at, (name, of_pool) in enumerate(zip(names, pools, strict=True)):
            pieces += f"{',' if at else '{'}{as_json(name)}:".encode(), *of_pool
        return Answer(200, {}, pieces=[*pieces, b"}}"])

    async def healthz(self) -> Answer:
        """Return the page `/healthz`."""
        return Answer(200, {"status": "ok"})

    async def readyz(self) -> Answer:
        """Return the page `/readyz`."""
        reasons = {name: pool.not_ready_reason() for name, pool in self.pools.items()}
        ready = [name for name, reason in reasons.items() if reason is None]
        if not ready:
            return Answer(503, {"status": "not ready", "reason": next(iter(reasons.values()))})
        document = {"status": "ready", **ready_document(self.pools[ready[0]].registry)}
        if len(reasons) > 1:
            document = {"status": "ready", "pools": {name: reason or "ready" for name, reason in reasons.items()}}
        return Answer(200, document)

    def _begin(self, exchange: Exchange) -> None:
        """Serve a request: at once if possible, otherwise in a task of its own."""
        try:
            work = self._answer(exchange)
        except Exception as error:  # noqa: BLE001  whatever it is
            fail(exchange, error)
            work = None
        if work is not None:
            self._serving.run(exchange, work)
        elif exchange.server is None:
            self._serving.end(exchange)

    def _answer(self, exchange: Exchange) -> InTask | None:
        """Answer a request, or begin to serve it; or return what answers it in a task."""
        raw_path = exchange.path
        path = normal_path(raw_path)
        if self._cors is not None and self._cors.settles(exchange):
            return None
        if self._keys is not None and (refusal := self._keys.refusal_of(exchange, path)) is not None:
            exchange.answer(refusal)
        elif (page := self._pages.path_of(path)) is not None:
            return functools.partial(self._answer_page, exchange, page)
        elif exchange.client.is_guest:
            exchange.answer(_NO_ROOM)
        elif has_way_up(raw_path):
            exchange.answer(_WAY_UP)
        elif exchange.is_too_large or exchange.refusal is not None:
            exchange.refuse(exchange.refusal or TOO_LARGE)
        elif self._only_pool is not None:
            return self._only_pool.begin(exchange, path)
        else:
            return self._begin_in_pool(exchange, path)
        return None

    async def _answer_page(self, exchange: Exchange, page: bytes) -> None:
        exchange.traffic = None
        if exchange.record is not None:
            exchange.record.place = "page"
        exchange.answer(await self._pages.answer(page, exchange.method, is_websocket=exchange.is_handshake))

    def _begin_in_pool(self, exchange: Exchange, path: bytes) -> InTask | None:
        """Begin to serve a request in the pool to which it belongs."""
        name = self._choice.choose(path, exchange.fields, model_in_path(exchange.path) or Unknown.MODEL)
        if name is Unknown.MODEL:
            return functools.partial(self._serve_by_model, exchange, path)
        if name is None:
            exchange.answer(_NO_POOL)
            return None
        return self.pools[str(name)].begin(exchange, path)

    async def _serve_by_model(self, exchange: Exchange, path: bytes) -> None:
        """Serve a request in the pool of the model that its body names."""
        model = await model_of(exchange) if exchange.has_body else None
        name = self._choice.choose(path, exchange.fields, model)
        if name is None:
            exchange.answer(_NO_POOL)
        elif (work := self.pools[str(name)].begin(exchange, path, has_task=True)) is not None:
            await work()

    def _close_idle(self) -> None:
        for pool in self.pools.values():
            pool.connections.close()

    async def _check(self) -> None:
        """Apply the time limits of the connections periodically until cancelled, and note how late that is."""
        time = asyncio.get_running_loop().time
        while True:
            seconds = CHECK_SECONDS if self.site.clients else IDLE_CHECK_SECONDS
            due = time() + seconds
            await asyncio.sleep(seconds)
            now = time()
            self.lags.add(max(0.0, now - due))
            for client in tuple(self.site.clients):
                client.check(now)
            self.site.refusals.report(now)


def _only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error in a group of one; the group if there are several."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


Work = Callable[[Router], Coroutine[Any, Any, None]]
"""A work that runs beside a router until it is cancelled."""
_NO_ROOM = error_answer(503, "gpu_unavailable", "this router has no room for more clients; try again", retry_after=1)
_WAY_UP = error_answer(
    403, "not_allowed", "the path has a .. in it, which servers understand differently; send the path that it leads to"
)
_NO_POOL = error_answer(
    404, "model_not_found", "the request belongs to no pool of this router: check its model, path and host"
)
