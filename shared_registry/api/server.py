"""Serves the admin address, by uvicorn in the router's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn

from shared_registry.api.access import Tokens
from shared_registry.api.app import admin_app
from shared_registry.api.connection import ImpatientConnection
from shared_registry.api.live_data import LiveData
from shared_registry.api.mutual_tls import AdminTls
from shared_registry.config import RouterConfig
from shared_registry.proxy import listening
from shared_registry.proxy.app import Router
from shared_registry.telemetry.page import MetricsPage

MOST_REQUESTS = 100
"""The most connections at once that are answered, besides those that hold leases; others get 503."""
STOP_SECONDS = 1
"""How long responses under way have to end when the router stops."""
MARGIN_SECONDS = 1.0
"""How much longer the server itself may take, and then what it leaves."""
logger = logging.getLogger(__name__)


class AdminServer:
    """The server of one router's admin address.

    Attributes:
        url: Its url for others.
    """

    def __init__(self, listener: socket.socket, config: RouterConfig) -> None:
        """Set up.

        Args:
            listener: A listening, non-blocking socket.
            config: The router's settings.

        Raises:
            ConfigError: The file of tokens, or one of TLS, cannot be used.
        """
        self._tls = AdminTls(config) if config.admin_client_ca_file else None
        self.url = listening.url_at(listener, "https" if self._tls else "http")
        self._listener = listener
        self._config = config
        self._tokens = Tokens(config)

    async def serve(self, router: Router) -> None:
        """Serve until cancelled, then end the responses under way, within some seconds."""
        metrics, live, tls = MetricsPage(router), LiveData(router), self._tls
        server = _QuietUvicorn(
            uvicorn.Config(
                admin_app(router, self._config, metrics, live, self._tokens),
                http=ImpatientConnection,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level=logging.WARNING,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                limit_concurrency=MOST_REQUESTS + self._config.max_api_leases,
                timeout_graceful_shutdown=STOP_SECONDS,
                ssl_context_factory=(lambda *_: tls.context) if tls else None,
            )
        )
        works = [live.run()]
        if self._tokens.has_files:
            works.append(self._tokens.follow())
        if tls:
            works.append(tls.follow())
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(server.serve(sockets=[self._listener]))
            beside = [tasks.create_task(work) for work in works]
            logger.info("admin: serving on %s", self.url, extra={"admin_url": self.url})
            try:
                await asyncio.wait([serving, *beside], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in beside:
                    task.cancel()
                server.stop()
                await asyncio.wait([serving], timeout=STOP_SECONDS + MARGIN_SECONDS)
                serving.cancel()
                await server.end_answers()


class _QuietUvicorn(uvicorn.Server):
    """A server that leaves signals to the router, and wakes only when it is to stop.

    uvicorn's own one asks ten times a second whether to stop, and notes the date. Here connections note it.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ask the server to end."""
        self.should_exit = True
        self._stopping.set()

    async def end_answers(self) -> None:
        """End what still answers. On a busy machine, the server may have been cancelled before it did so."""
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()
        if answers := set(self.server_state.tasks):
            _, pending = await asyncio.wait(answers, timeout=MARGIN_SECONDS)
            for task in pending:
                task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self._stopping.wait()
