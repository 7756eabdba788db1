"""The dashboard's live data: one producer, whose messages all clients share.

A client first gets a snapshot, then what has changed, at most once a second, and a sign of life every few seconds. A
client that does not read its messages in time is disconnected; it connects again and gets a new snapshot.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

from shared_registry.aio.breath import Breath
from shared_registry.aio.supervise import is_cancelled
from shared_registry.api.history import aged
from shared_registry.api.live_pool import LivePool, encoded
from shared_registry.proxy.app import Router

PERIOD_SECONDS = 1.0
IDLE_SECONDS = 5.0
"""The pause while nobody looks."""
SILENT_SECONDS = 5.0
MOST_CLIENTS = 16
MOST_MESSAGES = 8
"""The most messages that wait for one client."""
logger = logging.getLogger(__name__)
UNSERVED = ("503", "1013")
"""How the kinds of refusals begin that mean that no replica or no slot was free."""
_Subscriber = asyncio.Queue[bytes | None]


class LiveData:
    """The live data of one router."""

    def __init__(self, router: Router) -> None:
        """Follow a router's pools. Nothing is read before `run()`."""
        self._router = router
        self._pools = [LivePool(pool, lambda: _unserved(router)) for pool in router.pools.values()]
        self._clients: set[_Subscriber] = set()
        self._newcomers: set[_Subscriber] = set()
        self._wake = asyncio.Event()
        self._said = ""
        self._said_at = 0.0
        self._has_ended = False

    @property
    def has_room(self) -> bool:
        """Whether another client may follow."""
        return not self._has_ended and len(self._clients) + len(self._newcomers) < MOST_CLIENTS

    async def run(self) -> None:
        """Produce messages until cancelled; then all clients are disconnected."""
        try:
            while True:
                try:
                    await self._follow()
                except Exception:  # a fault of the dashboard must not end the router's sessions
                    logger.exception("dashboard: failed; it starts anew")
                    if is_cancelled():
                        raise asyncio.CancelledError from None
                    self._end_clients()
                    await self._pause(IDLE_SECONDS)
        finally:
            self._has_ended = True
            self._end_clients()

    @contextlib.asynccontextmanager
    async def subscribed(self) -> AsyncIterator[asyncio.Queue[bytes | None]]:
        """Yield the queue of a new client's messages for the block. `None` in it ends the client's stream."""
        client: _Subscriber = asyncio.Queue(MOST_MESSAGES)
        if self._has_ended:
            _end(client)
        self._newcomers.add(client)
        self._wake.set()
        try:
            yield client
        finally:
            self._newcomers.discard(client)
            self._clients.discard(client)

    async def _follow(self) -> None:
        """Keep the history while nobody looks, and produce messages while somebody does. Never return."""
        while True:
            if self._clients or self._newcomers:
                await self._serve_clients()
            else:
                for pool in self._pools:
                    await pool.update(is_watched=False)
                await self._pause(IDLE_SECONDS)

    async def _serve_clients(self) -> None:
        """Produce messages as long as there are clients."""
        async with asyncio.TaskGroup() as tasks:
            works = [work for pool in self._pools for work in (pool.read(), pool.read_loads())]
            readers = [tasks.create_task(work) for work in works]
            try:
                while self._clients or self._newcomers:
                    await self._produce()
                    await self._pause(PERIOD_SECONDS)
            finally:
                for reader in readers:
                    reader.cancel()

    def _end_clients(self) -> None:
        for client in self._clients | self._newcomers:
            _end(client)
        self._clients.clear()
        self._newcomers.clear()

    async def _pause(self, seconds: float) -> None:
        """Wait that long, or until a new client comes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    async def _produce(self) -> None:
        changes = [(pool, *await pool.update(is_watched=True)) for pool in self._pools]
        newcomers = set(self._newcomers)
        if self._clients:
            self._publish(await self._delta(changes))
        if newcomers:
            message = await self._snapshot()
            newcomers &= self._newcomers  # some may have left meanwhile
            self._newcomers -= newcomers
            self._clients |= newcomers
            for client in newcomers:
                client.put_nowait(message)

    def _publish(self, message: bytes | None) -> None:
        for client in tuple(self._clients):
            if message is None:
                return
            if client.full():
                self._clients.discard(client)
                _end(client)
            else:
                client.put_nowait(message)

    async def _delta(self, changes: list[tuple[LivePool, list[str], list[str]]]) -> bytes | None:
        """Return what has changed; `None` if nothing has, and clients have heard something lately."""
        heads = encoded([_without_times(pool.head) for pool, *_ in changes])
        has_changed = heads != self._said or any(rows or gone or pool.new_samples for pool, rows, gone in changes)
        now = time.monotonic()
        if not has_changed and now - self._said_at < SILENT_SECONDS:
            return None
        self._said, self._said_at = heads, now
        breath, parts = Breath(), []
        for pool, changed, gone in changes:
            rows = []
            for key in changed:
                rows.append(pool.rows[key])
                await breath.pause()
            parts.append(
                f'{{"head":{encoded(pool.head)},"rows":[{",".join(rows)}],"gone":{encoded(gone)},'
                f'"samples":{encoded(aged(pool.new_samples, now))}}}'
            )
        return self._message("change", parts)

    async def _snapshot(self) -> bytes:
        parts = []
        for pool in self._pools:
            rows = ",".join(pool.rows.values())
            samples = aged(pool.history.samples, time.monotonic())
            parts.append(f'{{"head":{encoded(pool.head)},"rows":[{rows}],"gone":[],"samples":{encoded(samples)}}}')
            await asyncio.sleep(0)
        return self._message("snapshot", parts)

    def _message(self, kind: str, parts: list[str]) -> bytes:
        now = self._pools[0].now()
        return f'event: {kind}\ndata: {{"now":{now:.3f},"pools":[{",".join(parts)}]}}\n\n'.encode()


def _unserved(router: Router) -> int:
    """Return how many requests the router has refused so far because no replica or no slot was free."""
    return sum(count for kind, count in router.site.refusals.counts.items() if kind.startswith(UNSERVED))


def _without_times(head: dict[str, object]) -> dict[str, object]:
    """Return a head without what changes by itself every second."""
    return {name: value for name, value in head.items() if name not in ("view_at", "loads_at", "queue", "routers")}


def _end(client: _Subscriber) -> None:
    """Let a client's stream end before its next message, whatever waits in its queue."""
    while not client.empty():
        client.get_nowait()
    client.put_nowait(None)
