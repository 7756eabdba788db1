"""Answers the clients of the admin address, by uvicorn in the router's own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from shared_registry.api.connection import ImpatientConnection

STOP_SECONDS = 1
"""How long responses under way have to end when the router stops."""
MARGIN_SECONDS = 1.0
"""How much longer the server itself may take, and then what it leaves."""


class Answers(uvicorn.Server):
    """A server that wakes only when it is to stop.

    uvicorn's own one asks ten times a second whether to stop, and notes the date. Here connections note it.
    """

    def __init__(self, app: ASGIApp, most_connections: int, tls: ssl.SSLContext | None) -> None:
        """Set up.

        Args:
            app: What answers.
            most_connections: The most connections at once that are answered; others get 503.
            tls: What connections are made with; `None` for plain HTTP.
        """
        super().__init__(
            uvicorn.Config(
                app,
                http=ImpatientConnection,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level=logging.ERROR,  # any client could write the warnings, one with each request
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                limit_concurrency=most_connections,
                timeout_graceful_shutdown=STOP_SECONDS,
                ssl_context_factory=None if tls is None else (lambda *_: tls),
            )
        )
        self._stopping = asyncio.Event()

    async def run_until_cancelled(self, listener: socket.socket) -> None:
        """Serve until cancelled, then end the responses under way, within some seconds."""
        serving = asyncio.ensure_future(self.serve(sockets=[listener]))
        try:
            await asyncio.shield(serving)
        finally:
            self.should_exit = True
            self._stopping.set()
            await asyncio.wait([serving], timeout=STOP_SECONDS + MARGIN_SECONDS)
            serving.cancel()
            await self._end_answers()

    async def _end_answers(self) -> None:
        """End what still answers. On a busy machine, the server may have been cancelled before it did so."""
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()
        if answers := set(self.server_state.tasks):
            _, pending = await asyncio.wait(answers, timeout=MARGIN_SECONDS)
            for task in pending:
                task.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the router."""
        yield

    async def main_loop(self) -> None:
        """Wait until the server is to stop."""
        await self._stopping.wait()
