"""The first moments of a WebSocket session at a replica that may turn out to be busy.

Some servers accept every WebSocket, and only then say that they are busy: they send nothing but an error, and close
with 1013. FastVideo's server does so while it serves another session. As long as a replica may be about to do that, the
client's messages are passed to it and kept as well, and what it sends is held back. So the session can be taken to
another replica, and the client sees nothing of the first one.
"""

from __future__ import annotations

import asyncio
import json

from shared_registry.proxy import closing, frames
from shared_registry.proxy.closing import Close
from shared_registry.proxy.frames import FrameError, FrameFollower

SECONDS_TO_CLOSE = 1.0
"""How long a replica that has sent an error may take to close the session."""
MOST_HELD = 4096
"""The most bytes that are held back: errors are short."""
MOST_KEPT = 64 * 1024
"""The most bytes of the client's messages that are kept, as of a request that may be sent again."""


class Trial(asyncio.Protocol):
    """The replica's side of a session until it is known whether the replica takes the session.

    Attributes:
        held: What the replica has sent so far.
        is_lost: Whether the connection is lost.
    """

    def __init__(self, *, longest: int) -> None:
        """Prepare a trial; `begin()` starts it.

        Args:
            longest: The most bytes of a message.
        """
        self.held = b""
        self.is_lost = False
        self._longest = longest
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._is_taken: asyncio.Future[bool] = self._loop.create_future()
        self._sent = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, transport: asyncio.Transport, received: bytes) -> None:
        """Begin, with what was received after the handshake."""
        self._transport = transport
        if received:
            self.data_received(received)

    async def is_taken(self) -> bool:
        """Wait until it is known whether the replica takes the session, and return it."""
        return await self._is_taken

    def send(self, data: bytes) -> None:
        """Pass on messages of the client."""
        if not self.is_lost:  # otherwise uvloop raises
            self._transport.write(data)
        self._sent += len(data)
        if self._sent > MOST_KEPT:
            self.decide(is_taken=True)

    def decide(self, *, is_taken: bool) -> None:
        """End the trial, unless it has ended."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._is_taken.done():
            self._is_taken.set_result(is_taken)

    def end(self, close: Close) -> None:
        """Close the session at the replica, and disconnect. Twice is harmless."""
        if not self._transport.is_closing():
            self._transport.write(frames.close_frame(close, is_masked=True))
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Hold data back, and decide if it shows whether the replica is busy."""
        self.held += data
        if self._is_taken.done():
            return
        if (verdict := says_busy(self.held, longest=self._longest)) is not None:
            self.decide(is_taken=not verdict)
        elif self._timer is None:
            self._timer = self._loop.call_later(SECONDS_TO_CLOSE, lambda: self.decide(is_taken=True))

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Decide that the session was taken; the tunnel then finds out that the replica is lost."""
        self.is_lost = True
        self.decide(is_taken=True)


def says_busy(data: bytes, *, longest: int) -> bool | None:
    """Return whether a replica's first bytes say that it is busy; `None` if more bytes are needed to know.

    Args:
        data: What the replica has sent after the handshake.
        longest: The most bytes of a message.
    """
    follower, at = FrameFollower(is_masked=False, longest=longest), 0
    try:
        while (head := frames.read_head(data, at, is_masked=False)) is not None:
            end = at + head.size + head.length
            if head.opcode == frames.CLOSE:
                follower.follow(data[at:])
                return None if follower.close is None else follower.close.code == closing.TRY_LATER
            if head.opcode not in (frames.TEXT, frames.PING, frames.PONG) or not head.is_final or end > MOST_HELD:
                return False
            if len(data) < end:
                return None
            if head.opcode == frames.TEXT and not _is_error(data[at + head.size : end]):
                return False
            at = end
    except FrameError:
        return False
    return None


def _is_error(payload: bytes) -> bool:
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and (document.get("type") in ("error", "session_rejected") or "error" in document)
