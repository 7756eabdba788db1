"""Serves a router over TCP with uvicorn, and stops it in steps.

    first request    /readyz turns 503, the router resigns as leader, the listener closes; live sessions go on
    after the grace  the sessions that are left are closed: WebSockets with 1012, HTTP responses by breaking off
    second request   the grace ends at once

uvicorn's own shutdown closes every WebSocket at once. It is therefore delayed until the grace is over.
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
"""How long an idle client connection is kept. Load balancers keep theirs for less time, so that they close it first."""
LAST_CLIENTS_SECONDS = 0.1
"""The shortest wait after the listener has closed: the clients that connected last may still send a request.

If their connections were closed sooner, these clients would not know whether the request took effect.
"""
LAST_SECONDS = 1
"""How long WebSockets have to answer the close frame after the grace. Then HTTP responses are broken off as well."""
MOST_CHECKED = 256
"""The most connections that are searched for an idle one when there is no room for another client."""
START_POLL_SECONDS = 0.005
logger = logging.getLogger(__name__)


async def serve_clients(
    config: RouterConfig, stop: StopRequest, *, wait_seconds: float | None = None, on_listening: Callable[[str], None]
) -> None:
    """Run a router until it is asked to stop and has stopped.

    Args:
        config: The router's settings.
        stop: The request to stop.
        wait_seconds: How long to try to reach Redis at the start; `None` has no limit.
        on_listening: Called with the router's url as soon as it listens.

    Raises:
        ConfigError: It cannot listen on the configured host and port.
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
                while not server.started and not serving.done():  # noqa: ASYNC110  uvicorn has no event for it
                    await asyncio.sleep(START_POLL_SECONDS)
                await _first_of(serving, stop.asked.wait())
                router.begin_stop()
                server.close_listeners()
                await _grace(router, stop, config.grace_seconds)
            finally:
                router.begin_stop()  # again, for a router whose own work has failed: release the held sessions
                server.exit()
                await serving


class _Server(uvicorn.Server):
    """A uvicorn server that ignores signals, runs until `exit()`, and can close its listener before that."""

    def __init__(
        self, config: uvicorn.Config, stopping: asyncio.Event, listener: socket.socket, has_room: Callable[[int], bool]
    ) -> None:
        super().__init__(config)
        self.stopping = stopping
        self._acceptor = Acceptor(listener, self._protocol, has_room, self._close_idle_client)
        self._exit = asyncio.Event()

    @property
    def clients(self) -> int:
        """The number of client connections."""
        return len(self.server_state.connections)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept clients with our own acceptor; uvicorn gets no listener."""
        await super().startup(sockets=sockets or [])
        self._acceptor.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener and all connections that are left."""
        self._acceptor.close()
        await super().shutdown(sockets)

    def _protocol(self, is_guest: bool) -> BoundedHttpProtocol:  # noqa: FBT001  a claim
        make = cast("Callable[..., BoundedHttpProtocol]", self.config.http_protocol_class)
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, is_guest=is_guest
        )

    def _close_idle_client(self) -> bool:
        for connection in itertools.islice(self.server_state.connections, MOST_CHECKED):
            if isinstance(connection, BoundedHttpProtocol) and connection.is_kept_alive:
                connection.transport.close()
                return True
        return False

    def exit(self) -> None:
        """Make `serve()` close all connections that are left, and return."""
        self._exit.set()

    async def main_loop(self) -> None:
        """Wait for `exit()`. uvicorn's own loop maintains headers and limits that are not used here."""
        await self._exit.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def close_listeners(self) -> None:
        """Accept no new connections, and close each HTTP connection after its next response.

        Idle connections stay open until then. A client that is just sending a request gets its response, and a load
        balancer that requests /readyz receives the reason why the router is not ready.
        """
        self.stopping.set()
        self._acceptor.close()
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, BoundedHttpProtocol):
                connection.end_after_response()


def _server(router: Router, config: RouterConfig, listener: socket.socket) -> _Server:
    for name in ("uvicorn", "uvicorn.error", "websockets.server"):
        # Their messages are not needed: this package logs each failure itself, and clients' errors are not failures.
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    stopping = asyncio.Event()
    protocol = functools.partial(
        BoundedHttpProtocol, header_timeout_seconds=config.header_timeout_seconds, stopping=stopping
    )
    return _Server(
        uvicorn.Config(
            router.app,
            lifespan="off",  # `serve_clients` enters `running()`
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
    """Return when one of the works is done, and cancel the tasks that were created here."""
    tasks = [work if isinstance(work, asyncio.Future) else asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task, work in zip(tasks, works, strict=True):
            if task is not work:
                task.cancel()


@contextlib.contextmanager
def _listener(config: RouterConfig) -> Iterator[socket.socket]:
    """Bind and listen before anything else starts, so that a port in use is reported at once."""
    where = f"{config.host}:{config.port}"
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"host: cannot listen on {where} ({_reason_of(error)}); give an address of this machine"
        ) from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.apply(tcp.liveness_options(config.peer_timeout_seconds), listener)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            remedy = "choose another port with --port, or 0 for any free one, or stop the program that uses it"
            raise ConfigError(f"port: cannot listen on {where} ({_reason_of(error)}); {remedy}") from None
        listener.setblocking(False)  # noqa: FBT003
        yield listener


def _reason_of(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _url_of(listener: socket.socket) -> str:
    """Return the router's url for others. If it listens on every address, the url has this host's name."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
