"""Serves a router over TCP, and ends it as operators expect.

    first request    /readyz turns 503, leadership is resigned, the listener closes; live sessions go on
    after the grace  what is left of them is closed: WebSockets with 1012, HTTP responses by breaking off
    second request   the grace ends at once

uvicorn serves. What it does at its own shutdown, to close every WebSocket at once, is put off to the second step.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import uvicorn

from shared_registry.aio.stop_signals import StopRequest
from shared_registry.config import RouterConfig
from shared_registry.errors import ConfigError
from shared_registry.proxy import tcp
from shared_registry.proxy.acceptor import Acceptor
from shared_registry.proxy.app import Router
from shared_registry.proxy.client_protocol import BoundedHttpProtocol
from shared_registry.proxy.client_websocket import PatientWebSocketProtocol
from shared_registry.proxy.websocket import PING_SECONDS

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 65
"""How long an idle client connection is kept: longer than load balancers do, so that they are the ones to close it."""
LAST_CLIENTS_SECONDS = 0.1
"""How long those that connected last have to begin a request; closed before, they would not know what became of it."""
LAST_SECONDS = 1
"""How long WebSockets have to take note of their end after the grace; then HTTP responses are broken off, too."""
MOST_LOOKED_AT = 256
"""Connections that are looked at to find one that idles, where there is no room for another client."""
START_POLL_SECONDS = 0.005
logger = logging.getLogger(__name__)


async def serve_clients(
    config: RouterConfig, stop: StopRequest, *, wait_seconds: float | None = None, on_listening: Callable[[str], None]
) -> None:
    """Run a router until it is asked to stop, and has.

    Args:
        config: Its settings.
        stop: Who asks.
        wait_seconds: How long to wait for Redis at the start; `None` waits for ever.
        on_listening: Called with the url under which it serves, as soon as it does.

    Raises:
        ConfigError: It cannot listen there.
        StoreError: Redis could not be reached in that time, or refuses.
    """
    with _listener(config) as listener:
        url = _url_of(listener)
        router = Router(config, url=url)
        server = _server(router, config, listener)
        router.descriptors.limit(lambda: server.clients)
        router.descriptors.report(config)
        on_listening(url)  # a session that comes from now on is held until the router has opened
        async with router.running(wait_seconds=wait_seconds):
            serving = asyncio.create_task(server.serve())
            try:
                while not server.started and not serving.done():  # noqa: ASYNC110  uvicorn tells nobody
                    await asyncio.sleep(START_POLL_SECONDS)
                await _first_of(serving, stop.asked.wait())
                router.begin_stop()
                server.close_listeners()
                await _grace(router, stop, config.grace_seconds)
            finally:
                router.begin_stop()  # also where the router's own work has failed: nobody is held any more
                server.exit()
                await serving


class _Server(uvicorn.Server):
    """Leaves signals to others, sleeps until it has to end, and can close its listeners before that."""

    def __init__(
        self, config: uvicorn.Config, stopping: asyncio.Event, listener: socket.socket, has_room: Callable[[int], bool]
    ) -> None:
        super().__init__(config)
        self.stopping = stopping
        self._acceptor = Acceptor(listener, self._protocol, has_room, self._close_idle_client)
        self._exit = asyncio.Event()

    @property
    def clients(self) -> int:
        """How many client connections there are."""
        return len(self.server_state.connections)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept clients; uvicorn is left without a listener of its own."""
        await super().startup(sockets=sockets or [])
        self._acceptor.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what is left."""
        self._acceptor.close()
        await super().shutdown(sockets)

    def _protocol(self, is_guest: bool) -> BoundedHttpProtocol:  # noqa: FBT001  a claim
        make = cast("Callable[..., BoundedHttpProtocol]", self.config.http_protocol_class)
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, is_guest=is_guest
        )

    def _close_idle_client(self) -> bool:
        for connection in itertools.islice(self.server_state.connections, MOST_LOOKED_AT):
            if isinstance(connection, BoundedHttpProtocol) and connection.is_kept_alive:
                connection.transport.close()
                return True
        return False

    def exit(self) -> None:
        """Have it end: close all that is left."""
        self._exit.set()

    async def main_loop(self) -> None:
        """Do nothing: what uvicorn does ten times a second here is about headers and limits that are not used."""
        await self._exit.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def close_listeners(self) -> None:
        """Accept no new connections, and end those of HTTP with the next response.

        Idle ones stay until then: a client that is just sending a request on one gets its answer, and a load balancer
        that asks for /readyz on one learns why it should go.
        """
        self.stopping.set()
        self._acceptor.close()
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, BoundedHttpProtocol):
                connection.end_after_response()


def _server(router: Router, config: RouterConfig, listener: socket.socket) -> _Server:
    for name in ("uvicorn", "uvicorn.error", "websockets.server"):
        # Nothing of theirs is news: what fails here is logged here, once, and clients' mistakes are not failures.
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    stopping = asyncio.Event()
    protocol = functools.partial(
        BoundedHttpProtocol, header_timeout_seconds=config.header_timeout_seconds, stopping=stopping
    )
    return _Server(
        uvicorn.Config(
            router.app,
            lifespan="off",  # `running()` does it
            http=cast("type[asyncio.Protocol]", protocol),
            ws=PatientWebSocketProtocol,
            ws_max_size=config.max_frame_bytes,
            ws_per_message_deflate=False,
            ws_ping_interval=PING_SECONDS,
            ws_ping_timeout=None,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=LAST_SECONDS,
        ),
        stopping,
        listener,
        lambda clients: router.descriptors.have_room(more=clients, sessions=router.dispatcher.live_sessions),
    )


async def _grace(router: Router, stop: StopRequest, seconds: float) -> None:
    live = router.dispatcher.live_sessions
    if live:
        logger.info("router: stopping; %d sessions have %g s to finish", live, seconds)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await _first_of(asyncio.sleep(LAST_CLIENTS_SECONDS), stop.urgent.wait())
            await _first_of(router.dispatcher.until_idle(), stop.urgent.wait())
    left = router.dispatcher.live_sessions
    if left:
        logger.warning("router: closing %d sessions that have not finished", left)


async def _first_of(*works: Awaitable[Any]) -> None:
    """Return when one of them is done; cancel those that were begun here."""
    tasks = [work if isinstance(work, asyncio.Future) else asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, work in zip(tasks, works, strict=True):
            if task is not work:
                task.cancel()


@contextlib.contextmanager
def _listener(config: RouterConfig) -> Iterator[socket.socket]:
    """Bind before anything else is begun, so that a port which is taken is told at once."""
    where = f"{config.host}:{config.port}"
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host: cannot listen on {where} ({_why(error)}); give an address of this machine") from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.apply(tcp.liveness_options(config.peer_timeout_seconds), listener)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            remedy = "choose another with --port, 0 for any free one, or end what uses it"
            raise ConfigError(f"port: cannot listen on {where} ({_why(error)}); {remedy}") from None
        listener.setblocking(False)  # noqa: FBT003
        yield listener


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _url_of(listener: socket.socket) -> str:
    """Return where others reach it: under this host's name, where it listens on every address."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
