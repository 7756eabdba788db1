"""Serves a router over TCP, and stops it in steps.

first request    /readyz turns 503, the router resigns as leader, the listener closes; live sessions go on
after the grace  the sessions that are left are closed: WebSockets with 1012, HTTP responses by breaking off
second request   the grace ends at once
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from shared_registry.aio.garbage import rare_collections
from shared_registry.aio.stop_signals import StopRequest
from shared_registry.aio.unused_memory import give_back
from shared_registry.config import RouterConfig
from shared_registry.proxy import closing, listening
from shared_registry.proxy.acceptor import Acceptor
from shared_registry.proxy.access_log import opened_access_log
from shared_registry.proxy.app import Router, Work
from shared_registry.proxy.client import ClientConnection
from shared_registry.proxy.refusals import FULL

LAST_CLIENTS_SECONDS = 0.1
"""The shortest wait after the listener has closed: the clients that connected last may still send a request.

If their connections were closed sooner, these clients would not know whether the request took effect.
"""
LAST_SECONDS = 1
"""How long WebSockets have to answer the close frame after the grace. Then HTTP responses are broken off as well."""
LAST_POLL_SECONDS = 0.01
MOST_CHECKED = 256
"""The most connections that are searched for an idle one when there is no room for another client."""
logger = logging.getLogger(__name__)


async def serve_clients(
    config: RouterConfig,
    stop: StopRequest,
    *,
    wait_seconds: float | None = None,
    on_listening: Callable[[str], None] = lambda _: None,
    beside: Sequence[Work] = (),
    listener: socket.socket | None = None,
    worker: int | None = None,
) -> None:
    """Run a router until it is asked to stop and has stopped. Meanwhile the process collects garbage less often.

    Args:
        config: The router's settings.
        stop: The request to stop.
        wait_seconds: How long to try to reach Redis at the start; `None` has no limit.
        on_listening: Called with the router's url as soon as it listens.
        beside: Works that run beside the router until it ends. Each is called with the router.
        listener: A listening, non-blocking socket to serve, which is closed at the end; by default a new one.
        worker: The number of this worker, if the router is one of several that share a port.

    Raises:
        ConfigError: It cannot listen on the configured host and port, write its access log, or use the files
            of its settings.
        StoreError: Redis could not be reached in that time, or refuses.
    """
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(rare_collections())
        access_log = await stack.enter_async_context(opened_access_log(config))
        listener = stack.enter_context(listener or stack.enter_context(listening.listeners(config, 1))[0])
        url = listening.url_of(listener, config)
        router = Router(config, url=url, worker=worker, access_log=access_log, counts=config.admin_port != "off")
        server = _Server(router, listener)
        router.descriptors.limit(lambda: len(router.site.clients))
        router.descriptors.report(config)
        on_listening(url)  # a session that comes from now on is held until the router has opened
        async with router.running(wait_seconds=wait_seconds, beside=[*beside, _give_back_once]):
            server.start()
            try:
                await stop.asked.wait()
                router.begin_stop()
                server.close_listener()
                await _grace(router, stop, router.config.grace_seconds)
            finally:
                router.begin_stop()  # again, for a router whose own work has failed: release the held sessions
                await server.close()


class _Server:
    """The listener of a router, and the connections of its clients."""

    def __init__(self, router: Router, listener: socket.socket) -> None:
        self._router = router
        self._site = router.site
        self._leaving: ClientConnection | None = None
        self._acceptor = Acceptor(
            listener,
            lambda is_guest: ClientConnection(self._site, is_guest=is_guest),
            lambda clients: router.descriptors.have_room(more=clients, sessions=router.live.count),
            self._close_idle_client,
            lambda address: self._site.refuse(FULL, address, asyncio.get_running_loop().time()),
            router.tls,
        )

    def start(self) -> None:
        """Accept clients from now on."""
        self._acceptor.start()

    def close_listener(self) -> None:
        """Accept no new connections, and close each HTTP connection after its next response.

        Idle connections stay open until then. A client that is just sending a request gets its response, and a load
        balancer that requests /readyz receives the reason why the router is not ready.
        """
        self._site.is_stopping = True
        self._acceptor.close()
        for client in tuple(self._site.clients):
            client.end_after_response()

    async def close(self) -> None:
        """Close the listener and all connections: WebSockets with a close frame, then what is left."""
        self._acceptor.close()
        await self._acceptor.end()
        for client in tuple(self._site.clients):
            client.stop(closing.RESTART)
        deadline = asyncio.get_running_loop().time() + LAST_SECONDS
        while self._site.clients and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  rare and short
            await asyncio.sleep(LAST_POLL_SECONDS)
        self._site.is_ending = True
        for client in tuple(self._site.clients):
            client.abort()
        await self._router.end_sessions()

    def _close_idle_client(self) -> bool:
        """Close an idle connection, unless one is just being closed. Return whether there will be room in a moment."""
        if self._leaving in self._site.clients:
            return True
        self._leaving = None
        for client in itertools.islice(self._site.clients, MOST_CHECKED):
            if client.is_kept_alive:
                client.abort()  # with TLS, `close` would wait for the client's answer
                self._leaving = client
                return True
        return False


async def _give_back_once(router: Router) -> None:
    await router.settled()
    give_back()


async def _grace(router: Router, stop: StopRequest, seconds: float) -> None:
    live = router.live.count
    if live:
        logger.info("router: stopping; %d sessions have %g s to finish", live, seconds)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _first_of(asyncio.sleep(LAST_CLIENTS_SECONDS), stop.urgent.wait())
            await _first_of(router.live.until_idle(), stop.urgent.wait())
    left = router.live.count
    if left:
        logger.warning("router: closing %d sessions that have not finished", left)


async def _first_of(*works: Awaitable[Any]) -> None:
    """Return when one of the works is done, and cancel the tasks that were created here."""
    tasks = [work if isinstance(work, asyncio.Future) else asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, work in zip(tasks, works, strict=True):
            if task is not work:
                task.cancel()
