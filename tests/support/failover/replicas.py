"""Replicas that count their own WebSocket sessions, and record when they had more than their capacity."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from tests.support.accepted import stop_listening

END, OVER = "end", "over"


@dataclass(frozen=True)
class Overload:
    """A time for which a replica had more sessions than its capacity, by the monotonic clock."""

    replica: str
    begin: float
    end: float
    sessions: int


class CountingReplica:
    """`async with CountingReplica(3) as replica: replica.url`: answers probes, and counts WebSocket sessions.

    A session ends when its client sends `END`. The replica counts it as ended before it answers `OVER`, so that its
    slot cannot be used by another session before.

    Attributes:
        sessions: The number of sessions at present.
        served: The number of sessions so far.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.sessions = 0
        self.served = 0
        self._overloads: list[Overload] = []
        self._over_since: float | None = None
        self._most = 0
        self._server: Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def overloads(self) -> list[Overload]:
        """Return the times of more sessions than the capacity, one that has not ended included."""
        now = [] if self._over_since is None else [self._overload(time.monotonic())]
        return [*self._overloads, *now]

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._converse, "127.0.0.1", 0, process_request=_answer_probe, compression=None, ping_interval=None
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await stop_listening(self._server.server)
        self._server.close()
        await self._server.wait_closed()

    async def _converse(self, session: ServerConnection) -> None:
        self._count(1)
        is_counted = True
        try:
            await session.send(f"{self.url}")
            async for message in session:
                if message == END:
                    self._count(-1)
                    is_counted = False
                    await session.send(OVER)
        except ConnectionClosed:
            pass
        finally:
            if is_counted:
                self._count(-1)

    def _count(self, change: int) -> None:
        self.sessions += change
        self.served += change > 0
        if self.sessions > self.capacity:
            self._over_since = self._over_since or time.monotonic()
            self._most = max(self._most, self.sessions)
        elif self._over_since is not None:
            self._overloads.append(self._overload(time.monotonic()))
            self._over_since, self._most = None, 0

    def _overload(self, end: float) -> Overload:
        return Overload(self.url, self._over_since or end, end, self._most)


def _answer_probe(connection: ServerConnection, request: Request) -> Response | None:
    return connection.respond(HTTPStatus.OK, "") if request.path == "/health" else None
