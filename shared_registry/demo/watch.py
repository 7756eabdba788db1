"""Watches a router as its clients do: the replicas of new sessions, the frames of open sessions, and its /status."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any, Self

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

PAUSE_SECONDS = 0.05
ANSWER_SECONDS = 5.0
CLOSE_SECONDS = 1.0
SILENT_SECONDS = 1.0
"""The time without a frame after which a session no longer counts as running. Mock replicas send twenty a second."""


class Refused(Exception):
    """A session could not be opened; the message has the reason."""


class Session:
    """One session through a router, whose frames are read while it is open.

    Attributes:
        replica: The name of the session's replica.
        frames: The number of frames received.
        trouble: The reason why the session ended without `close()`; empty if it has not.
    """

    def __init__(self, connection: ClientConnection, replica: str) -> None:
        self.replica = replica
        self.frames = 0
        self.trouble = ""
        self._frame_at = 0.0
        self._connection = connection
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, router_url: str, client_id: str) -> Self:
        """Open a session, and return it after its first frame was received.

        Raises:
            Refused: The router has no replica for the session, or did not respond in time.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS), contextlib.AsyncExitStack() as stack:
                url = f"ws{router_url.removeprefix('http')}/v1/stream"
                connection = await stack.enter_async_context(connect(url, proxy=None, close_timeout=CLOSE_SECONDS))
                await connection.send(json.dumps({"type": "session_init_v2", "client_id": client_id}))
                answer = json.loads(await connection.recv())
                if answer.get("type") != "session_ready":
                    raise Refused(answer.get("code", "no session_ready"))
                session = cls(connection, answer["replica"])
                session._take(await connection.recv())
                stack.pop_all()
        except (OSError, WebSocketException, ValueError) as error:  # a timeout is an OSError
            raise Refused(str(error) or type(error).__name__) from error
        return session

    @property
    def is_receiving(self) -> bool:
        """Whether the latest frame was received a moment ago, and no frame was missing."""
        return not self.trouble and time.monotonic() - self._frame_at < SILENT_SECONDS

    def read_on(self) -> None:
        """Read frames from now on, and check that none is missing."""
        self._reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        """Close the session."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._connection.close()

    async def _read(self) -> None:
        try:
            async for frame in self._connection:
                self._take(frame)
            self.trouble = "closed by the router"
        except (WebSocketException, ValueError) as error:
            self.trouble = str(error)

    def _take(self, frame: str | bytes) -> None:
        number = int.from_bytes(frame[:8], "big") if isinstance(frame, bytes) else None
        if number != self.frames:
            raise ValueError(f"frame {self.frames} expected, got {number}")
        self.frames += 1
        self._frame_at = time.monotonic()


class RouterWatch:
    """Opens sessions through a router, one after the other, and reads its /status, until cancelled.

    Attributes:
        selected: The name of the replica that took the latest session; `None` if it could not be opened.
        sessions: The number of sessions opened.
        failures: The number of sessions that could not be opened.
        trouble: The reason of the last failure.
        status: The latest /status; empty before the first.
    """

    def __init__(self, name: str, url: str) -> None:
        self.selected: str | None = None
        self.sessions = 0
        self.failures = 0
        self.trouble = ""
        self.status: dict[str, Any] = {}
        self._name = name
        self._url = url

    async def run(self) -> None:
        """Watch the router until cancelled."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._open_sessions())
            both.create_task(self._read_status())

    def replica_status(self, name: str) -> str | None:
        """Return the status of a replica in the router's /status; `None` if the replica is not there."""
        return next((one["status"] for one in self.status.get("replicas", []) if one["name"] == name), None)

    async def _open_sessions(self) -> None:
        while True:
            try:
                session = await Session.open(self._url, f"{self._name}-{self.sessions}")
            except Refused as error:
                self.selected, self.trouble = None, str(error)
                self.failures += 1
            else:
                self.selected = session.replica
                self.sessions += 1
                await session.close()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _read_status(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=ANSWER_SECONDS) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError, ValueError):
                    self.status = (await client.get("/status")).json()
                await asyncio.sleep(PAUSE_SECONDS)
