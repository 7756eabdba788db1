"""WebSocket sessions through routers: each waits for a slot, keeps it for a while, ends, and comes again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.support.failover.replicas import END

SECONDS = 90.0
"""The longest time for anything that a client waits for."""


@dataclass
class Outcomes:
    """What became of the sessions.

    Attributes:
        served: When sessions were served, and by which router.
        refused: When sessions were refused, and why.
        broken: When sessions were broken off after they had been served, and why.
    """

    served: list[tuple[float, int]] = field(default_factory=list)
    refused: list[tuple[float, str]] = field(default_factory=list)
    broken: list[tuple[float, str]] = field(default_factory=list)


class Clients:
    """Clients of the routers, each of one router.

    Attributes:
        outcomes: What became of their sessions.
        waiting: How many sessions wait at present.
    """

    def __init__(self, routers: Sequence[str], *, count: int, lasting_seconds: float, rng: random.Random) -> None:
        self.outcomes = Outcomes()
        self.waiting = 0
        self._routers = routers
        self._count = count
        self._lasting_seconds = lasting_seconds
        self._rng = rng
        self._ending = asyncio.Event()

    def redirect(self, router: int, url: str) -> None:
        """Let new sessions of one router go to another address."""
        self._routers = [url if at == router else each for at, each in enumerate(self._routers)]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep sessions going while this context is open. At its end all sessions end by themselves."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._one_after_another(number % len(self._routers)))
            try:
                yield
            finally:
                self._ending.set()

    async def _one_after_another(self, router: int) -> None:
        while not self._ending.is_set():
            is_served = False
            try:
                async with connect(
                    f"{self._routers[router]}/session",
                    compression=None,
                    proxy=None,
                    ping_interval=None,
                    open_timeout=SECONDS,
                    close_timeout=2,
                ) as session:
                    await self._until_served(session)
                    is_served = True
                    self.outcomes.served.append((time.monotonic(), router))
                    await self._last()
                    await session.send(END)
                    async with asyncio.timeout(SECONDS):
                        await session.recv()
            except (ConnectionClosed, InvalidHandshake, OSError, PermissionError) as error:
                found = self.outcomes.broken if is_served else self.outcomes.refused
                found.append((time.monotonic(), f"router {router}: {error}"))
                await asyncio.sleep(0.1)

    async def _until_served(self, session: ClientConnection) -> None:
        self.waiting += 1
        try:
            while True:
                async with asyncio.timeout(SECONDS):
                    message = str(await session.recv())
                if not message.startswith("{"):
                    return
                frame = json.loads(message)
                if frame["type"] == "error":
                    raise PermissionError(message)
        finally:
            self.waiting -= 1

    async def _last(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._rng.expovariate(1 / self._lasting_seconds)):
                await self._ending.wait()
