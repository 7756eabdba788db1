"""The requests that are being served: by a task each, or without one while only a replica has to be waited for.

However a request ends, `end()` is called for it once.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable

from shared_registry.http1.response import SWITCHING_PROTOCOLS
from shared_registry.proxy import closing
from shared_registry.proxy.access_record import Ended
from shared_registry.proxy.answers import error_answer
from shared_registry.proxy.exchange import Exchange, Server

InTask = Callable[[], Awaitable[None]]
"""Serves a request, in a task."""
logger = logging.getLogger(__name__)


class Serving:
    """The requests under way at one router."""

    def __init__(self) -> None:
        self._under_way: set[Exchange] = set()

    def run(self, exchange: Exchange, work: InTask) -> None:
        """Serve a request in a task from now on, which ends at the latest when the client leaves."""
        task = exchange.client.loop.create_task(_serve(exchange, work))
        self.leave_to(exchange, task)
        task.add_done_callback(functools.partial(self._end_task, exchange))

    def leave_to(self, exchange: Exchange, server: Server) -> None:
        """Let something serve a request, which calls `end()` or `run()`, or `cancelled()` after it was cancelled."""
        exchange.server = server
        self._under_way.add(exchange)

    def cancelled(self, exchange: Exchange) -> None:
        """End a request whose server was cancelled, and is no task."""
        if exchange.refusal is not None:
            exchange.refuse(exchange.refusal)
        self.end(exchange, is_cancelled=exchange.refusal is None)

    def end(self, exchange: Exchange, *, is_cancelled: bool = False) -> None:
        """End a request: log and count it. If it was cancelled, and no other reason is known, its client has left."""
        self._under_way.discard(exchange)
        exchange.server = None
        exchange.uncount()
        if exchange.ended is None:
            _note_unknown_end(exchange, is_cancelled=is_cancelled)
        exchange.client.site.end_record(exchange)

    async def end_all(self) -> None:
        """Cancel what is under way, and wait until it has ended."""
        servers = [exchange.server for exchange in self._under_way]
        for server in servers:
            if server is not None:
                server.cancel()
        if tasks := [server for server in servers if isinstance(server, asyncio.Task)]:
            await asyncio.wait(tasks)

    def _end_task(self, exchange: Exchange, task: asyncio.Task[None]) -> None:
        self.end(exchange, is_cancelled=task.cancelled())


async def _serve(exchange: Exchange, work: InTask) -> None:
    try:
        under_way = work()
        del work  # which a session would keep as long as it lasts
        await under_way
    except asyncio.CancelledError:
        if exchange.refusal is None:
            raise
        exchange.refuse(exchange.refusal)
    except Exception as error:  # noqa: BLE001  whatever it is
        fail(exchange, error)


def fail(exchange: Exchange, error: Exception) -> None:
    """Answer a request on which the router itself has failed, and log the error."""
    text = "http: %s failed in the router itself (request %s)"
    request_id = exchange.request_id.decode()
    logger.error(text, exchange.method, request_id, exc_info=error, extra={"request_id": request_id})
    exchange.note_end("router_failed", error="internal_error")
    exchange.refuse(error_answer(500, "internal_error", "the router failed; see its log"))


def _note_unknown_end(exchange: Exchange, *, is_cancelled: bool) -> None:
    if not is_cancelled:
        exchange.note_end("router_failed")
        return
    ended: Ended = "router_stopped" if exchange.client.site.is_ending else "client_left"
    exchange.note_end(ended, close_code=closing.LOST if exchange.status == SWITCHING_PROTOCOLS else None)
