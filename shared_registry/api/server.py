"""Serves the admin address of one router.

What answers is imported when the first client connects: Starlette, uvicorn, the client library of Prometheus and the
API need some 10 MB of memory. What has to be counted from the start, for metrics and the dashboard, does without them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import TYPE_CHECKING

from shared_registry.aio.daemon_thread import call_in_daemon_thread
from shared_registry.aio.unused_memory import give_back
from shared_registry.api.live_data import LiveData
from shared_registry.api.mutual_tls import AdminTls
from shared_registry.api.tokens import Tokens
from shared_registry.config import RouterConfig
from shared_registry.proxy import listening
from shared_registry.proxy.app import Router
from shared_registry.proxy.descriptors import within_limit
from shared_registry.telemetry.counting import Counting

if TYPE_CHECKING:
    from shared_registry.api.answers import Answers

MOST_REQUESTS = 100
"""The most connections at once that are answered, besides those that hold leases; others get 503."""
PART = 4
"""Of all descriptors, connections to the admin address take at most one in so many."""
SHORT_TURN_SECONDS = 0.0005
"""For how long a thread that imports may keep the event loop waiting each time. Python's own time is ten times that."""
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
        counting, live = Counting(router), LiveData(router)
        works = [live.run(), self._answer(router, counting, live)]
        if self._tokens.has_files:
            works.append(self._tokens.follow())
        if self._tls:
            works.append(self._tls.follow())
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(work) for work in works]
            logger.info("admin: serving on %s", self.url, extra={"admin_url": self.url})
            try:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in running:
                    task.cancel()

    async def _answer(self, router: Router, counting: Counting, live: LiveData) -> None:
        await _readable(self._listener)

        def load() -> Answers:
            from shared_registry.api.answers import Answers  # noqa: PLC0415
            from shared_registry.api.app import admin_app  # noqa: PLC0415
            from shared_registry.telemetry.page import MetricsPage  # noqa: PLC0415

            app = admin_app(router, self._config, MetricsPage(router, counting), live, self._tokens)
            most = within_limit(MOST_REQUESTS + self._config.max_api_leases, PART)
            return Answers(app, most, self._tls.context if self._tls else None)

        usual = sys.getswitchinterval()
        sys.setswitchinterval(SHORT_TURN_SECONDS)
        try:
            answers = await call_in_daemon_thread(load)
        except Exception:  # such as after an upgrade of packages, which must not end the router's sessions
            logger.exception("admin: cannot be imported, so nothing answers there; restart the router")
            self._listener.close()
            return
        finally:
            sys.setswitchinterval(usual)
        give_back()
        router.descriptors.others.append(lambda: len(answers.server_state.connections))
        await answers.run_until_cancelled(self._listener)


async def _readable(listener: socket.socket) -> None:
    """Wait for a client. It is not accepted."""
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(listener, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(listener)
