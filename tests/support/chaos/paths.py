"""Real replicas behind a path for each router: an address that only this router's resolver gives for their names.

A path is a server of its own, so that it can refuse, hang, and answer, whatever the others do. All that a server does
not answer is written down as a span in which the path was bad.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from tests.support.chaos.spans import Spans
from tests.support.programs import free_port
from tests.support.replica_server import ReplicaServer

LATE_SECONDS = 0.1
STEP_SECONDS = 0.02


class Path:
    """One router's way to one replica.

    Attributes:
        bad: When it did not answer.
        answered: When it answered a probe.
    """

    def __init__(self, place: int, host: str, port: int) -> None:
        self.place = place
        self.server = ReplicaServer(host, port)
        self.bad = Spans()
        self.answered: list[float] = []
        self._faults: list[str] = []
        self._changing = asyncio.Lock()

    @property
    def host(self) -> str:
        return self.server.host

    async def fail(self, fault: str) -> None:
        """Refuse connections (`refused`) or leave requests unanswered (`hanging`), until the same fault is healed."""
        self._faults.append(fault)
        await self._apply()

    async def heal(self, fault: str) -> None:
        self._faults.remove(fault)
        await self._apply()

    async def _apply(self) -> None:
        async with self._changing:
            if self._faults and not self.bad.is_open:
                self.bad.open(time.time())
            self.server.replica(self.host).is_hanging = "hanging" in self._faults
            if "refused" in self._faults:
                await self.server.stop()
            elif self.server.port and not self.server.is_listening:
                await self.server.start()
            if "hanging" not in self._faults:
                # What was asked meanwhile stays unanswered, as if the packets were lost.
                self._abort_unanswered()
            if not self._faults:
                self.bad.close(time.time())

    def _abort_unanswered(self) -> None:
        for connection in tuple(self.server.replica(self.host).open_connections):
            if connection.is_unanswered:
                connection.transport.abort()

    def drop_connections(self) -> None:
        """Close all connections. A new one that has not asked yet may be that of a probe, which fails by it."""
        replica = self.server.replica(self.host)
        if any(not connection.is_counted for connection in replica.open_connections):
            now = time.time()
            self.bad.add(now, now)
        replica.drop_connections()

    @property
    def requests(self) -> int:
        return self.server.replica(self.host).requests


class Paths:
    """All paths between the places of routers and replicas.

    Attributes:
        late: When this process stood still, so that nobody was answered.
    """

    def __init__(self, places: int, replicas: int, port: int) -> None:
        self.port = port
        self.late = Spans()
        self.names = [f"replica-{number}.test" for number in range(1, replicas + 1)]
        self.urls = [f"http://{name}:{port}" for name in self.names]
        self._paths = {
            (place, url): Path(place, f"127.7.{place + 1}.{number}", port)
            for place in range(places)
            for number, url in enumerate(self.urls, 1)
        }

    def __iter__(self) -> Iterator[Path]:
        return iter(self._paths.values())

    def path(self, place: int, url: str) -> Path:
        return self._paths[place, url]

    def addresses(self, place: int) -> dict[str, str]:
        """Return what this router's resolver answers."""
        return {name: self.path(place, url).host for name, url in zip(self.names, self.urls, strict=True)}

    def some(self, places: Iterable[int], urls: Iterable[str]) -> list[Path]:
        wanted = list(urls)
        return [self.path(place, url) for place in places for url in wanted]

    async def watch_loop(self) -> None:
        """Write down when this process stands still, until cancelled."""
        while True:
            before = time.time()
            await asyncio.sleep(STEP_SECONDS)
            if time.time() - before > STEP_SECONDS + LATE_SECONDS:
                self.late.add(before, time.time())


@contextlib.asynccontextmanager
async def running_paths(places: int, replicas: int) -> AsyncIterator[Paths]:
    paths = Paths(places, replicas, free_port())
    async with contextlib.AsyncExitStack() as stack:
        for path in paths:
            await stack.enter_async_context(path.server)
        async with asyncio.TaskGroup() as group:
            watching: asyncio.Task[Any] = group.create_task(paths.watch_loop())
            yield paths
            watching.cancel()
