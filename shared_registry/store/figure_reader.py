"""Reads the numbers of a namespace that change too often for events, in pieces that keep neither side busy for long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from shared_registry.store.reads import Reads, execute, load_of

SCORES_AT_ONCE = 1000
COUNTS_AT_ONCE = 200


@dataclass(slots=True)
class Figures:
    """Numbers of a namespace. They are read one after the other, and not at one instant.

    Attributes:
        loads: The number of sessions on each replica, by canonical url. A replica whose count is damaged is left out.
        live_routers: How many routers send heartbeats.
        expired_routers: How many routers have stopped to do so, and were not reaped yet.
        queue_depth: How many sessions wait for a slot, over all routers.
        oldest_wait_seconds: How long the first of them has waited; 0 if none waits.
        server_time: The server's clock, in seconds since the epoch.
        asked_at: When it was asked for, and `answered_at` when the answer came, on the caller's clock.
    """

    loads: dict[str, int] = field(default_factory=dict)
    live_routers: int = 0
    expired_routers: int = 0
    queue_depth: int = 0
    oldest_wait_seconds: float = 0.0
    server_time: float = 0.0
    asked_at: float = 0.0
    answered_at: float = 0.0


class FigureReader(Reads):
    """The part of `Reader` for these numbers."""

    async def figures(
        self, weights: dict[str, float], *, now: Callable[[], float], ramping: Collection[str] = ()
    ) -> Figures:
        """Return the numbers of a namespace.

        Args:
            weights: The weight of each replica, by canonical url.
            now: The caller's clock.
            ramping: Canonical urls of the replicas whose score in the ready sets is not their load.
        """
        keys = self._keys
        async with self._channel.bounded():
            pipeline = self._commands.pipeline(transaction=False)
            pipeline.time()
            pipeline.zrange(keys.routers, 0, -1, withscores=True)
            pipeline.zcard(keys.queue)
            pipeline.zrange(keys.queue, 0, 0, withscores=True)
            asked_at = now()
            (seconds, micros), routers, depth, first = await execute(pipeline)
            answered_at = now()
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        live = sum(expires_at_ms > now_ms for _, expires_at_ms in routers)
        oldest = max(0.0, now_ms - float(first[0][1])) / 1000 if first else 0.0
        return Figures(
            await self._loads(weights, ramping),
            live_routers=live,
            expired_routers=len(routers) - live,
            queue_depth=int(depth),
            oldest_wait_seconds=oldest,
            server_time=int(seconds) + int(micros) / 1e6,
            asked_at=asked_at,
            answered_at=answered_at,
        )

    async def _loads(self, weights: dict[str, float], ramping: Collection[str]) -> dict[str, int]:
        loads: dict[str, int] = {}
        for key in (self._keys.ready_primary, self._keys.ready_secondary):
            at = 0
            while page := await self._scores(key, at):
                for url, score in page:
                    if url in weights and url not in ramping:
                        loads[url] = load_of(score, weights[url])
                at += SCORES_AT_ONCE
                await asyncio.sleep(0)
        missing = [url for url in weights if url not in loads]
        for at in range(0, len(missing), COUNTS_AT_ONCE):
            chunk = missing[at : at + COUNTS_AT_ONCE]
            counts = await self._counts(chunk)
            loads |= {
                url: int(count)
                for url, count in zip(chunk, counts, strict=True)
                if isinstance(count, str) and count.isdigit()
            }
            await asyncio.sleep(0)
        return loads

    async def _scores(self, key: str, at: int) -> list[tuple[str, float]]:
        async with self._channel.bounded():
            page: list[tuple[str, float]] = await self._commands.zrange(
                key, at, at + SCORES_AT_ONCE - 1, withscores=True, score_cast_func=float
            )
        return page

    async def _counts(self, urls: Sequence[str]) -> list[object]:
        async with self._channel.bounded():
            pipeline = self._commands.pipeline(transaction=False)
            for url in urls:
                pipeline.hget(self._keys.replica(url), "in_flight")
            replies: list[object] = await pipeline.execute(raise_on_error=False)
        return replies
